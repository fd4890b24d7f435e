"""How sure a ratio of two median times is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000
_SHARE = 0.05
_FEW = 4
"""Turns that are too few to draw from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """How many times as fast one row is as another.

    Attributes:
        ratio: median time of the other over its own; above 1 it is the faster one.
        low, high: 95 % interval of it.
    """

    ratio: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 1 out; where it does not, no change was shown."""
        return not self.low <= 1 <= self.high

    @property
    def interval(self) -> str:
        """``95 % interval 0.97 to 1.02``."""
        return f"95 % interval {self.low:.2f} to {self.high:.2f}"

    @property
    def words(self) -> str:
        """``1.86 x (1.81 to 1.92)``, or ``no clear change (0.97 to 1.02)``."""
        said = f"{self.ratio:.2f} x" if self.clear else "no clear change"
        return f"{said} ({self.low:.2f} to {self.high:.2f})"


def speedup(
    before_ms: Sequence[float], after_ms: Sequence[float], turns: tuple[int, int] = (1, 1)
) -> Versus:
    """Ratio of two median times, with its bootstrap interval.

    Passes of one turn share what the machine did meanwhile, so whole turns are drawn, the same
    ones for both sides where both had as many, for turns of both alternate. The quantiles are
    moved outwards by what Student's t asks of so few turns. Of two to four turns the interval is
    from the slowest of the one against the fastest of the other to the reverse; of a single turn
    passes are drawn, as if they knew nothing of each other.

    Args:
        before_ms: times of what is compared with, in order.
        after_ms: times of what is asked about, in order.
        turns: in how many equal parts the times of either side were taken.

    Reference:
        Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), on expanded
        percentile intervals.
    """
    ratio = statistics.median(before_ms) / statistics.median(after_ms)
    if 1 < min(turns) <= _FEW:
        before, after = _turn_medians(before_ms, turns[0]), _turn_medians(after_ms, turns[1])
        return Versus(
            ratio=ratio, low=min(before) / max(after), high=max(before) / min(after)
        )  # fmt: skip
    blocks = [_blocks(before_ms, turns[0]), _blocks(after_ms, turns[1])]
    counts = [len(block) for block in blocks]
    generator = np.random.default_rng(0)
    drawn = [generator.integers(count, size=(_DRAWS, count)) for count in counts]
    if turns[0] == turns[1] > _FEW:
        drawn[1] = drawn[0]
    medians = [
        np.median(block[picks].reshape(_DRAWS, -1), axis=1)
        for block, picks in zip(blocks, drawn, strict=True)
    ]
    tail = _tail(min(counts))
    low, high = np.quantile(medians[0] / medians[1], [tail, 1 - tail])
    return Versus(ratio=ratio, low=float(low), high=float(high))


def _turn_medians(times: Sequence[float], turns: int) -> list[float]:
    size = len(times) // turns
    return [statistics.median(times[i : i + size]) for i in range(0, len(times), size)]


def _blocks(times: Sequence[float], turns: int) -> NDArray[np.float64]:
    """``[turns, passes]``; ``[passes, 1]`` where there are too few turns to draw from."""
    whole = np.asarray(times, dtype=np.float64)
    return whole.reshape(turns if turns > _FEW else len(whole), -1)


@lru_cache
def _tail(count: int) -> float:
    """Share of draws on either side that a 95 % interval of so many turns leaves out."""
    from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped,unused-ignore]

    if count < 2:
        return 0.0
    stretched = math.sqrt(count / (count - 1)) * stdtrit(count - 1, 1 - _SHARE / 2)
    return float(ndtr(-stretched))
