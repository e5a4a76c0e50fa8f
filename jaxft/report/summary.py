"""From a run's records to summary.json."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from jaxft import __version__
from jaxft.config import Config
from jaxft.holdout import chosen, stopped_early
from jaxft.parallel import Devices
from jaxft.records import Record


def summarise(records: Sequence[Record], wall_seconds: float, devices: Devices, config: Config) -> dict[str, Any]:
    """Final and best test accuracy, speed, and where it ran: the content of summary.json.

    What is final is of the model that was written; so are `val_accuracy` and `val_loss`, on what is held out, which are
    there with `--holdout` alone, as is `chosen_epoch`. `stopped_by_patience` is there where that ended the run early.
    """
    tests = [record for record in records if record.split == "test"]
    held_out = chosen(records, config)
    final = tests[-1] if held_out is None else next(each for each in tests if each.step == held_out.step)
    # The first window holds the compilation.
    rates = [record.images_per_second for record in records if record.split == "train"][1:]
    best = max(tests, key=lambda record: record.accuracy)
    return {
        "final_accuracy": final.accuracy,
        "final_loss": final.loss,
        "best_accuracy": best.accuracy,
        "best_epoch": best.epoch,
        **held_out_figures(held_out),
        "epochs": tests[-1].epoch,
        "steps": tests[-1].step,
        **({"stopped_by_patience": config.regular.patience} if stopped_early(records, config) else {}),
        "train_images_per_second": float(np.median(rates)) if rates else None,
        "wall_seconds": wall_seconds,
        "devices": [device.device_kind for device in devices],
        "versions": {"jaxft": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
    }


def held_out_figures(chosen: Record | None) -> dict[str, float]:
    """Of the model that was written, on the held-out images; none where there are none."""
    if chosen is None:
        return {}
    return {"val_accuracy": chosen.accuracy, "val_loss": chosen.loss, "chosen_epoch": chosen.epoch}
