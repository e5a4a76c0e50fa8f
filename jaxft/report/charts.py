"""Charts as SVG that scales with the page, reads in both themes and prints; report.js shows their values on hover.

What they look like is report.css's: `s0` to `s5` are the series in their order, told apart by colour and dashes.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from jaxft.report.evaluation import Calibration
from jaxft.report.svg import Scale, axes, line, make_scale, tag, words
from jaxft.report.words import number, percent

WIDTH, HEIGHT = 400, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 40
HISTOGRAM = 70
MARKED = 40
"""Points of a series that are drawn one by one; more would run together."""
STOPS = 200
"""Places at which values can be read off; of more, so many evenly spread."""
STYLES = 6


class Series(NamedTuple):
    """A line: points in the order of x, and where there are several runs the band in which they lie."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marked: bool = False
    """Each point is drawn, and not the line alone."""


class Stop(NamedTuple):
    """A place at which values are read off: a heading, rows of (series, name, value), dots of (series, x, y)."""

    x: float
    head: str
    rows: Sequence[tuple[int, str, str]]
    dots: Sequence[tuple[int, float, float]]


def line_chart(
    series: Sequence[Series], title: str, x_label: str, *, y_with: tuple[float, float], is_share: bool = False
) -> Markup:
    """At most six lines over one x axis, from 0 on; `title` is what y is, and its axis holds both of `y_with`."""
    assert len(series) <= STYLES
    ys = np.concatenate([values for each in series for values in (each.y, each.low, each.high) if values is not None])
    x = make_scale(0, max(float(max(each.x)) for each in series), LEFT, WIDTH - RIGHT, tight=True)
    low, high = float(min(*ys, *y_with)), float(max(*ys, *y_with))
    y = make_scale(low, high, HEIGHT - BOTTOM, TOP, is_share=is_share)
    parts = [axes(x, y, y.start, x_label)]
    for i, each in enumerate(series):
        if each.low is not None and each.high is not None:
            there, back = zip(each.x, each.low, strict=True), zip(each.x, each.high, strict=True)
            parts.append(tag("path", cls=f"band s{i}", d=line([*there, *reversed(list(back))], x, y) + "Z"))
        points = list(zip(each.x, each.y, strict=True))
        parts.append(tag("path", cls=f"line s{i}", d=line(points, x, y)))
        if each.marked and len(points) <= MARKED:
            parts += [
                tag(
                    "circle",
                    tag("title", f"{each.name}, {x_label} {number(a)}: {value_words(b, is_share)}"),
                    **{"cls": f"dot s{i}", "cx": x(a), "cy": y(b), "r": 3.2},
                )
                for a, b in points
            ]
    keys = [(tag("path", cls=f"line s{i}", d="M0 5h24"), each.name) for i, each in enumerate(series)]
    keys = keys if len(series) > 1 else []  # The title says what a sole line is.
    return drawn(parts, HEIGHT, title, f"{title} over {x_label}", keys, line_stops(series, x, y, x_label))


def line_stops(series: Sequence[Series], x: Scale, y: Scale, x_label: str) -> Sequence[Stop]:
    """At every point of any series, the nearest point of each."""
    stops = []
    places = np.unique(np.concatenate([each.x for each in series]))
    for place in places[np.unique(np.linspace(0, len(places) - 1, min(len(places), STOPS)).astype(int))].tolist():
        rows, dots = [], []
        for i, each in enumerate(series):
            k = int(np.argmin(np.abs(np.asarray(each.x) - place)))
            told = value_words(each.y[k], y.is_share)
            if each.low is not None and each.high is not None:
                told += f" ({value_words(each.low[k], y.is_share)} to {value_words(each.high[k], y.is_share)})"
            rows.append((i, each.name, told if each.x[k] == place else f"{told} ({x_label} {number(each.x[k])})"))
            dots.append((i, x(each.x[k]), y(each.y[k])))
        stops.append(Stop(x(place), f"{x_label} {number(place)}", rows, dots))
    return stops


def reliability_chart(found: Calibration) -> Markup:
    """Accuracy by confidence in bars, each bin's mean confidence as a tick, and below them the images of each bin."""
    height, ticks = HEIGHT + HISTOGRAM, [0, 0.2, 0.4, 0.6, 0.8, 1]
    x = Scale(0, 1, LEFT, WIDTH - RIGHT, ticks, is_share=True)
    y = Scale(0, 1, HEIGHT - BOTTOM, TOP, ticks, is_share=True)
    floor = height - BOTTOM
    counts = Scale(0, int(found.counts.max()), floor, y.start + 20, ())
    parts = [axes(x, y, floor, "confidence; below, the images of each bin")]
    parts.append(tag("path", cls="ideal", d=line([(0, 0), (1, 1)], x, y)))
    stops = []
    edges, *columns = (column.tolist() for column in found[:4])
    for low, high, count, confidence, accuracy in zip(edges, edges[1:], *columns, strict=False):
        if not count:
            continue
        left, width, middle = x(low) + 1, round(x(high) - x(low) - 2, 1), x((low + high) / 2)
        head, images = f"confidence {percent(low, 0)} to {percent(high, 0)}", f"{count:,}"
        top, bar = y(accuracy), {"x": left, "width": width}
        parts += [
            tag("rect", **bar, cls="bar s0", y=top, height=round(y.start - top, 1)),
            tag("path", cls="gap s1", d=f"M{left} {y(confidence)}h{width}"),
            tag("rect", **bar, cls="count", y=counts(count), height=round(floor - counts(count), 1)),
            words(short(count), middle, counts(count) - 3, cls="small"),
            # A browser without the script shows this instead.
            tag(
                "rect",
                tag("title", f"{head}: {images} images, {percent(accuracy)} right"),
                **bar,
                cls="over",
                y=TOP,
                height=floor - TOP,
            ),
        ]
        rows = [(0, "accuracy", percent(accuracy)), (1, "mean confidence", percent(confidence)), (-1, "images", images)]
        stops.append(Stop(middle, head, rows, [(0, middle, top), (1, middle, y(confidence))]))
    keys = [
        (tag("rect", cls="bar s0", x=4, width=16, height=10), "accuracy"),
        (tag("path", cls="gap s1", d="M2 5h20"), "mean confidence"),
    ]
    return drawn(parts, height, "Accuracy", "Accuracy by confidence, in bins", keys, stops)


def drawn(
    parts: Sequence[str],
    height: int,
    title: str,
    label: str,
    keys: Sequence[tuple[Markup, str]],
    stops: Sequence[Stop],
) -> Markup:
    """The chart with its title and its keys over it, and for report.js what can be read off where."""
    named = [
        tag("span", tag("svg", key, viewBox="0 0 24 10", aria_hidden="true"), name, cls="key") for key, name in keys
    ]
    cursor = tag("path", cls="cursor", d=f"M0 {TOP}V{height - BOTTOM}")
    return tag(
        "div",
        tag("p", tag("b", title), tag("span", *named, cls="keys"), cls="legend"),
        tag("svg", *parts, cursor, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label),
        cls="chart" if keys else "chart alone",
        data_stops=json.dumps(stops),
    )


def value_words(value: float, is_share: bool) -> str:
    """A value as it is read off."""
    return percent(value) if is_share else number(value, 3)


def short(count: int) -> str:
    """A count in few letters, beginning with "12k" for thousands."""
    return str(count) if count < 1000 else f"{count / 1000:.0f}k"
