"""Networks side by side: every model in every runtime, timed in turn, scored from the same file."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yoloprune.errors import MeasureError, YoloPruneError
from yoloprune.measure.accuracy import check_classes
from yoloprune.measure.bench_group import Bench, Entrant, measure_group
from yoloprune.measure.bench_result import BenchModel, BenchResult
from yoloprune.measure.changed import Changed, compare_sight
from yoloprune.measure.data import Dataset
from yoloprune.measure.environment import environment
from yoloprune.measure.fastpath import compared
from yoloprune.measure.gpu import gpu_state
from yoloprune.measure.runtimes import Precision, RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.table import session_class
from yoloprune.measure.size import count
from yoloprune.measure.spread import spreads
from yoloprune.models.door import input_size_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is measured.

    Attributes:
        runtimes, precisions, batches, threads: all of one with all of the others.
        device: where; ``cpu``, or as torch spells it.
        imgsz: height and width of the input; None is each model's own.
        repeats: turns of each network; they alternate.
        data: to measure AP on; None leaves it out.
        folder: exported files go here, and stay.
        memory: measure peak memory, on a CPU each in a process of its own.
        calib: pictures to calibrate 8 bits on, see ``find_pictures``.
        command: that was typed, for the record.
        progress: called with how many steps are done, and of how many.
        keep: called with what is known after each group of conditions.
    """

    runtimes: tuple[RuntimeName, ...]
    precisions: tuple[Precision, ...] = ("fp32",)
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    device: str = "cpu"
    imgsz: tuple[int, int] | None = None
    repeats: int = 20
    data: Dataset | None = None
    folder: Path
    memory: bool = True
    calib: str | None = None
    command: str = ""
    progress: Callable[[int, int], None] = lambda done, total: None
    keep: Callable[[BenchResult], None] = lambda result: None

    def __post_init__(self) -> None:
        """Refuse what is empty or means nothing."""
        for name in ("runtimes", "precisions", "batches", "threads"):
            if not getattr(self, name):
                raise MeasureError(f"--{name}: expected at least one.")
        if self.repeats < 1:
            raise MeasureError(f"--repeats: got {self.repeats}, expected at least 1.")
        self.groups()

    def groups(self) -> list[RuntimeOptions]:
        """Conditions under which all networks take turns; the size is that of each network."""
        every = itertools.product(self.runtimes, self.precisions, self.batches, self.threads)
        return [
            RuntimeOptions(
                runtime=runtime, imgsz=self.imgsz or (0, 0), batch=batch, device=self.device,
                precision=precision, threads=threads,
            )
            for runtime, precision, batch, threads in every
        ]  # fmt: skip


def bench(
    entrants: Sequence[Entrant],
    baseline: str,
    options: BenchOptions,
    known: BenchResult | None = None,
) -> BenchResult:
    """Measure networks side by side.

    Under one set of conditions all of them are opened, run until their times stand still, and
    then timed turn by turn with pauses between, so that what else the machine does meets all
    alike. AP is that of the very session that was timed.

    Args:
        entrants: networks, by names that differ.
        baseline: name of the one that the others are compared with.
        options: what is measured.
        known: an earlier result of the same networks: conditions that it has all rows of are not
            measured again, and stay in the result where they are not asked for.

    Raises:
        DataError: a picture cannot be read.
        MeasureError: no entrant is the baseline, a network does not fit the data or the size of
            the input, or no runtime that was named is there.
    """
    if baseline not in [one.name for one in entrants]:
        raise MeasureError(f"--baseline: {baseline} is none of the networks.")
    for one in entrants:
        _check_size(one, options)
        if options.data is not None:
            check_classes(one.model, options.data)
    begun = (datetime.now(timezone.utc), time.perf_counter())
    state = Bench(
        entrants=entrants, baseline=baseline, data=options.data, folder=options.folder,
        repeats=options.repeats, memory=options.memory, calib=options.calib,
        spreads=spreads({one.name: one.model for one in entrants}),
    )  # fmt: skip
    models = tuple(
        replace(_model(one, entrants, baseline, options), digest=state.digest_of(one))
        for one in entrants
    )
    groups = options.groups()
    state.keep_others(groups, known)
    steps = len(entrants) * (options.repeats + 2)
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        options.progress(min(done, steps * len(groups)), steps * len(groups))

    for index, group in enumerate(groups):
        if not state.take_over(group.conditions, known):
            why = session_class(group.runtime).absent()
            if why is not None:
                state.absent[group.runtime] = why
            else:
                measure_group(state, group, lambda one: _size(one, options), advance)
        advance(steps * (index + 1) - done)
        options.keep(_result(state, models, options, known, begun))
    if not state.rows and not state.failures:
        names = "; ".join(f"{name} {why}" for name, why in state.absent.items())
        raise MeasureError(f"--runtimes: none of them is here: {names}.")
    return _result(state, models, options, known, begun)


