"""Flags of a limit to latency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
