"""Sensitivity measured: one part at a time, in several processes, each result kept at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import IntArray
from yoloprune.channels.trace import trace
from yoloprune.errors import DataError, PlanError
from yoloprune.measure.copies import find_device, float32_copy
from yoloprune.measure.size import count
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import choose_scores
from yoloprune.prune.cost import Costs
from yoloprune.prune.evidence import Lessons
from yoloprune.prune.fingerprint import fingerprint
from yoloprune.prune.judges import Judge, by_data, by_sight
from yoloprune.prune.mend import RepairOptions
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores
from yoloprune.prune.selftest import silenced
from yoloprune.prune.sensitivity import (
    SHARES,
    By,
    Measurement,
    Part,
    Sensitivity,
    measure,
    parts,
    wanted,
)
from yoloprune.prune.trials import Candidate, Trials

LEAST = 4
"""Pictures that repair and a comparison need."""
_FIT = 5 / 8
"""Share of the pictures to repair on where others are to be compared on."""
_ROWS = 3072
_ANY = Budget(percent=0.5)
"""Where only an order within groups is asked for."""


def _silent(done: int, total: int) -> None:
    """No progress to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityOptions:
    """How to measure.

    Attributes:
        file: JSON file of the results; those that it has are not measured again.
        model: file name of the network, kept there.
        shares: of each part that go, in (0, 1).
        data: data set whose AP is measured; None compares detections on the pictures instead.
        split: of the data set.
        pictures: ``[N, C, H, W]`` to repair on, and to compare on; None repairs nothing.
        imgsz: height and width of the input in pixels.
        repair: measure after repair, too, where there are pictures.
        local: repair only the layers that read what went, not all that come after.
        criterion: that ranks channels within a group; None for what suits the network.
        lessons: labelled pictures, for criteria by the loss.
        jobs: processes.
        device: where.
        seed: of the choice of positions.
        progress: called with how many are done, and of how many.
    """

    file: Path
    model: str
    shares: tuple[float, ...] = SHARES
    data: str | None = None
    split: str = "val"
    pictures: Tensor | None = None
    imgsz: tuple[int, int] = (640, 640)
    repair: bool = True
    local: bool = False
    criterion: str | None = None
    lessons: Lessons | None = None
    jobs: int = 1
    device: str = "cpu"
    seed: int = 0
    progress: Callable[[int, int], None] = _silent

    @property
    def by(self) -> By:
        """What is measured."""
        return "sight" if self.data is None else "AP"


def sense(model: nn.Module, options: SensitivityOptions) -> Sensitivity:
    """Measure every part of a network, alone, at every share.

    Args:
        model: a loaded network. Not modified.
        options: how.

    Raises:
        DataError: there are too few pictures, or neither pictures nor data.
        PlanError: the file holds results of something else, or a share is out of range.
    """
    many = 0 if options.pictures is None else len(options.pictures)
    if options.data is None and many < LEAST:
        raise DataError(
            f"sensitivity: has {many} pictures and no data to measure AP on, expected --data or "
            f"at least {LEAST} pictures by --calib, better some dozens."
        )
    for share in options.shares:
        if not 0 < share < 1:
            raise PlanError(f"--shares: must be above 0 and below 1, got {share:g}.")
    bench = _Bench.of(model, options)
    identity = fingerprint(
        model, options.pictures, options.imgsz, options.data, options.split, options.repair,
        options.seed, bench.scores.values.tobytes(), *(["local"] if options.local else []),
    )  # fmt: skip
    found = _begun(options, identity, bench)
    todo = list(wanted(bench.planner.graph, options.shares, found))
    total, order = len(found.measured) + len(todo), _order(bench)
    options.progress(len(found.measured), total)
    with _measuring(bench, options) as results:
        for done, one in enumerate(results(todo), len(found.measured) + 1):
            if one is not None:
                rows = sorted((*found.measured, one), key=lambda m: (order[m.part], m.share))
                found = replace(found, measured=tuple(rows))
                found.write(options.file)
            options.progress(done, total)
    return found


