"""The chapter's figure for several arms: training loss, training accuracy and test accuracy over epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxft.comparison.results import ArmResult, Curve, Spread
from jaxft.fonts import families_for, save_figure

# Okabe and Ito's colours, which the colour-blind tell apart; the dashes do it in grey.
STYLES: Sequence[tuple[str, Any]] = (
    ("#0072B2", "-"),
    ("#D55E00", (0, (5, 1.6))),
    ("#009E73", (0, (1.2, 1.2))),
    ("#CC79A7", (0, (5, 1.4, 1.2, 1.4))),
    ("#A67C00", (0, (8, 2))),
    ("#56B4E9", (0, (3, 1, 1, 1, 1, 1))),
)
PANELS = ("train loss", "train accuracy", "test accuracy")
INK, FAINT = "0.25", "0.88"
SIZE = (9.6, 3.5)
DPI = 160
LEGEND_COLUMNS = 4
MARKED = 20
"""Points at most that are drawn as dots too."""
SPIKE = 3.0
"""A loss more than so many times the largest median of a line leaves the panel."""


def draw_comparison(arms: Sequence[ArmResult], title: str, paths: Sequence[Path]) -> None:
    """A panel a curve and a line an arm, with a band of one standard error to each side; written to each path."""
    arms = [arm for arm in arms if arm.curves]
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.03)
    figure = Figure(figsize=SIZE, layout=layout, facecolor="white")
    panels = dict(zip(PANELS, figure.subplots(1, len(PANELS)), strict=True))
    for name, panel in panels.items():
        prepare(panel, name)
        for arm, style in zip(arms, STYLES, strict=False):
            draw_curve(panel, arm.curves[name], *style, alpha=0.18 if len(arms) <= 3 else 0.1)
        panel.set_xlim(0, 1.03 * max((arm.curves[name].epochs[-1] for arm in arms), default=1))
    panels["train loss"].set_ylim(0, highest_loss([arm.curves["train loss"] for arm in arms]))
    low = min(panels[name].get_ylim()[0] for name in panels if name.endswith("accuracy"))
    for name in panels:
        if name.endswith("accuracy"):
            panels[name].set_ylim(max(low, 0.0), 1.01)
    add_legend(figure, arms, title)
    for path in paths:
        save_figure(figure, path, DPI)


def add_legend(figure: Figure, arms: Sequence[ArmResult], title: str) -> None:
    """The title and, in the order of the arms, what each line is and where it ended."""
    handles = [Line2D([], [], color=colour, linestyle=dash, linewidth=2) for colour, dash in STYLES[: len(arms)]]
    legend = figure.legend(
        handles,
        [f"{arm.name}  {words(arm.figures['final_accuracy'])}" for arm in arms],
        title=title,
        loc="outside upper left",
        ncols=min(max(len(arms), 1), LEGEND_COLUMNS),
        alignment="left",
        frameon=False,
        handlelength=2.6,
        fontsize=9,
        labelcolor=INK,
    )
    legend.get_title().set(family=families_for(title), parse_math=False, size=9.5, color=INK)


def prepare(panel: Axes, name: str) -> None:
    """A panel without its lines."""
    panel.set_title(name, loc="left", fontsize=9.5, color=INK, weight="bold")
    panel.set_xlabel("epoch", fontsize=9, color=INK)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    panel.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    panel.tick_params(labelsize=8.5, colors=INK, length=0)
    panel.grid(axis="y", color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(INK)


def draw_curve(panel: Axes, curve: Curve, colour: str, dash: Any, alpha: float) -> None:
    """An arm's line in a panel."""
    mean = np.array(curve.mean)
    if curve.error is not None:
        error = np.array(curve.error)
        panel.fill_between(curve.epochs, mean - error, mean + error, color=colour, alpha=alpha, linewidth=0)
    marker = "o" if len(mean) <= MARKED else ""
    panel.plot(curve.epochs, mean, color=colour, linestyle=dash, linewidth=1.8, marker=marker, markersize=3.6)


def highest_loss(curves: Sequence[Curve]) -> float:
    """The top of the panel of losses: a spike leaves it."""
    highest = max((max(curve.mean) for curve in curves), default=1.0)
    usual = max((float(np.median(curve.mean)) for curve in curves), default=1.0)
    return 1.06 * min(highest, SPIKE * usual)


def words(spread: Spread) -> str:
    """A mean with its standard error where there is one."""
    return f"{spread.mean:.3f}" + ("" if spread.error is None else f" ± {spread.error:.3f}")
