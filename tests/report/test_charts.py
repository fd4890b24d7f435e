"""Charts, read back from their SVG: sizes of bars, places of labels."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from yoloprune.report.charts import Counts, Layer, histogram, layer_strip
from yoloprune.report.scatter import Axes, Box, Point, frontier, place_labels, scatter
from yoloprune.report.svg import NARROW, WIDE, Scale, tick_text

SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


def drawings(markup: str) -> list[ET.Element]:
    """The wide and the narrow drawing."""
    found = [ET.fromstring(svg) for svg in SVG.findall(markup)]
    assert [float(svg.attrib["viewBox"].split()[2]) for svg in found] == [WIDE, NARROW]
    return found


def shapes(svg: ET.Element, tag: str, kind: str) -> list[dict[str, str]]:
    return [shape.attrib for shape in svg.iter(tag) if kind in shape.attrib["class"].split()]


def heights(svg: ET.Element, kind: str) -> list[float]:
    return [float(rect["height"]) for rect in shapes(svg, "rect", kind)]


def layers(*widths: tuple[int, int]) -> list[Layer]:
    return [Layer(path=f"l{i}", before=old, after=new) for i, (old, new) in enumerate(widths)]


def test_bars_are_as_high_as_the_layers_are_wide() -> None:
    for svg in drawings(layer_strip(layers((64, 32), (32, 32), (16, 4)))):
        before, after = heights(svg, "before"), heights(svg, "after")
        assert np.array(before) / before[0] == pytest.approx([1, 0.5, 0.25], abs=2e-3)
        assert np.array(after) / before[0] == pytest.approx([0.5, 0.5, 0.0625], abs=2e-3)


def test_errors_stand_below_their_layers_on_a_log_scale() -> None:
    first = Layer(path="a", before=8, after=8, error=(1.0, 0.01))
    second = Layer(path="b", before=8, after=8, error=(0.1, 1e-9), off="odd")
    for svg in drawings(layer_strip([first, second])):
        tall, low = heights(svg, "gone"), heights(svg, "after")[1::2]
        assert np.array(low + tall) / tall[0] == pytest.approx([0.5, 0, 1, 0.75], abs=2e-3)
        assert len(shapes(svg, "path", "off")) == 1
        left = [float(rect["x"]) for rect in shapes(svg, "rect", "gone")]
        assert left == [float(rect["x"]) for rect in shapes(svg, "rect", "before")]


def test_hundreds_of_layers_stay_within_a_narrow_drawing() -> None:
    _, svg = drawings(layer_strip(layers(*[(64, 32)] * 400)))
    rects = shapes(svg, "rect", "before")
    assert len(rects) == 400
    assert max(float(r["x"]) + float(r["width"]) for r in rects) <= NARROW
    at = sorted(float(t.attrib["x"]) for t in svg.iter("text") if (t.text or "").isdigit())
    assert min(b - a for a, b in itertools.pairwise(at[at.count(at[0]) :])) > 24


def test_a_histogram_counts_on_a_log_scale_and_leaves_empty_bins_out() -> None:
    edges = [0.0, 1.0, 2.0, 3.0]
    series = [Counts(values=[99, 0, 9], kind="before", name="full")]
    for svg in drawings(histogram(edges, series, "|γ|", mark=1.5)):
        high, low = heights(svg, "before")
        assert low / high == pytest.approx(0.5, abs=5e-3)  # log 10 to log 100
        (mark,) = shapes(svg, "line", "dash")
        (left, _), (right, width) = (
            (float(r["x"]), float(r["width"])) for r in shapes(svg, "rect", "before")
        )
        assert float(mark["x1"]) == pytest.approx((left + right + width) / 2, abs=1)


def test_a_histogram_of_nothing_is_drawn() -> None:
    drawings(histogram([0.0, 1.0], [Counts(values=[], kind="after", name="none")], "score"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 12, 40])
def test_labels_lie_on_nothing(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    clustered = rng.normal(0, 0.03 if seed % 2 else 0.3, (count, 2)) + [5, 0.5]
    points = [
        Point(x=float(x), y=float(y), kind="k0", label=f"network-{i} int8", weight=-i)
        for i, (x, y) in enumerate(clustered)
    ]
    for svg in drawings(scatter(points, Axes(x="ms", y="AP"), "AP over ms")):
        width, height = map(float, svg.attrib["viewBox"].split()[2:])
        marks = [(float(c["cx"]), float(c["cy"])) for c in shapes(svg, "circle", "mark")]
        assert len(marks) == count
        boxes = []
        for text in svg.iter("text"):
            if text.attrib.get("class") == "label":
                x, y = float(text.attrib["x"]), float(text.attrib["y"])
                wide = 6.8 * len(text.text or "")  # of a wide font
                left = {"end": x - wide, "middle": x - wide / 2}.get(
                    text.attrib.get("text-anchor", "start"), x
                )
                boxes.append(Box(left, y - 11, left + wide, y + 3))
        assert len(boxes) >= min(count, 8 if width == WIDE else 2)
        for one, other in itertools.combinations(boxes, 2):
            assert one.overlap(other) == 0
        for box in boxes:
            assert box.left >= 0 and box.right <= width and box.top >= 0 and box.bottom <= height
            assert not any(box.overlap(Box(x - 5, y - 5, x + 5, y + 5)) for x, y in marks)


def test_the_weightiest_label_gets_the_nearest_place() -> None:
    points = [Point(x=0, y=0, kind="k0", label=name, weight=w) for name, w in (("a", 1), ("b", 2))]
    mark = Box(94, 94, 106, 106)
    placed = list(place_labels(points, [mark, mark], Box(0, 0, 200, 200)))
    assert [point.label for point, _, _ in placed] == ["b", "a"]
    assert placed[0][2].left == 109


def test_the_frontier_is_what_nothing_beats() -> None:
    at = [(1, 0.3), (2, 0.2), (2, 0.5), (3, 0.5003), (4, 0.6), (1, 0.1)]
    points = [Point(x=x, y=y, kind="k0") for x, y in at]
    assert [(p.x, p.y) for p in frontier(points)] == [(1, 0.3), (2, 0.5), (4, 0.6)]


def test_far_values_are_drawn_by_factors_near_ones_are_not() -> None:
    def places(*xs: float) -> list[float]:
        points = [Point(x=x, y=0.5, kind="k0") for x in xs]
        svg = drawings(scatter(points, Axes(x="ms", y="AP", log=True), "AP"))[0]
        return [float(c["cx"]) for c in shapes(svg, "circle", "mark")]

    one, ten, hundred = places(1, 10, 100)
    assert ten - one == pytest.approx(hundred - ten, abs=0.2)
    one, two, three = places(1, 2, 3)
    assert two - one == pytest.approx(three - two, abs=0.2)


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 10, False, ["0", "2", "4", "6", "8", "10"]),
        (0.53, 0.58, False, ["0.53", "0.54", "0.55", "0.56", "0.57", "0.58"]),
        (1, 100, True, ["1", "3", "10", "30", "100"]),
        (3, 3, False, ["3"]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, ticks: list[str]) -> None:
    found = Scale(low=low, high=high, start=0, end=100, log=log).ticks(6)
    assert [tick_text(tick, found) for tick in found] == ticks


def test_words_in_a_drawing_are_escaped() -> None:
    point = Point(x=1, y=1, kind="k0", label="<b>&\x1b", title="<i>")
    text = str(scatter([point], Axes(x="<u>", y="AP"), '"><script>'))
    assert not re.search(r"<[bui]>|<script|\x1b", text)
    assert "&lt;b&gt;&amp;\\x1b" in text