def _begun(options: SensitivityOptions, identity: str, bench: _Bench) -> Sensitivity:
    """What the file has already; else nothing yet."""
    if options.file.is_file():
        found = Sensitivity.read(options.file)
        if found.identity != identity:
            raise PlanError(
                f"{options.file}: holds what was measured of another network, or on other "
                "pictures or data. Name another folder with -o."
            )
        return found
    return Sensitivity(
        model=options.model,
        identity=identity,
        by=options.by,
        full=bench.judge.full,
        criterion=bench.scores.criterion,
    )


def _order(bench: _Bench) -> dict[str, int]:
    return {part.name: i for i, part in enumerate(parts(bench.planner.graph))}


@dataclass(frozen=True, slots=True)
class _Bench:
    """A network, ready to be pruned and looked at part by part."""

    model: nn.Module
    planner: Planner
    costs: Costs
    scores: Scores
    trials: Trials | None
    judge: Judge
    local: bool

    @staticmethod
    def of(model: nn.Module, options: SensitivityOptions, scores: Scores | None = None) -> _Bench:
        """Get ready; ``scores`` where they are known."""
        place = find_device(options.device)
        full = float32_copy(model, place)
        graph = trace(full)
        costs = Costs(full, graph, count(full, options.imgsz))
        pictures = options.pictures
        if scores is None:
            scores = choose_scores(
                full, graph, _ANY, criterion=options.criterion, scope="local",
                pictures=pictures, lessons=options.lessons, device=options.device,
            ).scores  # fmt: skip
        fit = see = pictures
        if options.data is None and options.repair:
            assert pictures is not None
            order = torch.from_numpy(np.random.default_rng(options.seed).permutation(len(pictures)))
            parted = round(_FIT * len(pictures))
            fit, see = pictures[order[:parted]], pictures[order[parted:]]
        trials = None
        if options.repair and fit is not None and len(fit) >= 2:
            how = RepairOptions(rows=_ROWS, seed=options.seed, device=options.device)
            trials = Trials(full, graph, scores, _ANY, fit, how)
        planner = Planner(graph, costs)
        if options.data is None:
            assert see is not None
            judge = by_sight(full, see)
        else:
            channels = graph.input_shape[1]
            judge = by_data(full, options.data, options.split, options.imgsz, channels=channels)
        return _Bench(full, planner, costs, scores, trials, judge, options.local)

    def lost(self, remove: IntArray) -> tuple[float, float | None]:
        """Before repair, and after it."""
        hushed = silenced(self.model, self.planner.graph, remove).eval()
        before = self.judge.lost(hushed)
        if self.trials is None:
            return before, None
        if self.local:
            return before, self.judge.lost(self.trials.mended(remove))
        return before, self.judge.lost(self.trials.repaired(Candidate(self.scores, _ANY, remove)))

    def measure(self, part: Part, share: float) -> Measurement | None:
        """One part at one width."""
        return measure(self.planner, self.costs, part, share, self.scores, self.lost)


Task = tuple[Part, float]
_bench: _Bench
"""Of a worker process."""


@contextmanager
def _measuring(
    bench: _Bench, options: SensitivityOptions
) -> Iterator[Callable[[list[Task]], Iterator[Measurement | None]]]:
    """A way to carry tasks out, one after the other or in several processes."""
    if options.jobs < 2:
        yield lambda tasks: (bench.measure(*task) for task in tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    begin = (bench.model, replace(options, progress=_silent, lessons=None), bench.scores, threads)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        options.jobs, mp_context=context, initializer=_begin, initargs=begin
    ) as pool:

        def results(tasks: list[Task]) -> Iterator[Measurement | None]:
            waiting: set[Future[Measurement | None]] = {
                pool.submit(_measure, *task) for task in tasks
            }
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()

        try:
            yield results
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(model: nn.Module, options: SensitivityOptions, scores: Scores, threads: int) -> None:
    global _bench
    torch.set_num_threads(threads)
    _bench = _Bench.of(model, options, scores)


def _measure(part: Part, share: float) -> Measurement | None:
    return _bench.measure(part, share)
