"""A trial is run in its folders and read from them; what has ended already is passed over."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxft.comparison.board import Board
from jaxft.comparison.plan import Part, Trial
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
    """How a trial went, its runs' records joined to one curve."""

    trial: Trial
    records: Sequence[Record]
    seconds: Sequence[float]
    """Of training and testing up to the end of each record; starting, reading and saving are not in it."""
    wall_seconds: float
    summary: Mapping[str, Any]
    """Of the last run."""
    hits: Bool[np.ndarray, " n"]
    """Which test images the model classifies rightly."""


def run_trial(trial: Trial, splits: Splits, options: Options, board: Board) -> str | None:
    """Run what has not ended of a trial, in every process; returns why it diverged, if it did.

    Raises:
        StoppedError: by a signal.
        UserError: what the user can mend.
    """
    before = 0
    for part in trial.parts:
        if not told_by_first(has_ended(part)):
            with board.displaying(part, before) as display:
                try:
                    options = replace(options, out=part.folder, resume=True)
                    result = train(trial.name, part.config, options, display, (display.watch,), splits)
                except DivergedError as error:
                    return str(error)
                if result.summary is None or display.asked_to_stop:
                    raise StoppedError
        before += part.config.epochs
    return None


def has_ended(part: Part) -> bool:
    """Whether a run is over and its results are written, and it is this one, not one that `--force` changes."""
    config, folder, follows = part
    if not (folder / "summary.json").exists():
        return False
    # The folder may have been moved, and with it the model that the run started from.
    free = FREE | {"--weights"} if follows else FREE
    return differences(read_config(folder / "config.json"), config).keys() <= free


def read_outcome(trial: Trial, splits: Splits) -> Outcome:
    """What a trial that has ended left in its folders, and its model's hits on the test set."""
    records: list[Record] = []
    seconds: list[float] = []
    wall_seconds, summary = 0.0, {}
    for part in trial.parts:
        run = read_run(part.folder)
        own, summary = run.records, run.summary
        step, epoch, clock = (records[-1].step, records[-1].epoch, seconds[-1]) if records else (0, 0.0, 0.0)
        seconds += [clock + passed for passed in clock_of(own, part.config.images_per_step, len(splits.test))]
        records += [record._replace(step=step + record.step, epoch=epoch + record.epoch) for record in own]
        wall_seconds += summary["wall_seconds"]
    return Outcome(trial, records, seconds, wall_seconds, summary, hits(trial.parts[-1], splits.test))


def clock_of(records: Sequence[Record], images_per_step: int, num_test: int) -> list[float]:
    """Seconds of training and testing up to the end of each of a run's records, by their images per second."""
    seconds, step = [], 0
    passed = 0.0
    for record in records:
        images = num_test if record.split == "test" else (record.step - step) * images_per_step
        passed, step = passed + images / record.images_per_second, record.step
        seconds.append(passed)
    return seconds


def hits(part: Part, test: Source) -> Bool[np.ndarray, " n"]:
    """Which of the test images that can be decoded a run's model classifies rightly.

    Raises:
        UserError: none can be.
    """
    config = part.config
    classifier = load(part.folder, precision=config.precision, devices=config.devices)
    with closing(classifier.stream(Images(test))) as predictions:
        found = [
            prediction.probabilities.argmax() == label
            for prediction, label in zip(predictions, labels_of(test), strict=True)
            if prediction.probabilities is not None
        ]
    if not found:
        raise UserError(f"--data {config.data}: none of the test images can be decoded.")
    return np.array(found)
