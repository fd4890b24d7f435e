"""The smallest cut that keeps to a bound on what AP may fall by: bisected, each trial measured.

A trial chooses, cuts and repairs as any other cut does, at a share of the multiply-adds, and is
measured as the result is. After seven trials at most the share is known to 1/128 of the full
network's; a cut that comes up again, as rounding makes it, is not measured again.

AP is neither exact nor monotone: on some hundred pictures two cuts of nearly one size may differ
by half a point either way. What is taken is the smallest of the trials that held, which is not
proof that nothing between them would have held or failed. And as it was chosen on these pictures,
its AP there is on the optimistic side.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from yoloprune.errors import MeasureError, PlanError
from yoloprune.files import write_bytes
from yoloprune.measure.images import InputSize
from yoloprune.measure.size import count
from yoloprune.progress import progress
from yoloprune.prune.budget import Budget
from yoloprune.prune.given import Decision
from yoloprune.prune.made import Made
from yoloprune.prune.verdict import FIGURES

log = logging.getLogger(__name__)

TRIALS = 7
_EPS = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One cut.

    Attributes:
        asked: share of the full network's multiply-adds that it was to have at most …
        macs: … and has.
        value: its AP (top-1 of classifiers), in [0, 1].
        drop: how far that is below the full network's.
        held: whether that is within the bound.
        seconds: that the trial took.
        cut: digest of what went; trials of one digest are one cut, measured once.
    """

    asked: float
    macs: float
    value: float
    drop: float
    held: bool
    seconds: float
    cut: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropRecord:
    """What a search for the smallest cut came to.

    Attributes:
        bound: what the figure may fall by.
        figure: ``AP``, or what stands for it: ``top1`` …
        split: of the data set that it was measured on.
        full: of the full network.
        trials: in their order.
        chosen: index of the one that was taken.
    """

    bound: float
    figure: str
    split: str
    full: float
    trials: tuple[Trial, ...]
    chosen: int

    def to_dict(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
        """JSON-able; ``again`` is what the result lost when it was measured anew.

        Args:
            before: what was measured of the full network beside the result.
            after: the same of the result.
        """
        return {**asdict(self), "again": before[self.figure] - after[self.figure]}


@dataclass(frozen=True, slots=True, kw_only=True)
class DropOptions:
    """How to search.

    Attributes:
        budget: with the bound, and what else must hold.
        full_macs: multiply-adds of the full network …
        size: … on an input of this height and width in pixels.
        split: of the data, for people.
        log: file that keeps the trials, so that a search that was killed goes on.
        identity: of all that trials depend on.
        trials: the most there may be; each halves what is open.
    """

    budget: Budget
    full_macs: int
    size: InputSize
    split: str
    log: Path
    identity: str
    trials: int = TRIALS


def smallest_within(
    full: Mapping[str, Any],
    decide: Callable[[Budget], Decision],
    make: Callable[[Decision], Made],
    judge: Callable[[Made], Mapping[str, Any]],
    options: DropOptions,
) -> tuple[Made, DropRecord]:
    """Bisect the multiply-adds that stay.

    Args:
        full: what was measured of the full network.
        decide: chooses what goes.
        make: cuts and repairs.
        judge: measures as ``full`` was measured.
        options: how.

    Returns:
        The smallest cut whose trial held, and the record of all.

    Raises:
        PlanError: none held.
        MeasureError: nothing that was measured is such a figure.
    """
    figure, whole = _figure(full)
    known, trials = _read(options), list[Trial]()
    best: tuple[int, Made | None] | None = None
    low, high = 0.0, _most(options)
    finest = high / 2**options.trials * (1 + _EPS)
    with _said_once(), progress("trials") as advance:
        while high - low > finest:
            advance(len(trials), options.trials)
            share, made, start = (low + high) / 2, None, time.perf_counter()
            trial = known.get(round(share, 9))
            if trial is None:
                decision = decide(_at(options.budget, share))
                trial = next((t for t in trials if t.cut == _digest(decision)), None)
                if trial is None:
                    made = make(decision)
                    value = float(judge(made)[figure])
                    trial = _trial(share, made, value, whole, options, start)
                else:
                    trial = replace(trial, asked=share, seconds=0.0)
            trials.append(trial)
            _write(options, trials)
            log.info("%s", told(trial, len(trials), options, figure))
            if not trial.held:
                low = share
                continue
            if best is None or trial.macs < trials[best[0]].macs:
                best = len(trials) - 1, made
            if trial.macs > share + _EPS:  # floors hold it here: nothing smaller can be made
                break
            high = trial.macs
        if best is None:
            raise PlanError(_none(trials, figure, options))
        chosen, held = best
        # A trial of a run that was killed is made once more, as it was made then.
        result = held or make(decide(_at(options.budget, trials[chosen].asked)))
    assert options.budget.max_drop is not None
    return result, DropRecord(
        bound=options.budget.max_drop,
        figure=figure,
        split=options.split,
        full=whole,
        trials=tuple(trials),
        chosen=chosen,
    )


def _trial(
    share: float, made: Made, value: float, whole: float, options: DropOptions, start: float
) -> Trial:
    bound = options.budget.max_drop
    assert bound is not None
    return Trial(
        asked=share,
        macs=count(made.model, options.size).macs / options.full_macs,
        value=value,
        drop=whole - value,
        held=whole - value <= bound + _EPS,
        seconds=time.perf_counter() - start,
        cut=_digest(made),
    )


def _digest(of: Decision | Made) -> str:
    return hashlib.sha256(repr(sorted(of.plan.layers.items())).encode()).hexdigest()[:16]


def told(trial: Trial, number: int, options: DropOptions, figure: str) -> str:
    """A trial in a line."""
    took = f"{trial.seconds:.0f} s" if trial.seconds else "the same cut as before"
    return (
        f"trial {number} of at most {options.trials}: {trial.macs:.1%} of the multiply-adds, "
        f"{figure} {trial.value:.4f}, {trial.drop:+.4f} lost: "
        f"{'within' if trial.held else 'beyond'} {options.budget.max_drop:g} ({took})"
    )


def _at(budget: Budget, share: float) -> Budget:
    return replace(budget, macs=share)


def _most(options: DropOptions) -> float:
    """Share of the multiply-adds that may stay at most, in (0, 1]."""
    limit = options.budget.macs
    if limit is None:
        return 1.0
    return min(limit if limit < 1 else limit / options.full_macs, 1.0)


def _figure(record: Mapping[str, Any]) -> tuple[str, float]:
    for name in FIGURES:
        if record.get(name) is not None:
            return name, float(record[name])
    raise MeasureError("--max-drop: nothing that is measured of this network is an AP or top-1.")


def _none(trials: list[Trial], figure: str, options: DropOptions) -> str:
    """What to say where no trial held."""
    nearest = min(trials, key=lambda trial: trial.drop)
    return (
        f"--max-drop {options.budget.max_drop:g}: none of {len(trials)} cuts kept to it; the best "
        f"lost {nearest.drop:.4f} of {figure}, at {nearest.macs:.1%} of the multiply-adds. Raise "
        "it, or repair on more pictures, or give --search."
    )


def _read(options: DropOptions) -> dict[float, Trial]:
    """Trials of a run that was killed: share asked → trial."""
    try:
        data = json.loads(options.log.read_text(encoding="utf-8"))
        if data["identity"] != options.identity:
            return {}
        rows = [Trial(**row) for row in data["trials"]]
        return {round(float(row.asked), 9): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is of something else
        return {}


def _write(options: DropOptions, trials: list[Trial]) -> None:
    record = {"identity": options.identity, "trials": [asdict(trial) for trial in trials]}
    write_bytes(options.log, (json.dumps(record, indent=1) + "\n").encode())


class _Once(logging.Filter):
    """Lets a warning through once: every trial would repeat it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        fresh = record.levelno < logging.WARNING or text not in self._seen
        self._seen.add(text)
        return fresh


@contextmanager
def _said_once() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    once = [_Once() for _ in handlers]
    for handler, each in zip(handlers, once, strict=True):
        handler.addFilter(each)
    try:
        yield
    finally:
        for handler, each in zip(handlers, once, strict=True):
            handler.removeFilter(each)
