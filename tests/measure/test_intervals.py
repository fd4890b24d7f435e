from __future__ import annotations

import numpy as np
import pytest

from yoloprune.measure.intervals import Versus, speedup


def drifting(
    generator: np.random.Generator, turns: int, passes: int, drift: float
) -> tuple[list[float], list[float]]:
    """Times of two equal networks on a machine that is slow now and then, in turns."""
    both: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        slow = 1 + drift * generator.random()
        for times in both:
            times += list(10 * slow * (1 + 0.02 * generator.standard_normal(passes)))
    return both


def test_twins_compare_as_one_in_19_of_20_on_a_machine_that_drifts() -> None:
    generator = np.random.default_rng(1)
    found = [
        speedup(*drifting(generator, turns=12, passes=5, drift=0.3), turns=(12, 12))
        for _ in range(200)
    ]
    assert sum(not one.clear for one in found) >= 0.91 * 200
    assert np.mean([one.ratio for one in found]) == pytest.approx(1, abs=0.005)


def test_intervals_are_no_wider_than_they_must() -> None:
    generator = np.random.default_rng(2)
    found = speedup(*drifting(generator, turns=20, passes=5, drift=0.3), turns=(20, 20))
    assert found.high - found.low < 0.05


def test_a_network_that_is_slower_by_construction_is_found_so() -> None:
    generator = np.random.default_rng(3)
    one, other = drifting(generator, turns=12, passes=5, drift=0.2)
    found = speedup(one, [1.37 * time for time in other], (12, 12))
    assert found.clear
    assert found.ratio == pytest.approx(1 / 1.37, rel=0.02)
    assert found.low < 1 / 1.37 < found.high


def test_turns_that_differ_as_a_whole_are_not_taken_for_many_passes() -> None:
    generator = np.random.default_rng(4)

    def times() -> list[float]:
        slow = np.repeat(1 + 0.3 * generator.random(12), 5)
        return list(10 * slow * (1 + 0.01 * generator.standard_normal(60)))

    pairs = [(times(), times()) for _ in range(100)]
    assert sum(speedup(*pair, (12, 12)).clear for pair in pairs) <= 9
    assert sum(speedup(*pair).clear for pair in pairs) >= 25


def test_few_turns_reach_from_the_slowest_against_the_fastest_to_the_reverse() -> None:
    found = speedup([10.0, 10.2, 12.0, 12.2, 11.0, 11.2], [5.0, 5.0, 6.0, 6.0, 8.0, 8.0], (3, 3))
    assert found.low == pytest.approx(10.1 / 8)
    assert found.high == pytest.approx(12.1 / 5)
    wobbly = speedup([10.0, 10.1, 7.0, 7.1], [8.0, 8.1, 7.5, 7.6], (2, 2))
    assert not wobbly.clear


def test_few_or_unequal_turns_and_single_passes_have_an_interval_too() -> None:
    once = speedup([4.0], [2.0])
    assert (once.ratio, once.low, once.high) == (2.0, 2.0, 2.0)
    unequal = speedup([4.0, 4.1] * 6, [2.0, 2.1] * 8, (6, 8))
    assert unequal.low <= unequal.ratio <= unequal.high
    assert unequal.ratio == pytest.approx(4.05 / 2.05)


def test_words() -> None:
    assert Versus(ratio=1.86, low=1.81, high=1.92).words == "1.86 x (1.81 to 1.92)"
    assert Versus(ratio=1.0, low=0.97, high=1.02).words == "no clear change (0.97 to 1.02)"
