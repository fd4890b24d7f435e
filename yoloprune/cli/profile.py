"""``yoloprune profile``: how long each layer takes at any width, in the runtime it is for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yoloprune.cli.app import command
from yoloprune.cli.next_steps import model_words, show_next
from yoloprune.cli.options import (
    CfgOpt,
    DebugOpt,
    ImgszOpt,
    JsonOpt,
    ModelArg,
    OverwriteOpt,
    QuietOpt,
    SeedOpt,
    TrustOpt,
    WeightsOpt,
    load_model,
    named,
    write_json,
)
from yoloprune.cli.tables import Column, show_line, show_table
from yoloprune.cli.timing import RuntimeOpt, ThreadsOpt

if TYPE_CHECKING:
    from yoloprune.prune.clock import LatencyTable

DeviceOpt = Annotated[
    str, typer.Option(help="cpu, 0, cuda:0 …; for OpenVINO also GPU or NPU; cpu if not.")
]
PrecisionOpt = Annotated[str, typer.Option(help="fp32 or fp16.")]
BatchOpt = Annotated[int, typer.Option(help="Pictures a pass.", min=1)]
NetworksOpt = Annotated[
    int, typer.Option(help="Widths that are tried; more make a better table.", min=6)
]
RoundOpt = Annotated[int, typer.Option(help="Widths are multiples of this, as in slim.", min=1)]
OutOpt = Annotated[
    Path | None, typer.Option("-o", "--out", help="The table, JSON; MODEL-RUNTIME.json if not.")
]


@command
def profile(
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    runtime: RuntimeOpt = None,
    device: DeviceOpt = "cpu",
    precision: PrecisionOpt = "fp32",
    batch: BatchOpt = 1,
    threads: ThreadsOpt = None,
    imgsz: ImgszOpt = None,
    networks: NetworksOpt = 24,
    round_to: RoundOpt = 8,
    seed: SeedOpt = 0,
    out: OutOpt = None,
    overwrite: OverwriteOpt = False,
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Time whole networks at many widths; write what any plan takes."""
    from yoloprune.errors import MeasureError
    from yoloprune.files import check_writable

    stem = named(model, cfg).stem
    if out is not None:
        _refuse(out, overwrite=overwrite)
    loaded, source = load_model(model, cfg, weights, trust=trust)
    from yoloprune.channels.trace import trace
    from yoloprune.measure.runtimes import runtime_here
    from yoloprune.models.door import input_size_of
    from yoloprune.progress import progress
    from yoloprune.prune.profile import ProfileOptions, structure_of
    from yoloprune.prune.profile import profile as measure

    how = runtime_here(
        runtime, device=device, threads=threads, size=input_size_of(loaded, imgsz),
        batch=batch, precision=precision,
    )  # fmt: skip
    target = out or Path(f"{stem}-{how.runtime}.json")
    if target.suffix != ".json":
        raise MeasureError(f"--out: expected a .json file, got {target}.")
    _refuse(target, overwrite=overwrite)
    check_writable(target.parent)
    with progress("latency table") as advance:
        found = measure(
            loaded, trace(loaded),
            ProfileOptions(
                runtime=how, model=source.model.name, networks=networks, round_to=round_to,
                seed=seed, progress=advance,
            ),
        )  # fmt: skip
    assert found.structure == structure_of(loaded)
    found.write(target)
    _show(found)
    show_line(f"wrote {target}")
    show_next("slim", *model_words(source), "--latency", 0.5, "--latency-table", target)
    write_json(json_file, {**_record(found), "files": [str(target)]})


def _refuse(target: Path, *, overwrite: bool) -> None:
    from yoloprune.errors import MeasureError

    if target.exists() and not overwrite:
        raise MeasureError(f"{target}: exists. Choose another --out, or give --overwrite.")


def _record(found: LatencyTable) -> dict[str, object]:
    """What people ask of a table."""
    from dataclasses import asdict

    return {
        "model": found.model, "runtime": asdict(found.runtime), "machine": found.machine,
        "version_of": found.version_of, "full_ms": found.full,
        "median_error": _median(found.errors), "worst_error": found.errors[-1],
        "networks": [asdict(one) for one in found.networks],
    }  # fmt: skip


def _median(values: list[float]) -> float:
    import statistics

    return statistics.median(values)


def _show(found: LatencyTable) -> None:
    """A row a network, and what can be relied on."""
    columns = (
        Column("multiply-adds"),
        Column("measured, ms"),
        Column("quartiles apart", optional=1),
        Column("foretold, ms"),
        Column("off by"),
    )
    rows = [
        (
            f"{one.macs:.1%}", f"{one.ms:.2f}", f"{one.spread:.1%}", f"{one.predicted:.2f}",
            f"{one.predicted / one.ms - 1:+.1%}",
        )
        for one in sorted(found.networks, key=lambda one: -one.macs)
    ]  # fmt: skip
    show_table(f"{found.model}: {found.runtime.words}", columns, rows)
    spread = _median([one.spread for one in found.networks])
    show_line(
        f"each foretold by a table that did not see it: off by {_median(found.errors):.1%} "
        f"(median), {found.errors[-1]:.1%} (worst); {found.machine}, {found.runtime.runtime} "
        f"{found.version_of}, quartiles {spread:.1%} apart (median)"
    )
    if spread > 0.1:
        show_line("the machine was busy: these times are not worth much, measure again when not")