def _result(
    state: Bench,
    models: tuple[BenchModel, ...],
    options: BenchOptions,
    known: BenchResult | None,
    begun: tuple[datetime, float],
) -> BenchResult:
    """What is known by now."""
    changed, data = _changed(state, known), options.data
    device = options.device if options.device.startswith("cuda") else "cpu"
    return BenchResult(
        models=models,
        rows=tuple(state.rows),
        failures=tuple(state.failures),
        absent=dict(state.absent),
        data=None if data is None else str(data.source),
        split=None if data is None else data.split,
        imgsz=_size(state.entrants[0], options),
        images=0 if data is None else len(data.images),
        classes=() if data is None else data.names,
        counts=tuple(count for one in changed for count in one.counts),
        changes=tuple(change for one in changed for change in one.changes),
        spreads=state.spreads,
        environment=_environment(torch.device(device)),
        command=options.command,
        date=begun[0].isoformat(timespec="seconds"),
        seconds=time.perf_counter() - begun[1] + (known.seconds if known else 0.0),
    )


def _check_size(one: Entrant, options: BenchOptions) -> None:
    """Refuse an input that exporters would round, so that files took another one."""
    strides: Any = getattr(one.model, "stride", None)
    stride = 32 if strides is None else max(int(strides.max()), 1)
    height, width = _size(one, options)
    if height % stride or width % stride:
        raise MeasureError(
            f"--imgsz: {one.name} takes multiples of {stride}, got {width}x{height}."
        )


def _size(one: Entrant, options: BenchOptions) -> tuple[int, int]:
    return input_size_of(one.model, options.imgsz)


def _model(
    one: Entrant, entrants: Sequence[Entrant], baseline: str, options: BenchOptions
) -> BenchModel:
    """What is known of a network before anything is timed."""
    size = _size(one, options)
    counted = count(one.model, size)
    base = next(other for other in entrants if other.name == baseline)
    fast_path = None
    if one is not base:
        try:
            fast_path = compared(base.model, one.model, None, size)
        except YoloPruneError:  # a network that cannot be followed can still be timed
            fast_path = None
    return BenchModel(
        name=one.name,
        path=str(one.files[0]),
        params=counted.params,
        macs=counted.macs,
        baseline=one is base,
        widths={
            path: module.out_channels
            for path, module in one.model.named_modules()
            if isinstance(module, nn.Conv2d)
        },
        plan=None if one.plan is None else str(one.plan),
        fast_path=fast_path,
    )


def _changed(state: Bench, known: BenchResult | None) -> list[Changed]:
    """What each network sees beside the baseline, in the first runtime that scored both."""
    if state.data is None:
        return []
    seen = next((one for one in state.sights.values() if state.baseline in one), {})
    found = [
        compare_sight(state.data, seen[state.baseline], sight, model=name)
        for name, sight in seen.items()
        if name != state.baseline
    ]
    again = {count.model for one in found for count in one.counts}
    for one in state.entrants if known is not None else ():
        if one.name not in again:
            assert known is not None
            found.append(
                Changed(
                    counts=tuple(c for c in known.counts if c.model == one.name),
                    changes=tuple(c for c in known.changes if c.model == one.name),
                    classes=known.classes,
                    images=known.images,
                )
            )
    return found


def _environment(place: torch.device) -> dict[str, Any]:
    """The machine, and how busy it was with other things."""
    found: dict[str, Any] = asdict(environment(place))
    del found["threads"]  # each row says its own
    if hasattr(os, "getloadavg"):
        found["load_average"] = round(os.getloadavg()[0], 2)
    if place.type == "cuda":
        found["gpu_state"] = gpu_state(place.index or 0)
    return found
