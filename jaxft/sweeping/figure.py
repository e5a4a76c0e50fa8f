"""The figure of a sweep: held-out accuracy against a swept number, with bands over the seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxft.comparison.figure import DPI, INK, STYLES, prepare
from jaxft.config import Config
from jaxft.fonts import families_for, save_figure
from jaxft.sweeping.choice import Ranked
from jaxft.sweeping.grid import Grid, changes_of, in_words

SIZE = (6.4, 4.2)


class Point(NamedTuple):
    """A recipe in the figure."""

    x: float
    ranked: Ranked


def draw_sweep(
    configs: Sequence[Config], grid: Grid, ranked: Sequence[Ranked], title: str, paths: Sequence[Path]
) -> None:
    """A line a combination of the other flags, the best few; the best recipe is marked, those given up are hollow."""
    flag = flag_across(grid)
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    panel = figure.subplots()
    prepare(panel, "held-out accuracy")
    panel.set_xlabel(flag or "", fontsize=9, color=INK)
    values = [value for value in grid.get(flag, ()) if isinstance(value, int | float)]
    if values and min(values) > 0 and max(values) / min(values) >= 10:
        panel.set_xscale("log")
    lines = lines_of(configs, grid, ranked, flag)
    for (name, points), style in zip(list(lines.items())[: len(STYLES)], STYLES, strict=False):
        draw_line(panel, name, points, *style)
    mark_best(panel, configs[ranked[0].recipe], grid, ranked[0], flag)
    figure.suptitle(
        title,
        x=0.02,
        ha="left",
        size=9.5,
        color=INK,
        family=families_for(title),
        parse_math=False,  # pyright: ignore[reportArgumentType]
    )
    if len(lines) > 1:
        more = "" if len(lines) <= len(STYLES) else f" (the best {len(STYLES)} of {len(lines)})"
        panel.legend(
            frameon=False, fontsize=8.5, labelcolor=INK, title=f"with{more}", title_fontsize=8.5, alignment="left"
        )
    for path in paths:
        save_figure(figure, path, DPI)


def flag_across(grid: Grid) -> str:
    """The flag of numbers that goes from left to right: that with the most values."""
    numbers = {flag: len(values) for flag, values in grid.items() if all(isinstance(v, int | float) for v in values)}
    return max(numbers, key=lambda flag: numbers[flag], default="")


def lines_of(configs: Sequence[Config], grid: Grid, ranked: Sequence[Ranked], flag: str) -> Mapping[str, list[Point]]:
    """The recipes by what else they change, those with the best recipe first; each from left to right."""
    lines: dict[str, list[Point]] = {}
    for place, each in enumerate(ranked):
        changes = changes_of(configs[each.recipe], grid)
        x: Any = changes.pop(flag, place)
        lines.setdefault(in_words(changes), []).append(Point(float(x), each))
    return {name: sorted(points, key=lambda point: point.x) for name, points in lines.items()}


def draw_line(panel: Axes, name: str, points: Sequence[Point], colour: str, dash: Any) -> None:
    """One combination of the other flags."""
    whole = [point for point in points if not point.ranked.given_up]
    x, mean = np.array([p.x for p in whole]), np.array([p.ranked.accuracy for p in whole])
    error = np.array([p.ranked.error or 0.0 for p in whole])
    panel.fill_between(x, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    panel.plot(x, mean, color=colour, linestyle=dash, linewidth=1.8, marker="o", markersize=3.6, label=name)
    given_up = [point for point in points if point.ranked.given_up]
    panel.plot(
        [p.x for p in given_up],
        [p.ranked.accuracy for p in given_up],
        color=colour,
        linestyle="",
        marker="o",
        markersize=3.6,
        markerfacecolor="white",
    )


def mark_best(panel: Axes, config: Config, grid: Grid, best: Ranked, flag: str) -> None:
    """A ring around the best recipe, and what it is."""
    x = float(changes_of(config, grid).get(flag, 0))
    panel.plot([x], [best.accuracy], marker="o", markersize=11, markerfacecolor="none", color=INK, linestyle="")
    panel.annotate(
        f"{best.accuracy:.3f}",
        (x, best.accuracy),
        (0, 11),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=INK,
    )
