"""``yoloprune bench``: networks side by side, in every runtime that is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command, typed
from yoloprune.cli.folders import results_folder
from yoloprune.cli.next_steps import show_next
from yoloprune.cli.options import (
    DataOpt,
    DebugOpt,
    ImgszOpt,
    JsonOpt,
    OverwriteOpt,
    QuietOpt,
    SplitOpt,
    TrustOpt,
    check_device,
    note,
    say,
    torch_name,
    write_json,
)
from yoloprune.cli.tables import Column, show_line, show_table

if TYPE_CHECKING:
    from yoloprune.measure.bench_group import Entrant
    from yoloprune.measure.bench_result import BenchResult, BenchRow
    from yoloprune.measure.runtimes import RuntimeName

NAMED_ONLY = ("torch-compile",)
"""Left out of ``all``: it compiles for minutes on a CPU."""

ModelsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help=".pt files and .cfg files; the weights of a .cfg may be named right after it, and are "
        "looked up if not.",
    ),
]
BaselineOpt = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="What the others are compared with; the first MODEL if not."
    ),
]
RuntimesOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="With commas between: torch, torch-compile, torch-cudagraph, torchscript, "
        "onnxruntime, onnxruntime-tensorrt, openvino, opencv, opencv-darknet, ncnn, litert, "
        "tensorrt; all for all but torch-compile. If not, those installed of torch, onnxruntime, "
        "openvino, opencv.",
    ),
]
PrecisionsOpt = Annotated[
    str, typer.Option("--precision", metavar="NAMES", help="With commas: fp32, fp16, int8.")
]
BatchesOpt = Annotated[
    str, typer.Option("--batch", metavar="N,N", help="Pictures a pass, with commas between.")
]
ThreadsOpt = Annotated[
    str, typer.Option("--threads", metavar="N,N", help="Threads that compute, with commas between.")
]
DeviceOpt = Annotated[str, typer.Option(help="cpu, or 0, cuda:0 … for a GPU; cpu if not.")]
RepeatsOpt = Annotated[
    int, typer.Option(help="Turns of each network, which alternate; more make it surer.", min=1)
]
CalibOpt = Annotated[
    str | None,
    typer.Option(help="Pictures to calibrate int8 on; the train split of --data if not."),
]
MemoryOpt = Annotated[
    bool,
    typer.Option(help="Measure peak memory, on a CPU in a process of its own for every file."),
]
OutOpt = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder for the results; runs/bench, bench2 … if not."),
]


@command
def bench(
    context: typer.Context,
    models: ModelsArg,
    baseline: BaselineOpt = None,
    data: DataOpt = None,
    split: SplitOpt = "val",
    calib: CalibOpt = None,
    imgsz: ImgszOpt = None,
    runtimes: RuntimesOpt = None,
    precision: PrecisionsOpt = "fp32",
    batch: BatchesOpt = "1",
    threads: ThreadsOpt = "1",
    repeats: RepeatsOpt = 20,
    memory: MemoryOpt = True,
    device: DeviceOpt = "cpu",
    out: OutOpt = None,
    overwrite: OverwriteOpt = False,
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Time networks side by side in many runtimes, and score the very files that were timed."""
    from yoloprune.measure.tasks import look
    from yoloprune.progress import progress, stage
    from yoloprune.report.bench_files import bench_results, write_results

    names = _runtimes(runtimes)
    precisions = _listed(precision, "--precision", ("fp32", "fp16", "int8"))
    batches, counts = _numbers(batch, "--batch"), _numbers(threads, "--threads")
    files = _with_weights(models)
    paths = list(files)
    if baseline is None:
        baseline = paths[0]
    elif baseline not in files:
        files = {baseline: None, **files}
        paths = list(files)

    with (
        results_folder(out, "bench", bench_results, overwrite=overwrite) as folder,
        stage("benchmark", still=True),
        progress("turns") as advance,
    ):
        note(f"bench: {len(paths)} networks in {', '.join(names)}")
        check_device(device)
        if data is not None:
            look(data, split)
        from yoloprune.measure.bench import BenchOptions
        from yoloprune.measure.bench import bench as measure
        from yoloprune.measure.entrants import entrants_of

        entrants = entrants_of(files, trust=trust)
        found = measure(
            entrants,
            entrants[paths.index(baseline)].name,
            BenchOptions(
                runtimes=names,
                precisions=precisions,
                batches=batches,
                threads=counts,
                device=torch_name(device or "cpu"),
                imgsz=None if imgsz is None else (imgsz, imgsz),
                repeats=repeats,
                data=_dataset(data, split),
                folder=folder / "files",
                memory=memory,
                calib=calib or data,
                command=typed(context),
                progress=advance,
            ),
        )
        written = write_results(folder, found)
    _show(found)
    write_json(json_file, {**found.to_dict(), "files": [str(path) for path in written]})
    say(f"results in {folder}")
    show_next(*_next(found, entrants, data))


