"""Scatter plots whose labels do not lie upon each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yoloprune.report.svg import Drawing, Scale, responsive, text_width, tick_text

if TYPE_CHECKING:
    from markupsafe import Markup

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 26, 44
_LINE = 14
"""Height of a label in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One mark.

    Attributes:
        x, y: where, in the units of the axes.
        kind: classes of the mark: a colour (``c0`` … or ``after`` and the like), and ``hollow``.
        label: what stands beside it, if there is room; may be empty.
        title: what a pointer is told.
        shape: ``disc``, ``diamond`` or ``square``.
        weight: the higher, the earlier it gets room for its label.
        ringed: whether a ring is drawn around it.
    """

    x: float
    y: float
    kind: str
    label: str = ""
    title: str = ""
    shape: str = "disc"
    weight: float = 0.0
    ringed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What a plot is drawn upon.

    Attributes:
        x, y: what the axes are.
        frontier: draw the line above and left of which no point lies.
        log: the x axis by factors, where values are that far apart.
        floor: a value of y with a dashed line.
        zero: let x begin at 0.
    """

    x: str
    y: str
    frontier: bool = False
    log: bool = False
    floor: float | None = None
    zero: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area that two have in common."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def scatter(points: Sequence[Point], axes: Axes, label: str) -> Markup:
    """A scatter plot for wide and for narrow screens.

    Args:
        points: at least one.
        axes: what they are drawn upon.
        label: what it shows, for those who cannot see it.
    """
    return responsive(lambda width: _scatter(points, axes, width), label)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points than which none is both further left and higher, from left to right.

    Heights are told apart by the three digits that are shown of them.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or round(point.y, 3) > round(best[-1].y, 3):
            best.append(point)
    return best


def _scatter(points: Sequence[Point], axes: Axes, width: int) -> Drawing:
    height = 400 if width > 500 else 340
    drawing = Drawing(width, height)
    x, y = _scales(points, axes, width, height)
    _draw_axes(drawing, axes, x, y)
    if axes.floor is not None:
        drawing.line(_LEFT, y(axes.floor), width - _RIGHT, y(axes.floor), "dash")
    if axes.frontier and len(points) > 2:
        drawing.path([(x(p.x), y(p.y)) for p in frontier(points)], "frontier")
    marks = [Box(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in points]
    for point in sorted(points, key=lambda p: p.weight):
        _mark(drawing, point, x(point.x), y(point.y))
    frame = Box(_LEFT - 40, 16, width, height - _BOTTOM + 2)
    for point, at, box in place_labels(points, marks, frame):
        near_x, near_y = min(max(at[0], box.left), box.right), (box.top + box.bottom) / 2
        if abs(near_x - at[0]) + abs(near_y - at[1]) > 22:
            drawing.line(at[0], at[1], near_x, near_y, "leader")
        # Fonts differ in width: what a label has too much must not run into its mark.
        anchor = "start" if box.left > at[0] else "end" if box.right < at[0] else "middle"
        x_of = {"start": box.left, "end": box.right, "middle": (box.left + box.right) / 2}
        drawing.text(x_of[anchor], box.bottom - 3, point.label, "label", anchor)
    return drawing


def _scales(points: Sequence[Point], axes: Axes, width: int, height: int) -> tuple[Scale, Scale]:
    xs, ys = [p.x for p in points], [p.y for p in points]
    if axes.floor is not None:
        ys.append(axes.floor)
    log = axes.log and min(xs) > 0 and max(xs) / min(xs) > 6
    low, high = min(xs), max(xs)
    if log:
        low, high = low / 1.2, high * 1.2
    else:
        room = 0.08 * ((high - low) or abs(high) or 1.0)
        low, high = (0.0 if axes.zero else max(low - room, 0.0)), high + room
    room = max(0.12 * (max(ys) - min(ys)), 0.004)
    bottom, top = max(min(ys) - room, 0.0), max(ys) + room
    return (
        Scale(low=low, high=high, start=_LEFT, end=width - _RIGHT, log=log),
        Scale(low=bottom, high=top, start=height - _BOTTOM, end=_TOP),
    )


def _draw_axes(drawing: Drawing, axes: Axes, x: Scale, y: Scale) -> None:
    ticks = y.ticks(6)
    for tick in ticks:
        drawing.line(x.start, y(tick), x.end, y(tick), "grid")
        drawing.text(x.start - 8, y(tick) + 4, tick_text(tick, ticks), "", "end")
    ticks = x.ticks(10 if drawing.width > 500 else 5)
    for tick in ticks:
        drawing.line(x(tick), y.start, x(tick), y.start + 4, "axis")
        drawing.text(x(tick), y.start + 18, tick_text(tick, ticks), "", "middle")
    drawing.line(x.start, y.start, x.end, y.start, "axis")
    drawing.text(0, 11, axes.y)
    drawing.text(x.start, y.start + 36, axes.x + (", log scale" if x.log else ""))


def _mark(drawing: Drawing, point: Point, x: float, y: float) -> None:
    title = point.title or point.label
    if point.ringed:
        drawing.circle(x, y, 10, "ring")
    kind = f"mark {point.kind}"
    if point.shape == "diamond":
        drawing.path([(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y), (x, y - 7)], kind, title)
    elif point.shape == "square":
        drawing.rect(x - 5, y - 5, 10, 10, kind, title)
    else:
        drawing.circle(x, y, 5.5, kind, title)


def place_labels(
    points: Sequence[Point], marks: Sequence[Box], frame: Box
) -> Iterator[tuple[Point, tuple[float, float], Box]]:
    """Find room for labels, the weightiest first; one that finds none is left out.

    Args:
        points: with their labels.
        marks: where each is drawn.
        frame: within which labels must lie.

    Yields:
        A point, the middle of its mark, and where its label goes.
    """
    taken = list(marks)
    for index in sorted(range(len(points)), key=lambda i: -points[i].weight):
        point, mark = points[index], marks[index]
        middle = (mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2
        if not point.label:
            continue
        for box in _candidates(middle, text_width(point.label)):
            inside = (
                box.left >= frame.left and box.right <= frame.right
                and box.top >= frame.top and box.bottom <= frame.bottom
            )  # fmt: skip
            if inside and not any(box.overlap(other) for other in taken):
                taken.append(box)
                yield point, middle, box
                break


def _candidates(at: tuple[float, float], width: float) -> Iterator[Box]:
    """Places for a label about a mark, the nearest first."""
    x, y = at
    for away in (9, 16, 26, 38, 52, 68, 86, 110):
        tops = (y - _LINE / 2, y - away - _LINE, y + away, y - away, y + away - _LINE)
        lefts = (x + away, x - away - width, x - width / 2)
        places = (
            (lefts[0], tops[0]), (lefts[1], tops[0]), (lefts[2], tops[1]), (lefts[2], tops[2]),
            (lefts[0], tops[3]), (lefts[0], tops[4]), (lefts[1], tops[3]), (lefts[1], tops[4]),
        )  # fmt: skip
        for left, top in places:
            yield Box(left, top, left + width, top + _LINE)
