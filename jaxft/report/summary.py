"""From a run's records to summary.json."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from jaxft import __version__
from jaxft.parallel import Devices
from jaxft.records import Record


def summarise(records: Sequence[Record], wall_seconds: float, devices: Devices) -> dict[str, Any]:
    """Final and best test accuracy, speed, and where it ran: the content of summary.json."""
    tests = [record for record in records if record.split == "test"]
    # The first window holds the compilation.
    rates = [record.images_per_second for record in records if record.split == "train"][1:]
    best = max(tests, key=lambda record: record.accuracy)
    return {
        "final_accuracy": tests[-1].accuracy,
        "final_loss": tests[-1].loss,
        "best_accuracy": best.accuracy,
        "best_epoch": best.epoch,
        "epochs": tests[-1].epoch,
        "steps": tests[-1].step,
        "train_images_per_second": float(np.median(rates)) if rates else None,
        "wall_seconds": wall_seconds,
        "devices": [device.device_kind for device in devices],
        "versions": {"jaxft": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
    }
