"""Networks under one set of conditions: opened together, timed in turn, then scored."""

from __future__ import annotations

import gc
import hashlib
import re
import statistics
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from yoloprune.errors import MeasureError, YoloPruneError, typed_line
from yoloprune.measure.accuracy import coco_metrics
from yoloprune.measure.bench_result import BenchResult
from yoloprune.measure.bench_rows import METRICS, BenchFailure, BenchRow
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import Detections
from yoloprune.measure.gpu import gpu_state, throttled
from yoloprune.measure.memory import peak_mb
from yoloprune.measure.pictures import load_pictures
from yoloprune.measure.runtimes import RuntimeOptions, version_of
from yoloprune.measure.scoring import agreement, expected, preparing_ms, run_on, sample, see
from yoloprune.measure.sessions.base import Session
from yoloprune.measure.sessions.table import session_class
from yoloprune.measure.sessions.turns import settle, time_in_turn
from yoloprune.measure.size import file_bytes
from yoloprune.models.export import ExportOptions, export_model
from yoloprune.models.quiet import quiet_ultralytics

_BLOCK_MS, _MOST_PASSES = 60.0, 6
"""A turn is as many passes as fit into this time: at least one, and at most so many."""
_DIGITS = 10
"""Of a network's digest, in the name of the folder of its files, so that none is another's."""
_CALIBRATED = 64
"""Pictures that 8 bits are calibrated on."""
_INT8 = {
    "onnxruntime": "onnx", "openvino": "openvino", "ncnn": "ncnn", "litert": "litert",
    "tensorrt": "engine",
}  # fmt: skip
"""Runtime → format that its file in 8 bits is exported in, where that can be done."""
_PAUSE = 0.02
"""Seconds before each turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A network that takes part.

    Attributes:
        name: as it is shown.
        model: in evaluation mode, in float32.
        files: that it was read from; the first one is named in the result.
        plan: that was found beside it.
    """

    name: str
    model: nn.Module
    files: tuple[Path, ...]
    plan: Path | None = None


@dataclass(frozen=True, slots=True)
class _Score:
    """AP of one file in one runtime, and what a picture's NMS takes."""

    metrics: dict[str, float | None]
    post_ms: float


