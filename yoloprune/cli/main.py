"""All commands, and the entry point of the console script."""

from __future__ import annotations

import io
import sys

from yoloprune.cli import (  # each enters itself
    bench,
    diff,
    doctor,
    export,
    info,
    mask,
    predict,
    profile,
    run,
    sensitivity,
    slim,
    targets,
    train,
    val,
)
from yoloprune.cli.app import app

__all__ = [
    "app",
    "bench",
    "diff",
    "doctor",
    "export",
    "info",
    "main",
    "mask",
    "predict",
    "profile",
    "run",
    "sensitivity",
    "slim",
    "targets",
    "train",
    "val",
]


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every encoding has a γ or every name
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        print("yoloprune: stopped.", file=sys.stderr)
        sys.exit(130)
