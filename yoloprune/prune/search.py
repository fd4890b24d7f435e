"""Measured search: which parts of a network can spare more than others.

Even shares for all are a robust start, and no score that was tried gives better ones. Trying does:
a cut with other shares at the same multiply-adds is repaired on some pictures, and what it then
sees on others is compared with what the full network sees there. No labels are needed. It begins
at shares by what every part of the network, pruned alone, loses and costs. From there each part
alone is spared a little, and all at once go where that brought most; then changes are random, of
one or two runs of neighbouring parts at a time; what makes the difference smaller is kept, and
tried again.

What was found must also be nearer on a third part of the pictures, which nothing was chosen by;
else shares stay even.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import DataError
from yoloprune.files import write_bytes
from yoloprune.prune.apart import Seen
from yoloprune.prune.budget import Budget
from yoloprune.prune.course import Course, FloatArray
from yoloprune.prune.fingerprint import fingerprint
from yoloprune.prune.mend import RepairOptions
from yoloprune.prune.score import Scores
from yoloprune.prune.stages import Stage
from yoloprune.prune.start import Way, measured_start, way_for
from yoloprune.prune.trials import Candidate, Trials

LEAST = 8
"""Pictures that a search needs."""
_FIT, _SEE = 3 / 8, 5 / 16
"""Shares of the pictures to repair each trial on, and to compare it on; the rest is kept back."""
_ROWS = 3072


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How long to search.

    Attributes:
        seconds: of trials; it also ends after ``trials``, or ``patience`` of them in vain.
        trials: the most there may be.
        patience: see above.
        seed: of all that is random.
        device: where; None is where the model is.
        log: file that keeps the trials, so that a search that was killed goes on; it is removed
            by who keeps the result.
        progress: called with seconds gone and seconds in all.
    """

    seconds: float
    trials: int = 400
    patience: int = 100
    seed: int = 0
    device: str | None = None
    log: Path | None = None
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShare:
    """What became of a stage.

    Attributes:
        layers: paths of the layers that make its channels.
        channels: units before the cut.
        even: share of them that even shares take.
        found: share that the chosen cut takes.
    """

    layers: tuple[str, ...]
    channels: int
    even: float
    found: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord:
    """What a search came to.

    Attributes:
        parts: of the network that were pruned alone first, to begin by what they lose and cost.
        way: how these were looked at.
        trials: cuts that were repaired and looked at.
        gains: how many of them were the best so far.
        seconds: that it took.
        even: how far the even cut is from the full network on pictures that choose …
        begun: … the cut by what parts lose and cost, None where it was not tried …
        found: … and the best cut.
        even_unseen, found_unseen: the same on pictures that nothing was chosen by.
        kept: whether the best cut is taken; else the even one is.
        stages: share by share.
    """

    parts: int
    way: Way
    trials: int
    gains: int
    seconds: float
    even: float
    begun: float | None
    found: float
    even_unseen: float
    found_unseen: float
    kept: bool
    stages: tuple[StageShare, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """Scores with the shares that were found, and the budget that brings them to their MACs."""

    scores: Scores
    budget: Budget
    record: SearchRecord


def search(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    budget: Budget,
    pictures: Tensor,
    options: SearchOptions,
) -> Searched:
    """Look for shares that keep more of what the network sees, at the MACs of even ones.

    Args:
        model: the traced model. Not modified.
        graph: its channels.
        scores: each unit's place in its group, in (0, 1), such as ``recon`` gives.
        budget: whose even shares set the multiply-adds.
        pictures: ``[N, C, H, W]`` without labels, at least 8: float in 0 … 1, or uint8.
        options: how long.

    Raises:
        DataError: there are too few pictures.
    """
    check_count(len(pictures))
    fit, see, back = _parts(pictures, options.seed)
    how = RepairOptions(rows=_ROWS, seed=options.seed, device=options.device)
    trials = Trials(model, graph, scores, budget, fit, how)
    judges = trials.seen(see), trials.seen(back)
    thin = trials.repaired(trials.even)
    even, even_unseen = (judge.apart(thin) for judge in judges)
    identity = fingerprint(model, pictures, budget.to_dict(), options.seed, scores.values.tobytes())
    log = _Log(options.log, identity)
    start = time.perf_counter() - log.seconds
    began, begin = _begin(trials, scores, judges[0], even, log, options, start)
    walk = Course(len(trials.parts), min(even, begin), options.seed)
    for done, apart in log.trials:
        walk.tell(np.array(done), apart)
    while (gone := time.perf_counter() - start) < options.seconds:
        options.progress(int(gone), int(options.seconds))
        if walk.told >= options.trials or walk.in_vain >= options.patience:
            break
        shifts = walk.propose()
        candidate = trials.candidate(shifts)
        apart = None if candidate is None else judges[0].apart(trials.repaired(candidate))
        walk.tell(shifts, apart)
        log.add(shifts, apart, time.perf_counter() - start)
    best = trials.candidate(walk.best) if walk.gains or began else None
    best = best or trials.even
    moved = best is not trials.even
    found_unseen = judges[1].apart(trials.repaired(best)) if moved else even_unseen
    kept = found_unseen < even_unseen
    chosen = best if kept else trials.even
    record = SearchRecord(
        parts=len(log.curves),
        way=log.way or "none",
        trials=walk.told,
        gains=walk.gains,
        seconds=time.perf_counter() - start,
        even=even,
        begun=None if begin == math.inf else begin,
        found=walk.least,
        even_unseen=even_unseen,
        found_unseen=found_unseen,
        kept=kept,
        stages=_shares(trials, chosen),
    )
    return Searched(scores=chosen.scores, budget=chosen.budget, record=record)


def _begin(
    trials: Trials,
    scores: Scores,
    judge: Seen,
    even: float,
    log: _Log,
    options: SearchOptions,
    start: float,
) -> tuple[bool, float]:
    """Begin by what parts lose and cost, if that is nearer to the full network than even shares.

    Returns:
        Whether it is, and how far that is; infinite where it was not tried.
    """
    if log.way is None:
        log.way = way_for(trials, scores, judge, options.seconds)
    if log.way == "none":
        return False, math.inf

    def told(part: str, lost: float) -> None:
        gone = time.perf_counter() - start
        log.curve(part, lost, gone)
        options.progress(int(gone), int(options.seconds))

    begin = measured_start(trials, scores, judge, log.way, log.curves, told)
    trials.begin_at(begin)
    candidate = trials.candidate(np.zeros(len(trials.parts)))
    apart = math.inf if candidate is None else judge.apart(trials.repaired(candidate))
    if apart >= even:
        trials.begin_at(scores)
    return apart < even, apart


def _shares(trials: Trials, chosen: Candidate) -> tuple[StageShare, ...]:
    """What goes of each stage, evenly and as chosen."""

    def share(stage: Stage, candidate: Candidate) -> float:
        return float(np.isin(stage.units, candidate.remove).mean())

    return tuple(
        StageShare(
            layers=stage.layers,
            channels=int(stage.units.size),
            even=share(stage, trials.even),
            found=share(stage, chosen),
        )
        for stage in trials.stages
    )


def check_count(pictures: int) -> None:
    """Refuse to search on too few pictures.

    Raises:
        DataError: they are.
    """
    if pictures < LEAST:
        raise DataError(
            f"--search: has {pictures} pictures, expected at least {LEAST}, better 64: some to "
            "repair on, some to choose by, some to check with."
        )


class _Log:
    """Trials on disk, each as soon as it is known."""

    def __init__(self, path: Path | None, identity: str) -> None:
        self._path, self._identity = path, identity
        self.trials: list[tuple[list[float], float | None]] = []
        self.curves: dict[str, float] = {}
        self.way: Way | None = None
        self.seconds = 0.0
        if path is None or not path.is_file():
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["identity"] == identity:
                self.trials = [(list(shifts), apart) for shifts, apart in data["trials"]]
                self.curves = {str(part): float(lost) for part, lost in data["curves"].items()}
                self.way, self.seconds = data["way"], float(data["seconds"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # of something else
            self.trials, self.curves, self.way, self.seconds = [], {}, None, 0.0

    def add(self, shifts: FloatArray, apart: float | None, seconds: float) -> None:
        """One more."""
        self.trials.append((shifts.tolist(), apart))
        self._write(seconds)

    def curve(self, part: str, lost: float, seconds: float) -> None:
        """One more part that was pruned alone."""
        self.curves[part] = lost
        self._write(seconds)

    def _write(self, seconds: float) -> None:
        if self._path is not None:
            data = {
                "identity": self._identity, "seconds": seconds, "way": self.way,
                "curves": self.curves, "trials": self.trials,
            }  # fmt: skip
            write_bytes(self._path, (json.dumps(data) + "\n").encode())


def _parts(pictures: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures to repair on, to choose by, and to check with."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(pictures)))
    fit, see = round(_FIT * len(pictures)), round(_SEE * len(pictures))
    parts = order[:fit], order[fit : fit + see], order[fit + see :]
    return pictures[parts[0]], pictures[parts[1]], pictures[parts[2]]
