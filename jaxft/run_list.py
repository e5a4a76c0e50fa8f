"""The runs in a folder: what became of each, how good it is, and how their configs differ. No JAX in here."""

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxft.config import Config, flags_of
from jaxft.config_file import to_json
from jaxft.data.batches import epoch_ends
from jaxft.records import Record, read_records
from jaxft.run_folder import is_held

MARKS = {"config.json", "classes.json", "metrics.jsonl", "checkpoints", ".lock"}
"""A folder with two of these is a run's: other programs have a config.json, too."""
DEFAULTS = flags_of(json.loads(to_json(Config())))

State = Literal["running", "finished", "stopped", "failed", "damaged"]


class Results(NamedTuple):
    """How far a run came and how good it is."""

    step: int | None = None
    epochs: float | None = None
    best_accuracy: float | None = None
    """On the test set, as `final_accuracy`."""
    final_accuracy: float | None = None
    images_per_second: float | None = None
    """In training: the median."""
    seconds: float | None = None
    """By the wall clock, once it is finished."""


class Listed(NamedTuple):
    """A run, at a glance; None where its folder does not say."""

    path: Path
    state: State
    """stopped: it can be resumed; failed: it ended before anything was saved; damaged: `problem` says what is."""
    when: float
    """It last recorded something then, in seconds since 1970."""
    results: Results
    steps: int | None
    """All that it is to make."""
    saved_step: int | None
    """Of its newest checkpoint."""
    flags: Mapping[str, Any]
    """Its config by flag, as JSON has it: also flags that this jaxft lacks, and the defaults of those that it did."""
    problem: str = ""


def find_runs(top: Path) -> Iterator[Path]:
    """Every run's folder in a folder, however deep, and the folder itself where it is one; links are not followed."""
    for folder, subfolders, files in os.walk(top):
        if len(MARKS.intersection([*subfolders, *files])) >= 2:
            subfolders.clear()
            yield Path(folder)


def read_run(path: Path) -> Listed:
    """What a run's folder says of it, whatever has befallen that."""
    held, problem = is_held(path), ""
    flags: dict[str, Any] = {}
    finished: Results | None = None
    records: list[Record] = []
    try:
        flags = DEFAULTS | flags_of(read_object(path / "config.json"))
        finished = finished_results(path, flags)
        records = read_records(path / "metrics.jsonl") if finished is None else []
    except OSError as error:
        problem = f"{Path(error.filename).name}: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    saved_step = newest_checkpoint(path)
    if held:
        state, problem = "running", ""  # What it has not written yet is not missing.
    elif problem:
        state = "damaged"
    elif finished is not None:
        state = "finished"
    else:
        state = "failed" if saved_step is None else "stopped"
    results = finished or results_of(records)
    steps = results.step if finished else all_steps(records, flags)
    return Listed(path, state, last_change(path), results, steps, saved_step, flags, problem)


def finished_results(path: Path, flags: Mapping[str, Any]) -> Results | None:
    """What summary.json says; None where there is none yet, or the run has been resumed since, with more epochs
    or another patience.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    summary = path / "summary.json"
    if not summary.exists():
        return None
    told = read_object(summary)
    names = ("epochs", "best_accuracy", "final_accuracy", "train_images_per_second", "wall_seconds")
    results = Results(whole(told.get("steps")), *(number(told.get(name)) for name in names))
    patience = whole(told.get("stopped_by_patience"))
    over = patience is not None and patience == flags["--patience"]
    return results if over or (results.epochs or 0) >= (number(flags["--epochs"]) or 0) else None


def results_of(records: Sequence[Record]) -> Results:
    """What summary.json would say by now: `jaxft.report` makes the same of the records."""
    accuracies = [record.accuracy for record in records if record.split == "test"]
    # The first window holds the compilation.
    rates = [record.images_per_second for record in records if record.split == "train"][1:]
    return Results(
        step=records[-1].step if records else None,
        epochs=records[-1].epoch if records else None,
        best_accuracy=max(accuracies, default=None),
        final_accuracy=accuracies[-1] if accuracies else None,
        images_per_second=statistics.median(rates) if rates else None,
    )


def all_steps(records: Sequence[Record], flags: Mapping[str, Any]) -> int | None:
    """The steps of all epochs: a record shows how many images there are. None before there is one."""
    train = next((record for record in reversed(records) if record.split == "train"), None)
    epochs, batch_size, accumulate = (whole(flags.get(f"--{name}")) for name in ("epochs", "batch-size", "accumulate"))
    if train is None or not (train.epoch > 0 and epochs and batch_size and accumulate):
        return None
    images_per_step = batch_size * accumulate
    return epoch_ends(round(train.step * images_per_step / train.epoch), images_per_step, epochs)[-1]


def newest_checkpoint(path: Path) -> int | None:
    """The step of the newest complete checkpoint; what is being written, or damaged, has a longer name."""
    try:
        return max((int(name) for name in os.listdir(path / "checkpoints") if name.isdecimal()), default=None)
    except OSError:
        return None


def last_change(path: Path) -> float:
    """When the run last recorded something, or began; in seconds since 1970."""
    for file in (path / "metrics.jsonl", path / "config.json", path):
        with suppress(OSError):
            return file.stat().st_mtime
    return math.nan


def differing_flags(runs: Sequence[Listed]) -> list[str]:
    """The flags whose values are not the same in all runs, in the config's order."""
    configs = [run.flags for run in runs if run.flags]
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if any(config.get(name) != configs[0].get(name) for config in configs)]


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: no JSON object")
    return found


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def whole(value: Any) -> int | None:
    """A whole number from 1 on, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
