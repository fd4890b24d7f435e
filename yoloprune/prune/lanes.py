"""Forward passes that wait for each other.

A network that is mended layer by layer, each from inputs that are mended already, must stop
before every layer until all pictures have come that far. As one batch that takes the memory of
all pictures at the widest place. Here each handful of pictures, a lane, is a forward pass in a
thread of its own; one of them runs at a time, and each stops where it is told to. A lane can start
late, and then runs through what is mended already, or be given up.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_LARGEST = 16
"""Pictures in one lane."""
_SOON = 10
"""Layers ahead at which a lane that starts must still have room."""


class _GivenUp(BaseException):
    """Ends a forward pass that nobody waits for any more."""


class Lane:
    """One forward pass, which stops at :meth:`stop` until :meth:`go` is called again."""

    def __init__(self, forward: Callable[[], Any]) -> None:
        self._forward = forward
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._given_up = False
        self._trouble: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.at: Hashable | None = None
        """Where it stopped; None before it began and after it ended."""

    @property
    def begun(self) -> bool:
        """Whether it ever ran."""
        return self._thread is not None

    def go(self) -> Hashable | None:
        """Run on to the next stop.

        Returns:
            Where that is; None where the pass has ended.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._turn.release()
        self._back.acquire()
        if self._trouble is not None:
            raise self._trouble
        return self.at

    def stop(self, at: Hashable) -> None:
        """Within the pass: wait here."""
        self.at = at
        self._back.release()
        self._turn.acquire()
        self.at = None
        if self._given_up:
            raise _GivenUp

    def give_up(self) -> None:
        """End a pass that has stopped; what it holds is let go."""
        if self._thread is not None and self.at is not None:
            self._given_up = True
            self._turn.release()
            self._thread.join()
            self.at = None

    def _run(self) -> None:
        try:
            self._forward()
        except _GivenUp:
            pass
        except BaseException as exc:  # it is raised again where the lane was told to go
            self._trouble = exc
        finally:
            self.at = None
            self._back.release()


@dataclass(slots=True)
class Handful:
    """The pictures of one lane.

    Attributes:
        index: number of the lane.
        numbers: of its pictures, among all.
        images: as given, or cut out of these.
        held_out: whether they choose strengths, or are fitted.
        calls: how often its pass has called each layer.
        choices: what the full network chose where a choice depends on the picture.
    """

    index: int
    numbers: list[int]
    images: Tensor
    held_out: bool
    calls: Counter[str] = field(default_factory=Counter)
    choices: list[Tensor] = field(default_factory=list)


def split(count: int, share: float) -> tuple[list[int], list[int]]:
    """Numbers of the pictures to fit and of those held out, evenly spread."""
    held = min(max(1, round(count * share)), count - 1)
    chosen = {int((i + 0.5) * count / held) for i in range(held)}
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def share_out(pictures: Tensor, held_out: float, *, most: int) -> list[Handful]:
    """Share pictures out to lanes, each to be fitted or held out, both kinds from the start.

    Args:
        pictures: ``[N, C, H, W]``, at least 2.
        held_out: share of them that is held out.
        most: pictures that a lane may take.
    """
    kinds = [(numbers, i == 1) for i, numbers in enumerate(split(len(pictures), held_out))]
    size = min(max(most, 1), _LARGEST)
    parts = []
    for numbers, kind in kinds:
        lanes = -(-len(numbers) // size)
        for i in range(lanes):
            chosen = numbers[i * len(numbers) // lanes : (i + 1) * len(numbers) // lanes]
            parts.append((i / lanes, kind, chosen))
    parts.sort(key=lambda part: part[:2])
    return [Handful(i, part[2], pictures[part[2]], part[1]) for i, part in enumerate(parts)]


def crews(room: Sequence[int], lanes: int) -> list[tuple[int, ...]]:
    """Which lanes are on their way at each layer: two at least, more where there is room.

    Args:
        room: how many memory has room for at each layer, in the order of the pass.
        lanes: how many there are.

    Returns:
        Their numbers. One that is not named any more has been given up; one that is named late
        starts there.
    """
    active: list[int] = []
    begun = 0
    found = []
    for i in range(len(room)):
        many = max(2, min(room[i : i + _SOON]))
        del active[many:]
        fresh = range(begun, min(lanes, begun + many - len(active)))
        active += fresh
        begun += len(fresh)
        found.append(tuple(active))
    return found
