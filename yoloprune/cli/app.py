"""The application that every command enters itself into, and how its errors are told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import typer

from yoloprune.errors import YoloPruneError

app = typer.Typer(
    name="yoloprune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Slim trained YOLO detectors, Darknet or Ultralytics: really smaller, really faster, "
    "still stock.",
)

Command = TypeVar("Command", bound=Callable[..., None])


def command(function: Command) -> Command:
    """Register a command that reports yoloprune's own errors as one line and exits with 1."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        debug = options.get("debug", False)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
        logging.getLogger("yoloprune").setLevel(logging.DEBUG if debug else logging.INFO)
        try:
            function(*args, **options)
        except YoloPruneError as exc:
            if debug:
                raise
            message = " ".join(str(exc).split())
            print(f"yoloprune: {message}", file=sys.stderr)
            raise typer.Exit(1) from exc

    app.command()(run)
    return function
