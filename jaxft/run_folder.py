"""A run's folder: config.json, classes.json, metrics.jsonl, and at the end summary.json and curves.png."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jaxft.config import Config, to_json
from jaxft.errors import UserError
from jaxft.loop import Record


def open_run_folder(out: Path | None, name: str, *, resume: bool) -> Path:
    """The folder `out`, made where it is not there; runs/NAME-DATE-TIME when None.

    Raises:
        UserError: it holds another run, cannot be written, or `resume` finds no run in it.
    """
    if resume and out is None:
        raise UserError("--resume needs the run's folder. Pass --out RUN.")
    out = out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    holds_run = (out / "config.json").exists()
    if resume and not holds_run:
        raise UserError(f"--resume: {out} holds no run. Leave --resume out to start one there.")
    if holds_run and not resume:
        raise UserError(f"--out {out} holds a run already. Pass --resume to carry it on, or another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.jsonl").touch()
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}). Pass another --out.") from None
    return out


def describe(out: Path, config: Config, class_names: Sequence[str]) -> None:
    """Write what the run is: config.json and classes.json."""
    (out / "config.json").write_text(to_json(config), encoding="utf-8")
    (out / "classes.json").write_text(json.dumps(class_names, ensure_ascii=False) + "\n", encoding="utf-8")


def read_records(out: Path) -> list[Record]:
    """The records in metrics.jsonl; a last line cut short by a kill is left out."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [Record(**json.loads(line)) for line in lines]


def write_records(out: Path, records: Sequence[Record]) -> None:
    """Replace metrics.jsonl by these records."""
    (out / "metrics.jsonl").write_text("".join(map(record_line, records)), encoding="utf-8")


def append_record(out: Path, record: Record) -> None:
    """Add a line to metrics.jsonl."""
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(record_line(record))


def record_line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(record._asdict()) + "\n"