def _runtimes(text: str | None) -> tuple[RuntimeName, ...]:
    """What --runtimes names; of the default ones those that are installed."""
    from yoloprune.measure.runtimes import RUNTIMES, usual_here

    if text is None:
        return usual_here()
    if text.strip() == "all":
        return tuple(name for name in RUNTIMES if name not in NAMED_ONLY)
    found: Any = _listed(text, "--runtimes", RUNTIMES)
    return tuple(found)


def _listed(text: str, flag: str, known: Sequence[str]) -> Any:
    """Names with commas between, each once.

    Raises:
        MeasureError: one of them is none.
    """
    from yoloprune.errors import MeasureError

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise MeasureError(
            f"{flag}: got {', '.join(wrong) or 'nothing'}, expected some of {', '.join(known)}."
        )
    return names


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    """Whole numbers above 0 with commas between, each once."""
    from yoloprune.errors import MeasureError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise MeasureError(f"{flag}: got {text!r}, expected numbers of at least 1, such as 1,8.")
    return tuple(dict.fromkeys(map(int, parts)))


def _with_weights(typed: Sequence[str]) -> dict[str, str | None]:
    """Each network, with the weights that were named after it.

    Raises:
        MeasureError: weights stand after no .cfg, or a network twice.
    """
    from yoloprune.errors import MeasureError

    found: dict[str, str | None] = {}
    last = ""
    for path in typed:
        if path.lower().endswith(".weights"):
            if not last.lower().endswith(".cfg") or found[last] is not None:
                raise MeasureError(f"{path}: weights stand right after their .cfg.")
            found[last] = path
        elif path in found:
            raise MeasureError(f"bench: a network stands twice, got {path}.")
        else:
            found[path] = None
            last = path
    return found


def _dataset(data: str | None, split: str) -> Any:
    from yoloprune.measure.data import load_dataset

    return None if data is None else load_dataset(data, split=split)


def _show(found: BenchResult) -> None:
    """A row each, then what is missing, then the sentence."""
    columns = (
        Column("model", wraps=True),
        Column("runtime"),
        Column("batch", optional=3),
        Column("threads", optional=3),
        Column("ms"),
        Column("IQR", optional=2),
        Column("pictures/s", optional=4),
        Column("MB", optional=5),
        Column("speed-up", wraps=True),
        Column("AP"),
    )
    show_table("bench", columns, [_cells(found, row) for row in found.rows])
    noisy = [row for row in found.rows if row.noisy]
    if noisy:
        show_line(
            f"! the times of {len(noisy)} of {len(found.rows)} rows vary by more than 10 % of "
            "their median: the machine was busy; measure again when it is not, or with more "
            "--repeats"
        )
    for failure in found.failures:
        show_line(f"{failure.model} in {failure.runtime} {failure.precision}: {failure.reason}")
    for runtime, why in found.absent.items():
        show_line(f"{runtime} {why}")
    show_line(found.takeaway())


def _cells(found: BenchResult, row: BenchRow) -> tuple[str, ...]:
    against = None if row.model == found.baseline.name else found.versus(row)
    return (
        row.model,
        f"{row.runtime} {row.precision}",
        str(row.batch),
        str(row.threads),
        f"{row.median_ms:.2f}{' !' if row.noisy else ''}",
        f"{row.iqr_ms:.2f}",
        f"{row.per_second:.1f}",
        f"{row.bytes / 1e6:.2f}",
        "" if against is None else against.words,
        "" if row.ap is None else f"{row.ap:.4f}",
    )


def _next(found: BenchResult, entrants: Sequence[Entrant], data: str | None) -> list[str]:
    """What to type now: train what lost much, else export for the runtime that is fastest."""
    from yoloprune.measure.bench_result import SMALL_DROP

    words = {one.name: _typed(one) for one in entrants}
    slim = [row for row in found.rows if row.model != found.baseline.name]
    if not slim:
        return ["slim", *words[found.baseline.name], "--macs", "0.5"]
    best = min(slim, key=lambda row: row.median_ms / row.batch)
    base = found.row(found.baseline.name, best.runtime, "fp32", best.batch, best.threads)
    before = None if base is None else base.ap
    if data and before is not None and best.ap is not None and before - best.ap > SMALL_DROP:
        return ["train", *words[best.model], "--data", data]
    return ["export", *words[best.model], "--format", _FORMATS.get(best.runtime, "onnx")]


_FORMATS = {"openvino": "openvino", "ncnn": "ncnn", "torchscript": "torchscript"}


def _typed(one: Entrant) -> list[str]:
    """A network as other commands take it."""
    path, *weights = one.files
    known = not weights or weights[0].stem == path.stem
    return [str(path)] if known else [str(path), "--weights", str(weights[0])]
