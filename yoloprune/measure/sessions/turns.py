"""Networks timed in turn: whatever else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from yoloprune.errors import MeasureError
from yoloprune.measure.sessions.base import Nodes, Profiled, Session

_WARM, _BLOCK = 2, 3
"""Passes of a network before those that count, each time it is its turn; and those that do. Many
short turns even out what a machine does for half a second; a few long ones leave it to one network.
"""
_WINDOW, _STEADY = 4, 0.03
_MOST_PASSES, _MOST_SECONDS = 80, 8.0


@dataclass(slots=True)
class Times:
    """Passes of several networks, timed in turn.

    Attributes:
        ms: by network, milliseconds of every pass that counts.
    """

    ms: list[list[float]] = field(default_factory=list)

    @property
    def usual(self) -> list[float]:
        """Lower quartile of each network: whatever else a machine does only adds to a time."""
        return [lower_quartile(times) for times in self.ms]

    @property
    def spreads(self) -> list[float]:
        """Distance between the quartiles as a share of the median, of each network."""
        return [_spread(times) for times in self.ms]


def usual(times: Mapping[str, Sequence[float]]) -> Nodes:
    """Lower quartile of each node's times."""
    return {name: lower_quartile(found) for name, found in times.items()}


def lower_quartile(times: Sequence[float]) -> float:
    """Of at least two times."""
    return statistics.quantiles(times, n=4, method="inclusive")[0]


def _spread(times: Sequence[float]) -> float:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


def time_in_turn(
    sessions: Sequence[Session],
    rounds: int,
    *,
    block: int = _BLOCK,
    pause: float = 0.0,
    watched: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> Times:
    """Time networks block by block, round after round, so that drift meets all alike.

    Args:
        sessions: to time.
        rounds: turns of each, of ``block`` passes that count after two that do not.
        block: see there.
        pause: seconds before each turn, for the processor to cool and others to be served.
        watched: run as many watched passes in each turn, too, which do not count.
        advance: called with 1 after each turn of one.

    Raises:
        MeasureError: watched passes are wanted of a runtime that does not tell.
    """
    times = Times([[] for _ in sessions])
    for _ in range(rounds):
        for session, found in zip(sessions, times.ms, strict=True):
            if pause:
                time.sleep(pause)
            for _ in range(_WARM):
                session.run()
            found += [session.pass_ms() for _ in range(block)]
            if watched:
                _watch(session, block)
            advance(1)
    return times


def _watch(session: Session, passes: int) -> None:
    if not isinstance(session, Profiled):
        raise MeasureError(f"{session.name}: does not tell where its time goes.")
    for _ in range(passes):
        session.watch()


def settle(session: Session) -> list[float]:
    """Run a network until its times stand still, or for so long that they will not.

    Returns:
        Milliseconds of every pass; the last few are what it takes now.
    """
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _MOST_PASSES and time.perf_counter() - begun < _MOST_SECONDS:
        times.append(session.pass_ms())
        if len(times) >= 2 * _WINDOW:
            now = statistics.median(times[-_WINDOW:])
            before = statistics.median(times[-2 * _WINDOW : -_WINDOW])
            if abs(now / before - 1) < _STEADY:
                break
    return times
