"""A run's folder: config.json, classes.json, metrics.jsonl, and at the end summary.json and curves.png."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from jaxft.config import Config, to_json
from jaxft.errors import UserError
from jaxft.loop import Record


def find_run_folder(out: Path | None, name: str, *, resume: bool) -> Path:
    """The folder `out`, or runs/NAME-DATE-TIME when None; nothing is written yet.

    Raises:
        UserError: it holds another run or, with `resume`, none, or one that still lives.
    """
    if out is None:
        if resume:
            raise UserError("--resume needs the run's folder. Pass --out RUN.")
        return _free_name(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    holds_run = (out / "config.json").exists()
    if resume and not holds_run:
        raise UserError(f"--resume: {out} holds no run. Leave --resume out to start one there.")
    if holds_run:
        with held(out):
            pass
    if holds_run and not resume:
        raise UserError(f"--out {out} holds a run already. Pass --resume to carry it on, or another --out.")
    return out


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it; the system lets go of it when this process ends.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a+", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise UserError(
                f"--out {out}: a run is going on there ({holder}). Wait, stop it, or pass another --out."
            ) from None
        with writing(out):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
        try:
            yield
        finally:
            (out / ".lock").unlink(missing_ok=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """A mishap in writing becomes a UserError."""
    try:
        yield
    except OSError as error:
        remedy = "Pass another --out."
        if (out / "config.json").exists():
            remedy = f"Put that right and go on with --resume --out {out}: what is in its checkpoints is good."
        raise UserError(f"--out {out}: cannot be written ({error.strerror}). {remedy}") from None


def describe(out: Path, config: Config, class_names: Sequence[str]) -> None:
    """Write what the run is: config.json and classes.json."""
    replace_text(out / "classes.json", json.dumps(class_names, ensure_ascii=False) + "\n")
    replace_text(out / "config.json", to_json(config))


def write_records(out: Path, records: Sequence[Record]) -> None:
    """Replace metrics.jsonl by these records."""
    replace_text(out / "metrics.jsonl", "".join(map(record_line, records)))


def append_record(out: Path, record: Record) -> None:
    """Add a line to metrics.jsonl."""
    with writing(out), (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(record_line(record))


def record_line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(record._asdict()) + "\n"


def replace_text(path: Path, text: str) -> None:
    """Write a file of the run's folder, whole or not at all."""
    scratch = path.with_name(f".{path.name}")
    with writing(path.parent):
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)


def _free_name(path: Path) -> Path:
    """The path, or with a number behind it where there is one of that name: a clock may be set back."""
    numbered = (path.with_name(f"{path.name}-{i}") for i in range(2, 1000))
    return next(free for free in (path, *numbered) if not free.exists())
