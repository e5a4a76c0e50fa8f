"""A trial is run in its folder and read from it; what has ended already is passed over."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxft.comparison.board import Board
from jaxft.comparison.plan import Trial
from jaxft.config import differences
from jaxft.config_file import read_config
from jaxft.data.sources import Images, Source, Splits, labels_of
from jaxft.errors import UserError
from jaxft.model_file import load
from jaxft.options import Options
from jaxft.processes import told_by_first
from jaxft.records import Record
from jaxft.report.finished import read_run
from jaxft.resume import FREE
from jaxft.session import DivergedError
from jaxft.training import train


class StoppedError(RuntimeError):
    """A signal stopped the run that was going on; it is saved."""


class Outcome(NamedTuple):
    """How a trial went."""

    trial: Trial
    records: Sequence[Record]
    seconds: Sequence[float]
    """Of training and testing up to the end of each record; starting, reading and saving are not in it."""
    wall_seconds: float
    summary: Mapping[str, Any]
    hits: Bool[np.ndarray, " n"]
    """Which test images the model classifies rightly."""


def run_trial(trial: Trial, splits: Splits, options: Options, board: Board) -> str | None:
    """Run a trial that has not ended, in every process; returns why it diverged, if it did.

    Raises:
        StoppedError: by a signal.
        UserError: what the user can mend.
    """
    if told_by_first(has_ended(trial)):
        return None
    options = replace(options, out=trial.folder, resume=True)
    with board.displaying(trial) as display:
        try:
            result = train(trial.name, trial.config, options, display, (display.watch,), splits)
        except DivergedError as error:
            return str(error)
        if result.summary is None or display.asked_to_stop:
            raise StoppedError
    return None


def has_ended(trial: Trial) -> bool:
    """Whether a run is over and its results are written, and it is this one, not one that `--force` changes."""
    if not (trial.folder / "summary.json").exists():
        return False
    return differences(read_config(trial.folder / "config.json"), trial.config).keys() <= FREE


def read_outcome(trial: Trial, splits: Splits) -> Outcome:
    """What a trial that has ended left in its folder, and its model's hits on the test set."""
    run = read_run(trial.folder)
    seconds = clock_of(run.records, trial.config.images_per_step, len(splits.test))
    return Outcome(trial, run.records, seconds, run.summary["wall_seconds"], run.summary, hits(trial, splits.test))


def clock_of(records: Sequence[Record], images_per_step: int, num_test: int) -> list[float]:
    """Seconds of training and testing up to the end of each of a run's records, by their images per second."""
    seconds, step = [], 0
    passed = 0.0
    for record in records:
        images = num_test if record.split == "test" else (record.step - step) * images_per_step
        passed, step = passed + images / record.images_per_second, record.step
        seconds.append(passed)
    return seconds


def hits(trial: Trial, test: Source) -> Bool[np.ndarray, " n"]:
    """Which of the test images that can be decoded a run's model classifies rightly.

    Raises:
        UserError: none can be.
    """
    config = trial.config
    classifier = load(trial.folder, precision=config.precision, devices=config.devices)
    with closing(classifier.stream(Images(test))) as predictions:
        found = [
            prediction.probabilities.argmax() == label
            for prediction, label in zip(predictions, labels_of(test), strict=True)
            if prediction.probabilities is not None
        ]
    if not found:
        raise UserError(f"--data {config.data}: none of the test images can be decoded.")
    return np.array(found)
