"""The chapter's figure of a run, curves.png."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.fonts import families_for, save_figure
from jaxft.records import Record


def draw_curves(records: Sequence[Record], path: Path, title: str) -> None:
    """The chapter's figure: training loss, training accuracy and test accuracy over epochs; and what is held out."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for split, field, label, style in (
        ("train", "loss", "train loss", "-"),
        ("train", "accuracy", "train accuracy", "--"),
        ("test", "accuracy", "test accuracy", "o-."),
        ("val", "loss", "held-out loss", "s-"),
        ("val", "accuracy", "held-out accuracy", "s:"),
    ):
        chosen = [record for record in records if record.split == split]
        if split == "val" and not chosen:
            continue
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
