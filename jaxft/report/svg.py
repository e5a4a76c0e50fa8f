"""What a chart is drawn with: SVG's elements, scales with round ticks, axes. Colours and fonts are report.css's."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from jaxft.report.words import digits_for, number, percent


class Scale(NamedTuple):
    """From values to places on the page, with the values that are written beside the axis."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    is_share: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def words(self, tick: float) -> str:
        """How a tick is written: with as many digits as tell it from the next."""
        step = self.ticks[1] - self.ticks[0]
        return percent(tick, digits_for(100 * step)) if self.is_share else number(tick, digits_for(step))


def make_scale(
    low: float, high: float, start: float, end: float, *, is_share: bool = False, tight: bool = False
) -> Scale:
    """A scale with round ticks that ends at ticks or, with `tight`, at the values themselves."""
    step = round_step((high - low) / 5)
    if tight:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        low, high = first * step, last * step
    return Scale(low, high, start, end, [round(i * step, 10) for i in range(first, last + 1)], is_share)


def round_step(least: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def tag(name: str, *inside: str, **attributes: Any) -> Markup:
    """An element, what is in it escaped unless it is an element; `cls` is its class, and `_` in a name is `-`."""
    told = {"class" if key == "cls" else key.replace("_", "-"): value for key, value in attributes.items()}
    opening = "".join(f' {key}="{escape(value)}"' for key, value in told.items())
    return Markup(f"<{name}{opening}>{''.join(map(escape, inside))}</{name}>")


def words(text: str, x: float, y: float, anchor: str = "middle", cls: str = "") -> Markup:
    """A line of text."""
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, cls=cls)


def line(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """The way through points, as a path's `d`."""
    return "M" + "L".join(f"{x(a):g} {y(b):g}" for a, b in points)


def axes(x: Scale, y: Scale, floor: float, x_label: str) -> Markup:
    """Grid lines with their values, and the x axis, its values written below `floor`."""
    grid = [tag("path", cls="grid", d=f"M{x.start} {y(tick)}H{x.end}") for tick in y.ticks]
    values = [words(y.words(tick), x.start - 7, y(tick) + 4, "end") for tick in y.ticks]
    rules = [tag("path", cls="axis", d=f"M{x.start} {place}H{x.end}") for place in sorted({y.start, floor})]
    ticks = [words(x.words(tick), x(tick), floor + 17) for tick in x.ticks]
    return Markup("").join([*grid, *values, *rules, *ticks, words(x_label, (x.start + x.end) / 2, floor + 35)])