@dataclass(frozen=True, slots=True)
class _Open:
    """A network that is ready to run."""

    entrant: Entrant
    how: RuntimeOptions
    session: Session
    peak_mb: float | None
    kept_float: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """What was opened, file by file."""
        file = self.session.file
        if file is None:
            return self.entrant.files
        return (
            tuple(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else (file,)
        )


@dataclass(slots=True, kw_only=True)
class Bench:
    """What one bench measures, and what it has found so far.

    Attributes:
        entrants, baseline: see ``bench``.
        data, folder, repeats, memory, calib: see ``BenchOptions``.
        rows, failures, absent, spreads: see ``BenchResult``.
        sights: by runtime and precision, what each network would show of each picture.
    """

    entrants: Sequence[Entrant]
    baseline: str
    data: Dataset | None
    folder: Path
    repeats: int
    memory: bool
    calib: str | None = None
    rows: list[BenchRow] = field(default_factory=list)
    failures: list[BenchFailure] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    spreads: dict[str, Any] = field(default_factory=dict)
    sights: dict[tuple[str, str], dict[str, list[Detections]]] = field(default_factory=dict)
    scores: dict[tuple[object, ...], _Score] = field(default_factory=dict)
    truths: dict[tuple[str, int], NDArray[Any]] = field(default_factory=dict)
    prepared: dict[str, float] = field(default_factory=dict)
    peaks: dict[tuple[object, ...], float | None] = field(default_factory=dict)
    pictures: dict[str, torch.Tensor] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    int8: dict[tuple[object, ...], tuple[Path, tuple[str, ...]]] = field(default_factory=dict)

    def digest_of(self, entrant: Entrant) -> str:
        """Hex digest of what a network is: kinds of its modules, their settings, all numbers."""
        if entrant.name not in self.digests:
            told = hashlib.sha256(repr(entrant.model).encode())
            for name, tensor in entrant.model.state_dict().items():
                told.update(name.encode())
                told.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self.digests[entrant.name] = told.hexdigest()
        return self.digests[entrant.name]

    def take_over(
        self, conditions: tuple[str, str, str, int, int], known: BenchResult | None
    ) -> bool:
        """Take rows and failures of an earlier result, where it has one of every network as it is.

        Args:
            conditions: that the rows are to be of.
            known: the earlier result, if there is one.
        """
        if known is None:
            return False
        same = {one.name: one.digest for one in known.models}
        if any(same.get(one.name) != self.digest_of(one) for one in self.entrants):
            return False
        runtime, _, precision, batch, _ = conditions
        rows = {row.model: row for row in known.rows if row.conditions == conditions}
        failures = {
            one.model: one
            for one in known.failures
            if (one.runtime, one.precision) == (runtime, precision) and _batch_of(one) == batch
        }
        names = [one.name for one in self.entrants]
        if not all(name in rows or name in failures for name in names):
            return False
        self.rows += [rows[name] for name in names if name in rows]
        for name in names:
            if name not in rows and failures[name] not in self.failures:
                self.failures.append(failures[name])
        return True

    def keep_others(self, groups: Sequence[RuntimeOptions], known: BenchResult | None) -> None:
        """Take over what an earlier result has of conditions that are not asked for.

        Args:
            groups: those that are.
            known: the earlier result, if there is one.
        """
        asked = {group.conditions for group in groups}
        for place in dict.fromkeys(row.conditions for row in known.rows) if known else ():
            if place not in asked:
                self.take_over(place, known)


def measure_group(
    state: Bench,
    group: RuntimeOptions,
    size_of: Callable[[Entrant], tuple[int, int]],
    advance: Callable[[int], None],
) -> None:
    """Time all networks under one set of conditions, and score what was timed.

    Args:
        state: takes the rows, and the reasons of what could not be measured.
        group: the conditions; the input is that of each network.
        size_of: height and width of a network's input.
        advance: told how many steps are done: a turn of one network is one, opening one and
            scoring one are one each.
    """
    with ExitStack() as stack:
        ready: list[_Open] = []
        slowest = 0.0
        for entrant in state.entrants:
            how = replace(group, imgsz=size_of(entrant))
            one = _tried(state, entrant, how, lambda e=entrant, h=how: _open(state, e, h))  # type: ignore[misc]
            if one is not None:
                stack.callback(one.session.close)
                times = _tried(state, entrant, how, lambda s=one.session: settle(s))  # type: ignore[misc]
                if times is not None:
                    ready.append(one)
                    slowest = max(slowest, statistics.median(times[-4:]))
            advance(1)
        if not ready:
            return
        block = max(1, min(_MOST_PASSES, int(_BLOCK_MS / slowest)))
        sessions = [one.session for one in ready]
        times = time_in_turn(sessions, state.repeats, block=block, pause=_PAUSE, advance=advance)
        clocks = gpu_state(int(group.device.partition(":")[2] or 0)) if _on_gpu(group) else {}
        for one, found in zip(ready, times.ms, strict=True):
            row = _tried(
                state, one.entrant, one.how,
                lambda o=one, f=found: _row(state, o, tuple(f), throttled(clocks)),  # type: ignore[misc]
            )  # fmt: skip
            if row is not None:
                state.rows.append(row)
            advance(1)


def _tried(state: Bench, entrant: Entrant, how: RuntimeOptions, work: Callable[[], Any]) -> Any:
    """What the work gives; None where a runtime cannot, which is noted: others still can."""
    try:
        return work()
    except YoloPruneError as exc:
        reason = str(exc).removeprefix(f"{how.runtime}: ").rstrip(".")
    except Exception as exc:  # runtimes' own errors share no base
        reason = typed_line(exc, 300)
    failure = BenchFailure(
        model=entrant.name,
        runtime=how.runtime,
        precision=how.precision,
        reason=f"batch {how.batch}: {reason}" if how.batch > 1 else reason,
    )
    if failure not in state.failures:
        state.failures.append(failure)
    return None


def _batch_of(failure: BenchFailure) -> int:
    """Pictures a pass that failed, as :func:`_tried` writes it."""
    found = re.match(r"batch (\d+): ", failure.reason)
    return int(found[1]) if found else 1


def _open(state: Bench, entrant: Entrant, how: RuntimeOptions) -> _Open:
    place = state.folder / f"{entrant.name}-{state.digest_of(entrant)[:_DIGITS]}"
    place.mkdir(parents=True, exist_ok=True)
    kept: tuple[str, ...] = ()
    before = 0
    if _on_gpu(how):
        gc.collect()  # networks that hold themselves would be freed in the midst of this one
        before = torch.cuda.memory_allocated(how.device)
        torch.cuda.reset_peak_memory_stats(how.device)
    if how.precision == "int8":
        file, kept = _in_8_bits(state, entrant, how, place)
        session = session_class(how.runtime).of_file(file, how)
    else:
        session = session_class(how.runtime).of_model(entrant.model, how, place)
    session.run()
    peak: float | None = None
    if _on_gpu(how) and how.runtime.startswith("torch"):
        peak = (torch.cuda.max_memory_allocated(how.device) - before) / 1e6
    elif state.memory and not _on_gpu(how):
        key = (entrant.name, how.runtime, how.precision, how.batch)
        if key not in state.peaks:
            file = session.file or session_class(how.runtime).export(entrant.model, how, place)
            state.peaks[key] = peak_mb(file, how)
        peak = state.peaks[key]
    return _Open(entrant, how, session, peak, kept)


def _in_8_bits(
    state: Bench, entrant: Entrant, how: RuntimeOptions, place: Path
) -> tuple[Path, tuple[str, ...]]:
    """The file in 8 bits for a runtime, by its own tool, and what stayed in float."""
    why = session_class(how.runtime).refusal(entrant.model, how)
    if why is not None:
        raise MeasureError(why)
    if how.runtime not in _INT8:
        raise MeasureError("is not brought to 8 bits here")
    file_format = _INT8[how.runtime]
    key = (entrant.name, file_format, how.batch, how.imgsz)
    if key not in state.int8:
        if entrant.name not in state.pictures and state.calib is not None:
            found = load_pictures(entrant.model, state.calib, how.imgsz, count=_CALIBRATED)
            state.pictures[entrant.name] = found.images
        height, width = how.imgsz
        options = ExportOptions(
            out=place / file_format, format=file_format, imgsz=how.imgsz, batch=how.batch,
            precision="int8", calibration=state.pictures.get(entrant.name), overwrite=True,
            device=how.device if file_format == "engine" else "",
        )  # fmt: skip
        with quiet_ultralytics(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on its own old exporters
            made = export_model(entrant.model, f"{width}x{height}-b{how.batch}", options)
        state.int8[key] = (made.file, tuple(made.kept_float))
    return state.int8[key]


def _row(state: Bench, one: _Open, times: tuple[float, ...], slowed: bool) -> BenchRow:
    entrant, how, file = one.entrant, one.how, one.session.file
    score = None if state.data is None else _score(state, one)
    if state.data is not None and entrant.name not in state.prepared:
        state.prepared[entrant.name] = preparing_ms(entrant.model, state.data.images, how.imgsz)
    notes = ["The driver held the GPU's clocks down meanwhile."] if slowed else []
    return BenchRow(
        model=entrant.name,
        file=file.relative_to(state.folder).as_posix() if file else entrant.files[0].name,
        bytes=file_bytes(one.files),
        runtime=how.runtime,
        runtime_version=version_of(how.runtime),
        device=how.device,
        precision=how.precision,
        batch=how.batch,
        threads=how.threads,
        times_ms=times,
        turns=state.repeats,
        pre_ms=state.prepared.get(entrant.name),
        post_ms=None if score is None else score.post_ms,
        peak_mb=one.peak_mb,
        metrics=None if score is None else score.metrics,
        agreement=_agreement(state, one),
        kept_float=one.kept_float,
        notes=tuple(notes),
    )


def _score(state: Bench, one: _Open) -> _Score:
    """AP of what was timed; once where other threads run the very same file."""
    assert state.data is not None
    how, name = one.how, one.entrant.name
    key = (name, how.runtime, how.device, how.precision, one.session.file)
    if key not in state.scores:
        sight = see(one.session, one.entrant.model, state.data.images, how)
        found = coco_metrics(sight.found, state.data)
        state.scores[key] = _Score({name: getattr(found, name) for name in METRICS}, sight.post_ms)
        state.sights.setdefault((how.runtime, how.precision), {}).setdefault(name, sight.sure)
    return state.scores[key]


def _agreement(state: Bench, one: _Open) -> float | None:
    """How far raw outputs are from those of torch in fp32, on the first pictures of the data."""
    model, how = one.entrant.model, one.how
    images = () if state.data is None else state.data.images
    batch = sample(model, images, how)
    key = (one.entrant.name, how.batch)
    if key not in state.truths:
        state.truths[key] = expected(model, batch)
    return agreement(state.truths[key], run_on(one.session, batch))


def _on_gpu(how: RuntimeOptions) -> bool:
    return how.device.startswith("cuda")
