"""From a run's records to what people read: the summary and the figure."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft import __version__
from jaxft.fonts import families_for, save_figure
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


def draw_curves(records: Sequence[Record], path: Path, title: str) -> None:
    """The chapter's figure: training loss, training accuracy and test accuracy over epochs."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for split, field, label, style in (
        ("train", "loss", "train loss", "-"),
        ("train", "accuracy", "train accuracy", "--"),
        ("test", "accuracy", "test accuracy", "o-."),
    ):
        chosen = [record for record in records if record.split == split]
        epochs = [record.epoch for record in chosen]
        axes.plot(epochs, [getattr(record, field) for record in chosen], style, label=label, markersize=4)
    losses = [record.loss for record in records if record.split == "train"]
    axes.set_title(title, family=families_for(title), parse_math=False)
    axes.set(xlabel="epoch", ylim=(0, max(1.02, min(max(losses, default=0) * 1.05, 3.0))))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path, 144)
