"""Flags of a limit to latency, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from yoloprune.prune.timing import TimingOptions

LatencyOpt = Annotated[
    str | None,
    typer.Option(
        metavar="LIMIT",
        help="Time of a pass that may stay, measured in --runtime: a share (0.5) or 12ms.",
    ),
]
RuntimeOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where the network will run: torch, onnxruntime, openvino; if not, onnxruntime "
        "where it is installed.",
    ),
]
ThreadsOpt = Annotated[
    int | None, typer.Option(help="Threads that compute; if not, as torch is set.", min=1)
]
TableOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Times by a table of `yoloprune profile`, which may be of another machine.",
    ),
]


def timing_of(
    latency: str | None,
    runtime: str | None,
    table: Path | None,
    *,
    device: str,
    threads: int | None,
    size: tuple[int, int],
    batch: int,
    model: str,
    round_to: int,
) -> TimingOptions | None:
    """Where a limit to latency is meant; None where there is none.

    Raises:
        PlanError: flags that say where stand without a limit, or the table cannot be read.
        MeasureError: the runtime is unknown or not installed.
    """
    from yoloprune.errors import PlanError
    from yoloprune.measure.runtimes import runtime_here, version_of
    from yoloprune.prune.clock import LatencyTable
    from yoloprune.prune.timing import TimingOptions

    if latency is None:
        if runtime is not None or table is not None or threads is not None:
            raise PlanError(
                "--runtime, --threads, --latency-table: say what --latency is. Give it."
            )
        return None
    if table is not None:
        if runtime is not None or threads is not None:
            raise PlanError("--latency-table: says where it was measured. Leave the rest out.")
        how = LatencyTable.read(table).runtime
    else:
        how = runtime_here(runtime, device=device, threads=threads, size=size, batch=batch)
        version_of(how.runtime)
    return TimingOptions(runtime=how, table=table, model=model, round_to=round_to)
