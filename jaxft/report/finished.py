"""A finished run, read from its folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.config import Config
from jaxft.config_file import read_config
from jaxft.errors import UserError
from jaxft.records import Record
from jaxft.run_folder import read_records

SUMMARY = (
    *("final_accuracy", "final_loss", "best_accuracy", "best_epoch", "epochs", "steps", "wall_seconds"),
    *("train_images_per_second", "devices", "versions"),
)


class Finished(NamedTuple):
    """What a run's folder says of it, beside the model."""

    folder: Path
    config: Config
    records: Sequence[Record]
    summary: dict[str, Any]


def read_run(folder: Path) -> Finished:
    """The run in a folder.

    Raises:
        UserError: it has not ended, or its files are not what a run writes.
    """
    config, records = read_config(folder / "config.json"), read_records(folder)
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        lacking = [name for name in SUMMARY if name not in summary]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: no whole run ({error}). Let it end, or pass another run's folder.") from None
    if lacking or not any(record.split == "test" for record in records):
        what = f"summary.json has no {', '.join(lacking)}" if lacking else "metrics.jsonl has no test record"
        raise UserError(f"{folder}: no whole run ({what}). Let it end, or pass another run's folder.")
    return Finished(folder, config, records, summary)
