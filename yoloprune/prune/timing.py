"""A limit to latency, met by what is measured: predict, cut, measure, correct, again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from yoloprune.channels.graph import BoolArray, ChannelGraph
from yoloprune.errors import PlanError
from yoloprune.fetch import cache_folder
from yoloprune.measure.runtimes import RuntimeOptions, version_of
from yoloprune.measure.sessions.table import opened
from yoloprune.measure.sessions.turns import time_in_turn
from yoloprune.prune.budget import Budget
from yoloprune.prune.clock import Clock, LatencyTable
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.profile import ProfileOptions, machine_of, profile, structure_of
from yoloprune.prune.score import Scores

log = logging.getLogger(__name__)

TOLERANCE = 0.03
"""How far below its limit a network may be before it is let grow."""
_TRIES, _ROUNDS = 6, 10
_NOISY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingOptions:
    """Where latency is meant, and by which table it is predicted.

    Attributes:
        runtime: where and how networks run.
        table: file of ``yoloprune profile``; None takes what was measured here before, else
            measures.
        model: file name of the network.
        round_to: widths of the plans are multiples of it.
        progress: called with how many networks are timed, and of how many.
    """

    runtime: RuntimeOptions
    table: Path | None = None
    model: str = ""
    round_to: int = 8
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A cut that was timed.

    Attributes:
        asked: milliseconds that its prediction was held to.
        predicted: milliseconds by the table.
        ms: milliseconds that it took.
        full: what the full network took beside it.
        spread: distance between the quartiles as a share of the median.
    """

    asked: float
    predicted: float
    ms: float
    full: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRecord:
    """How a limit to latency was met.

    Attributes:
        runtime: where it was measured, in words.
        machine: processor or GPU.
        limit: milliseconds; a share of the full network's has become that.
        error: median error of the table's predictions, and the worst, of networks that it did not
            see.
        tries: cuts that were timed, in order; none where the table is of another machine.
        met: whether the last one, which is taken, holds the limit; None where none was timed.
    """

    runtime: str
    machine: str
    limit: float
    error: tuple[float, float]
    tries: tuple[Try, ...]
    met: bool | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def clock_for(model: nn.Module, graph: ChannelGraph, options: TimingOptions) -> Clock:
    """What plans of a network take: by the table that is named, was kept, or is measured now.

    Raises:
        PlanError: the table is of another network, or of another input or runtime.
        MeasureError: the runtime is not there.
    """
    if options.table is not None:
        table = LatencyTable.read(options.table)
        if table.structure != structure_of(model):
            raise PlanError(
                f"--latency-table {options.table}: is of another network ({table.model}). "
                "`yoloprune profile` makes one of this."
            )
        return Clock(graph, table)
    kept = _kept_file(model, options)
    if kept.is_file():
        try:
            return Clock(graph, LatencyTable.read(kept))
        except PlanError as exc:
            log.warning("warning: %s Measuring again.", exc)
    table = profile(
        model, graph,
        ProfileOptions(
            runtime=options.runtime, model=options.model, round_to=options.round_to,
            progress=options.progress,
        ),
    )  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    table.write(kept)
    return Clock(graph, table)


def _kept_file(model: nn.Module, options: TimingOptions) -> Path:
    """Where a table is kept: by device, runtime, version, threads and the network's structure."""
    runtime = options.runtime
    told = (
        structure_of(model), repr(runtime), version_of(runtime.runtime), machine_of(runtime),
        options.round_to,
    )  # fmt: skip
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:24]
    return cache_folder() / "latency" / f"{digest}.json"


def meet(
    model: nn.Module, planner: Planner, scores_at: Callable[[Budget], Scores], budget: Budget
) -> tuple[Budget, LatencyRecord]:
    """Correct a limit to predicted latency until the measured one holds.

    Args:
        model: the full network.
        planner: of it, whose costs have a clock.
        scores_at: gives the scores of its units for a budget.
        budget: with a limit to latency.

    Returns:
        The budget whose plan holds the limit, as far as floors allow, and how it came about.
    """
    assert planner.costs is not None and planner.costs.clock is not None
    assert budget.latency is not None
    clock = planner.costs.clock
    table = clock.table
    errors = table.errors
    share = budget.latency < 1
    told: dict[str, Any] = {
        "runtime": table.runtime.words,
        "machine": table.machine,
        "error": (float(np.median(errors)), errors[-1]),
    }
    if table.machine != machine_of(table.runtime):
        log.warning(
            "warning: --latency-table: was measured on %s. This is another machine: what the "
            "network takes there is predicted, and not measured here.", table.machine,
        )  # fmt: skip
        limit = budget.latency * table.full if share else budget.latency / 1000
        return budget, LatencyRecord(**told, limit=limit, tries=(), met=None)
    tries: list[tuple[Budget, Try]] = []
    everything = np.ones(planner.graph.n_units, dtype=bool)
    asked = budget.latency * clock.ms(everything) if share else budget.latency / 1000
    seen: set[bytes] = set()
    for _ in range(_TRIES):
        now = replace(budget, latency=1000 * asked)
        kept = kept_units(planner.graph, planner.choose(scores_at(now), now))
        if kept.tobytes() in seen:
            break
        seen.add(kept.tobytes())
        found = _timed(model, planner.graph, kept, clock, asked)
        tries.append((now, found))
        ratio = found.ms / _limit(budget, found)
        if 1 - TOLERANCE <= ratio <= 1 or found.predicted > 1.02 * asked:  # or floors hold it
            break
        asked = found.predicted * (1 - TOLERANCE / 3) / ratio
    return _settled(budget, tries, told)


def _limit(budget: Budget, found: Try) -> float:
    """Milliseconds that are allowed, where the full network takes what it took beside a cut."""
    assert budget.latency is not None
    return budget.latency * found.full if budget.latency < 1 else budget.latency / 1000


def _settled(
    budget: Budget, tries: list[tuple[Budget, Try]], told: dict[str, Any]
) -> tuple[Budget, LatencyRecord]:
    """Take the slowest cut that holds the limit; else the quickest there is."""

    def over(found: Try) -> float:
        return found.ms / _limit(budget, found) - 1

    best = min(tries, key=lambda one: (over(one[1]) > 0, abs(over(one[1]))))
    order = [one for one in tries if one is not best] + [best]
    if best[1].spread > _NOISY:
        log.warning(
            "warning: --latency: times vary, the quartiles are %.0f %% of the median apart. Is the "
            "machine busy?", 100 * best[1].spread,
        )  # fmt: skip
    return best[0], LatencyRecord(
        **told,
        limit=_limit(budget, best[1]),
        tries=tuple(found for _, found in order),
        met=over(best[1]) <= 0,
    )


def _timed(
    model: nn.Module, graph: ChannelGraph, kept: BoolArray, clock: Clock, asked: float
) -> Try:
    thin = cut_units(model, graph, np.flatnonzero(~kept))
    with opened([model, thin], clock.table.runtime) as sessions:
        times = time_in_turn(sessions, _ROUNDS)
    full, ms = times.usual
    return Try(
        asked=asked, predicted=clock.ms(kept), ms=ms, full=full, spread=max(times.spreads)
    )  # fmt: skip
