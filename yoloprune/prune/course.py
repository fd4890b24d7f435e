"""Which shares a search tries next: first downhill, then at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_MOST_SHIFT = 0.6
_PROBE = 0.1
"""How much each part alone is spared, to see which way is down."""
_LENGTHS = (0.05, 0.1, 0.2, 0.3, 0.4)
"""Of the largest shift, in turn, as long as it goes down."""


class Course:
    """A :class:`Descent`, and from where it ends a :class:`Walk`.

    What is proposed depends on the seed and on what was told, and on nothing else: a search whose
    trials are told again goes on as if it had not been interrupted.

    Attributes:
        told: trials so far.
        gains: how many of them were the best so far.
        in_vain: how many of the walk came after the last one that was.
    """

    def __init__(self, parts: int, start: float, seed: int) -> None:
        self._now: Descent | Walk = Descent(parts, start)
        self._seed = seed
        self.told = self.gains = self.in_vain = 0

    @property
    def best(self) -> FloatArray:
        """Float64 ``[parts]``, shifts of the best trial so far."""
        return self._now.best

    @property
    def least(self) -> float:
        """Its distance."""
        return self._now.least

    def propose(self) -> FloatArray:
        """The next shifts to try."""
        return self._now.propose()

    def tell(self, shifts: FloatArray, apart: float | None) -> None:
        """How far a trial is from the full network; None for one that cannot be."""
        before, walks = self._now.least, isinstance(self._now, Walk)
        self.told += 1
        self._now.tell(shifts, apart)
        gained = self._now.least < before
        self.gains += gained
        self.in_vain = 0 if gained else self.in_vain + walks
        if isinstance(self._now, Descent) and self._now.over:
            self._now = Walk(self._now.best, self._now.least, self._seed)


class Descent:
    """Each part alone is spared a little; then all at once go where that brought most.

    Attributes:
        best: as in :class:`Course`.
        least: as there.
        over: whether there is nothing more to try.
    """

    def __init__(self, parts: int, start: float) -> None:
        self.best: FloatArray = np.zeros(parts)
        self.least = self._start = self._last = start
        self.over = not parts
        self._slope = np.zeros(parts)
        self._told = 0

    def propose(self) -> FloatArray:
        """The next shifts to try."""
        parts = self._slope.size
        if self._told < parts:
            made = np.zeros(parts)
            made[self._told] = _PROBE
            return made
        length = _LENGTHS[self._told - parts]
        steepest = max(float(np.abs(self._slope).max()), 1e-12)
        return _bounded(-length * self._slope / steepest)

    def tell(self, shifts: FloatArray, apart: float | None) -> None:
        """As :meth:`Course.tell`."""
        parts = self._slope.size
        if apart is not None and apart < self.least:
            self.best, self.least = shifts, apart
        if self._told < parts:
            self._slope[self._told] = 0.0 if apart is None else apart - self._start
        elif apart is None or apart > self._last:
            self.over = True
        else:
            self._last = apart
        self._told += 1
        self.over |= self._told == parts + len(_LENGTHS)


class Walk:
    """Random changes of one or two runs of neighbouring parts, of which the good ones stay.

    Attributes:
        best: as in :class:`Course`.
        least: as there.
    """

    def __init__(self, best: FloatArray, least: float, seed: int) -> None:
        self.best, self.least = best, least
        self._seed, self._told = seed, 0
        self._step = 0.15
        self._again: FloatArray | None = None

    def propose(self) -> FloatArray:
        """The next shifts to try."""
        random = np.random.default_rng([self._seed, self._told])
        change = self._again
        if change is None:
            change = np.zeros_like(self.best)
            for _ in range(int(random.integers(1, 3))):
                wide = int(random.integers(1, max(2, change.size // 2)))
                first = int(random.integers(0, change.size - wide + 1))
                change[first : first + wide] += random.normal() * self._step
        return _bounded(self.best + change)

    def tell(self, shifts: FloatArray, apart: float | None) -> None:
        """As :meth:`Course.tell`."""
        self._told += 1
        if apart is not None and apart < self.least:
            self._again = shifts - self.best
            self.best, self.least = shifts, apart
            self._step = min(1.2 * self._step, 0.35)
        else:
            self._again = None
            self._step = max(0.96 * self._step, 0.04)


def _bounded(shifts: FloatArray) -> FloatArray:
    made = np.clip(shifts, -_MOST_SHIFT, _MOST_SHIFT)
    return np.asarray(made - made.mean())
