"""``yoloprune.bench``: networks side by side, in every runtime that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from torch import nn

from yoloprune.api.given import Model, network
from yoloprune.api.wording import REPLACE, speaks_arguments
from yoloprune.errors import MeasureError
from yoloprune.files import held, keep_results
from yoloprune.measure.bench import BenchOptions
from yoloprune.measure.bench import bench as measure
from yoloprune.measure.bench_group import Entrant
from yoloprune.measure.bench_result import BenchResult
from yoloprune.measure.copies import find_device
from yoloprune.measure.data import load_dataset
from yoloprune.measure.entrants import distinct, files_of, plan_beside
from yoloprune.measure.runtimes import usual_here
from yoloprune.models.door import save, torch_device
from yoloprune.progress import progress
from yoloprune.report.bench_files import bench_results, write_results

Networks = Sequence[str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]]]
"""Files, or ``(cfg, weights)`` pairs, which are named by their files."""
T = TypeVar("T", str, int)


@speaks_arguments
def bench(
    models: Networks | Mapping[str, Model],
    *,
    baseline: str | None = None,
    data: str | PathLike[str] | None = None,
    split: str = "val",
    calib: str | PathLike[str] | None = None,
    imgsz: int | tuple[int, int] | None = None,
    runtimes: str | Iterable[str] | None = None,
    precision: str | Iterable[str] = "fp32",
    batch: int | Iterable[int] = 1,
    threads: int | Iterable[int] = 1,
    repeats: int = 20,
    memory: bool = True,
    device: str = "cpu",
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> BenchResult:
    """Time detectors side by side, turn by turn, and score the very files that were timed.

    Args:
        models: files and ``(cfg, weights)`` pairs; or a mapping of names to these and to
            detectors in memory, such as ``{"full": "mine.pt", "slim": result.model}``.
        baseline: name of the one that the others are compared with; the first, if not.
        data: data set to measure AP on.
        split: of it.
        calib: pictures to calibrate int8 on; the train split of ``data``, if not.
        imgsz: side, or height and width, in pixels, if not each model's own.
        runtimes: torch, torch-compile, torch-cudagraph, torchscript, onnxruntime,
            onnxruntime-tensorrt, openvino, opencv, opencv-darknet, ncnn, litert, tensorrt; if not,
            those installed of torch, onnxruntime, openvino, opencv.
        precision: fp32, fp16, int8; one or several.
        batch: pictures a pass; one number or several.
        threads: that compute; one number or several.
        repeats: turns of each network.
        memory: measure peak memory, on a CPU in a process of its own for every file.
        device: ``cpu``, or ``0``, ``cuda:0`` … for a GPU.
        out: folder for record, tables, page and exported files; nothing is kept where it is None.
        overwrite: replace what an earlier bench left there.
        trust: unpickle a ``.pt`` of unknown classes, which can run any code.

    Returns:
        All that was measured: ``.rows``, ``.takeaway()``, ``.versus(row)``, ``.to_markdown()``.

    Raises:
        FormatError: a file cannot be read.
        MeasureError: names are wrong, a network does not fit the data, or no runtime is there.
        YoloPruneError: there are results already in ``out``.
    """
    place = torch_device(device or "cpu")
    find_device(place)
    pictures = data if calib is None else calib
    conditions = _conditions(runtimes, precision, batch, threads)
    with TemporaryDirectory(prefix="yoloprune-") as nowhere:
        folder = Path(nowhere) if out is None else Path(out)
        with held(folder, alone=True), progress("turns") as advance:
            if not overwrite:
                keep_results(folder, bench_results(folder), REPLACE)
            entrants = _entrants(models, folder / "networks", trust=trust)
            found = measure(
                entrants,
                entrants[0].name if baseline is None else baseline,
                BenchOptions(
                    **conditions,
                    device=place,
                    imgsz=(imgsz, imgsz) if isinstance(imgsz, int) else imgsz,
                    repeats=repeats,
                    data=None if data is None else load_dataset(fspath(data), split=split),
                    folder=folder / "files",
                    memory=memory,
                    calib=None if pictures is None else fspath(pictures),
                    progress=advance,
                ),
            )
            if out is not None:
                write_results(folder, found)
    return found


def _conditions(
    runtimes: str | Iterable[str] | None,
    precision: str | Iterable[str],
    batch: int | Iterable[int],
    threads: int | Iterable[int],
) -> dict[str, Any]:
    """Of ``BenchOptions``; names are checked there."""
    return {
        "runtimes": usual_here() if runtimes is None else _several(runtimes),
        "precisions": _several(precision),
        "batches": _numbers(batch, "batch"),
        "threads": _numbers(threads, "threads"),
    }


def _several(given: T | Iterable[T]) -> tuple[T, ...]:
    """One value or several, each once."""
    return (given,) if isinstance(given, str | int) else tuple(dict.fromkeys(given))


def _numbers(given: int | Iterable[int], name: str) -> tuple[int, ...]:
    found = _several(given)
    if any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in found):
        raise MeasureError(f"{name}: got {given!r}, expected whole numbers of at least 1.")
    return found


def _entrants(
    models: Networks | Mapping[str, Model], folder: Path, *, trust: bool
) -> list[Entrant]:
    """The networks by name; those in memory are written to a folder, for size and runtimes."""
    if isinstance(models, str | PathLike | nn.Module) or not models:
        raise MeasureError(
            f"models: got {models if isinstance(models, str) else type(models).__name__}, expected "
            "a list of files, or a mapping of names to files and networks."
        )
    if not isinstance(models, Mapping):
        files = [Path(one[1] if isinstance(one, tuple) else one) for one in models]
        models = dict(zip(distinct(files), models, strict=True))
    return [
        _entrant(name, model, folder / f"network-{number}", trust=trust)
        for number, (name, model) in enumerate(models.items(), 1)
    ]


def _entrant(name: str, model: Model, place: Path, *, trust: bool) -> Entrant:
    given = network(model, trust=trust)
    source = given.source
    if source is not None:
        files, plan = files_of(source), plan_beside(source)
        return Entrant(name=name, model=given.model, files=files, plan=plan)
    if not given.detector:
        raise MeasureError(
            f"models: {name}: {type(given.model).__name__} is no YOLO, which runtimes are fed here."
        )
    return Entrant(name=name, model=given.model, files=save(given.model, place))
