"""The figure of a range test: the loss against the learning rate."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jaxft.fonts import families_for, save_figure
from jaxft.range_test.curve import Curve

BLUE, ORANGE, INK, FAINT = "#0072B2", "#D55E00", "0.25", "0.88"
SIZE, DPI = (6.4, 4.0), 160
HEADROOM = 1.7
"""Of the height between where the smoothed loss begins and its lowest, what is shown: what explodes leaves the panel.
"""


def draw_range_test(curve: Curve, title: str, path: Path) -> None:
    """Each batch's loss, faint, and the smoothed one, on a log axis of rates, with the suggestion marked."""
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    panel = figure.add_subplot()
    prepare(panel, title)
    panel.plot(curve.rates, curve.losses, color=BLUE, alpha=0.3, linewidth=0.9, label="of each batch")
    panel.plot(curve.rates, curve.smoothed, color=BLUE, linewidth=2.2, label="smoothed")
    bottom, top = shown(curve)
    panel.set_ylim(bottom, top)
    panel.set_xlim(curve.rates[0], curve.rates[-1])
    if curve.suggestion is not None and curve.valley is not None:
        panel.axvspan(*curve.valley, color=ORANGE, alpha=0.08, linewidth=0, label="lower half")
        panel.axvline(curve.suggestion, color=ORANGE, linewidth=1.6, linestyle=(0, (5, 1.6)))
        left = np.sqrt(curve.rates[0] * curve.rates[-1]) < curve.suggestion
        panel.annotate(
            f"--lr {curve.suggestion:g}",
            (curve.suggestion, top),
            xytext=(-5 if left else 5, -5),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=ORANGE,
            weight="bold",
            fontsize=10,
        )
    panel.legend(loc="lower left", fontsize=8.5, labelcolor=INK, frameon=True, framealpha=0.85, edgecolor="none")
    save_figure(figure, path, DPI)


def prepare(panel: Axes, title: str) -> None:
    """A panel without its lines."""
    panel.set_title(title, loc="left", fontsize=9.5, color=INK, family=families_for(title), parse_math=False)
    panel.set_xscale("log")
    panel.set_xlabel("learning rate of the body (--lr)", fontsize=9, color=INK)
    panel.set_ylabel("training loss, nats", fontsize=9, color=INK)
    panel.xaxis.set_major_locator(LogLocator(numticks=12))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    panel.tick_params(labelsize=8.5, colors=INK)
    panel.grid(color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        panel.spines[side].set_color(INK)


def shown(curve: Curve) -> tuple[float, float]:
    """The losses between which the panel is."""
    lowest = int(curve.smoothed.argmin())
    low = float(curve.losses.min())
    before = curve.losses[: max(lowest, 1)]
    highest = max(float(np.quantile(before, 0.98)), low + HEADROOM * float(curve.smoothed[: lowest + 1].max() - low))
    return max(low - 0.05 * (highest - low), 0.0), max(highest, low + 1e-3)
