"""What a run says of itself as it goes, the lines of metrics.jsonl. No JAX in here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Record(NamedTuple):
    """A line of metrics.jsonl: means over a window of training steps, or over all test or held-out images."""

    step: int
    """Updates so far."""
    epoch: float
    """Times that the training set has been gone through so far."""
    split: str
    """train, test, or val for what --holdout keeps out of training; an epoch's last record is the test's."""
    loss: float
    """Nats."""
    accuracy: float
    """0 to 1."""
    images_per_second: float
    """Over all devices, in that window."""
    skipped: int = 0
    """Updates that `--on-nonfinite skip` left out; the means are over the others."""


Watcher = Callable[[Record], None]
"""Is told of each record, in process 0."""


def measured(record: Record) -> dict[str, float]:
    """What a record holds besides its place; no update is skipped in an evaluation."""
    left_out = {"step", "split", "skipped" if record.split != "train" else ""}
    return {name: value for name, value in record._asdict().items() if name not in left_out}


def record_line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(record._asdict()) + "\n"


def read_records(path: Path) -> list[Record]:
    """The records in a metrics.jsonl, less a last line that is only half written; what they hold besides is left out.

    Raises:
        ValueError: a line is no record.
        OSError: the file cannot be read.
    """
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for i, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            record = Record(**{name: values[name] for name in Record._fields if name in values})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name}: line {i} is no record ({error})") from None
        for value, (name, kind) in zip(record, Record.__annotations__.items(), strict=True):
            if not isinstance(value, int | float if kind is float else kind):
                raise ValueError(f"{path.name}: line {i} is no record ({name} is {value!r})")
        records.append(record)
    return records
