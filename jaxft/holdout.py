"""What held-out images choose: the epoch whose model is written, and an early end. Pure functions of the records."""

from collections.abc import Sequence

from jaxft.config import Config
from jaxft.course import stages_by_epoch
from jaxft.records import Record


def chosen(records: Sequence[Record], config: Config) -> Record | None:
    """The held-out record of the epoch whose model is written; None where nothing is held out.

    With `--patience` that of the lowest loss, the earliest of equals; without, the last.
    """
    held_out = [record for record in records if record.split == "val"]
    if not held_out:
        return None
    return held_out[-1] if config.regular.patience is None else min(held_out, key=lambda record: record.loss)


def out_of_patience(records: Sequence[Record], config: Config) -> bool:
    """Whether `--patience` epochs in a row have not lowered the held-out loss.

    Only those epochs count in which all trains that is not frozen: with `--head-epochs` and `--unfreeze-epochs` the
    loss may stand still until the next stages join, and they do so on time.
    """
    best, patience = chosen(records, config), config.regular.patience
    if best is None or patience is None:
        return False
    since = max(best.epoch, epochs_in_parts(config))
    return sum(record.split == "val" and record.epoch > since for record in records) >= patience


def stopped_early(records: Sequence[Record], config: Config) -> bool:
    """Whether that ended the run before its last epoch."""
    return out_of_patience(records, config) and records[-1].epoch < config.epochs


def epochs_in_parts(config: Config) -> int:
    """Epochs before the last stages join."""
    return stages_by_epoch(config)[-1][0]


def score(records: Sequence[Record]) -> float:
    """Of the epoch that ended last, what is higher of a better one: minus the held-out loss, or else test accuracy."""
    *before, tested = records
    return -before[-1].loss if before and before[-1].split == "val" else tested.accuracy
