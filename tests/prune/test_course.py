"""Which shares a search tries next."""

from __future__ import annotations

import numpy as np
import pytest

from yoloprune.prune.course import Course, Descent, FloatArray, Walk


def valley(shifts: FloatArray) -> float:
    """Least at (.2, -.2, 0, 0)."""
    return float(np.square(shifts - np.array([0.2, -0.2, 0.0, 0.0])).sum())


def test_a_descent_looks_at_each_part_and_goes_down() -> None:
    descent = Descent(4, valley(np.zeros(4)))
    tried = []
    while not descent.over:
        tried.append(descent.propose())
        descent.tell(tried[-1], valley(tried[-1]))
    for i in range(4):
        np.testing.assert_array_equal(tried[i], 0.1 * np.eye(4)[i])
    way = tried[4] / 0.05
    assert way[0] > 0.4 and way[1] < -0.4 and abs(way.mean()) < 1e-12
    assert [abs(t[1]).round(3) for t in tried[5:]] == sorted(abs(t[1]).round(3) for t in tried[5:])
    assert valley(tried[-1]) > descent.least  # the last was one too far
    assert descent.least == min(map(valley, tried)) < 0.3 * valley(np.zeros(4))
    np.testing.assert_array_equal(descent.best, min(tried, key=valley))


def test_a_descent_ends_where_nothing_can_be() -> None:
    descent = Descent(2, 1.0)
    for _ in range(3):
        assert not descent.over
        descent.tell(descent.propose(), None)
    assert descent.over and descent.least == 1.0
    assert Descent(0, 1.0).over


def test_a_course_walks_on_from_where_the_descent_ends() -> None:
    course = Course(4, valley(np.zeros(4)), seed=0)
    seen = []
    for _ in range(60):
        shifts = course.propose()
        seen.append(valley(shifts))
        course.tell(shifts, seen[-1])
        assert course.least == pytest.approx(min(*seen, valley(np.zeros(4))))
    assert course.told == 60
    assert valley(course.best) == course.least < 0.01
    better = [value < min([valley(np.zeros(4)), *seen[:i]]) for i, value in enumerate(seen)]
    assert course.gains == sum(better)
    assert course.in_vain == 59 - max(np.flatnonzero(better))


def test_proposals_depend_on_the_seed_and_what_was_told_alone() -> None:
    first, second, other = (Walk(np.zeros(9), 1.0, seed=s) for s in (3, 3, 4))
    for apart in (1.9, None, 1.95, 0.8):
        shifts = first.propose()
        assert np.array_equal(shifts, first.propose())
        assert np.array_equal(shifts, second.propose())
        assert not np.array_equal(shifts, other.propose())
        assert abs(shifts.mean()) < 1e-12
        for walk in (first, second, other):
            walk.tell(shifts, apart)
    assert first.least == 0.8


def test_what_was_good_is_tried_once_more() -> None:
    walk = Walk(np.zeros(5), 1.0, seed=0)
    shifts = walk.propose()
    walk.tell(shifts, 0.5)
    np.testing.assert_allclose(walk.propose(), 2 * shifts)
