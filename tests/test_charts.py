"""Charts: the values are where the axes say, and text is text."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxft.report.charts import STOPS, Series, line_chart, reliability_chart
from jaxft.report.evaluation import calibration
from jaxft.report.svg import make_scale, round_step, tag


def parsed(chart):
    """A chart's elements, which are XML too."""
    return ElementTree.fromstring(chart)


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?[\d.]+", text)]


def points(element) -> np.ndarray:
    """The corners of a path."""
    return np.array(numbers(element.get("d"))).reshape(-1, 2)


def by_class(root, name: str):
    return [element for element in root.iter() if (element.get("class") or "").split()[:1] == [name]]


def axis(root, anchor: str, coordinate: str) -> tuple[list[float], list[float]]:
    """What is written along an axis, and where."""
    texts = [text for text in root.iter("text") if text.get("text-anchor") == anchor and re.search(r"\d", text.text)]
    return [numbers(text.text)[0] for text in texts], [float(text.get(coordinate)) for text in texts]


def test_points_lie_where_the_axes_say():
    x, y = [0.5, 1.0, 2.5, 4.0], [0.31, 0.4, 0.75, 0.9]
    root = parsed(line_chart([Series("test", x, y, marked=True)], "Accuracy", "epoch", y_with=(0.9, 1), is_share=True))
    ticks, places = axis(root, "middle", "x")
    across = np.interp(x, ticks, places)
    shares, heights = axis(root, "end", "y")
    # The words stand 4 below their line.
    up = np.interp(np.array(y) * 100, shares, np.array(heights) - 4)
    (line,) = by_class(root.findall("svg")[-1], "line")
    np.testing.assert_allclose(points(line), np.stack([across, up], 1), atol=0.06)
    dots = by_class(root, "dot")
    np.testing.assert_allclose([[float(d.get("cx")), float(d.get("cy"))] for d in dots], points(line))
    assert dots[2].find("title").text == "test, epoch 2.5: 75.0\u00a0%"
    assert ticks == [0, 1, 2, 3, 4]
    assert shares == [20, 40, 60, 80, 100]


def test_a_band_goes_there_and_back():
    x, y, low, high = [1.0, 2.0], [0.5, 0.6], [0.4, 0.5], [0.7, 0.8]
    chart = line_chart([Series("a", x, y, low, high), Series("b", [2.0], [0.3])], "Loss", "epoch", y_with=(0, 1))
    root = parsed(chart)
    (band,) = by_class(root, "band")
    assert band.get("class") == "band s0"
    corners = points(band)
    assert corners[:, 0].tolist() == [corners[0, 0], corners[1, 0], corners[1, 0], corners[0, 0]]
    assert (corners[:2, 1] > corners[3:1:-1, 1]).all()
    assert json.loads(root.get("data-stops"))[1][1:3] == [
        "epoch 2",
        [[0, "a", "0.600 (0.500 to 0.800)"], [1, "b", "0.300"]],
    ]


def test_what_is_read_off_is_the_nearest_point_of_each():
    train = Series("train", [0.4, 0.8, 1.2], [0.1, 0.2, 0.3])
    root = parsed(line_chart([train, Series("test", [1.0], [0.25])], "Loss", "epoch", y_with=(0, 1)))
    stops = json.loads(root.get("data-stops"))
    assert [head for _, head, _, _ in stops] == ["epoch 0.4", "epoch 0.8", "epoch 1", "epoch 1.2"]
    assert stops[1][2] == [[0, "train", "0.200"], [1, "test", "0.250 (epoch 1)"]]
    drawn = {tuple(point) for line in by_class(root.findall("svg")[-1], "line") for point in points(line)}
    assert {(x, y) for _, _, _, dots in stops for _, x, y in dots} == drawn


def test_a_long_run_stays_small():
    x = np.arange(1, 5001) / 5
    chart = line_chart([Series("a", x.tolist(), (1 / x).tolist(), marked=True)], "Loss", "epoch", y_with=(0, 1))
    assert len(json.loads(parsed(chart).get("data-stops"))) == STOPS
    assert not by_class(parsed(chart), "dot")
    assert len(chart) < 100_000


def test_bars_are_as_high_as_the_bins_are_right():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 400)
    labels = (rng.random(400) > confidence).astype(np.int32)
    found = calibration(np.stack([confidence, 1 - confidence], 1), labels)
    root = parsed(reliability_chart(found))
    svg = root.findall("svg")[-1]
    shares, heights = axis(svg, "end", "y")
    tops = np.array([float(bar.get("y")) for bar in by_class(svg, "bar")])
    accuracy = np.interp(tops, np.array(heights[::-1]) - 4, np.array(shares[::-1]) / 100)
    filled = found.counts > 0
    np.testing.assert_allclose(accuracy, found.accuracy[filled], atol=0.001)
    ticks = np.array([numbers(gap.get("d"))[1] for gap in by_class(svg, "gap")])
    sure = np.interp(ticks, np.array(heights[::-1]) - 4, np.array(shares[::-1]) / 100)
    np.testing.assert_allclose(sure, found.confidence[filled], atol=0.001)
    tall = np.array([float(bar.get("height")) for bar in by_class(svg, "count")])
    np.testing.assert_allclose(tall / tall.max(), found.counts[filled] / found.counts.max(), atol=0.01)
    assert [int(text.text) for text in by_class(svg, "small")] == found.counts[filled].tolist()


def test_text_cannot_become_markup():
    name = """</svg><script>alert('"')</script>"""
    root = parsed(line_chart([Series(name, [1.0], [1.0], marked=True)], name, name, y_with=(0, 1)))
    assert not list(root.iter("script"))
    assert root.find("p/b").text == name
    assert json.loads(root.get("data-stops"))[0][2][0][1] == name
    assert tag("b", "<i>", data_x='"') == '<b data-x="&#34;">&lt;i&gt;</b>'


@pytest.mark.parametrize(
    ("low", "high", "ticks", "words"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.003, 0.0092, [0.002, 0.004, 0.006, 0.008, 0.01], ["0.002", "0.004", "0.006", "0.008", "0.010"]),
        (0, 4712, [0, 1000, 2000, 3000, 4000, 5000], ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]),
    ],
)
def test_ticks_are_round(low, high, ticks, words):
    scale = make_scale(low, high, 0, 100)
    assert scale.ticks == ticks
    assert [scale.words(tick) for tick in ticks] == words
    assert scale(ticks[0]) == 0
    assert scale(ticks[-1]) == 100
    assert make_scale(0, 3.02, 0, 302, tight=True).ticks == [0, 1, 2, 3]


def test_a_step_is_one_two_or_five():
    found = [round_step(least) for least in (0.9, 1, 1.1, 2.1, 5.1, 0.004)]
    assert found == pytest.approx([1, 1, 2, 5, 10, 0.005])
