"""The application that every command enters itself into, and how its errors are told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import typer

from yoloprune.errors import YoloPruneError
from yoloprune.plain import plain

app = typer.Typer(
    name="yoloprune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Slim trained YOLO detectors, Darknet or Ultralytics: really smaller, really faster, "
    "still stock.",
)

Command = TypeVar("Command", bound=Callable[..., None])


class _Plain(logging.Formatter):
    """A message in one line, with nothing in it that a terminal would act on."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        keep = "" if record.name.startswith("yoloprune") else "\n"  # others' may be paragraphs
        return plain(super().formatMessage(record), keep=keep)


def command(function: Command) -> Command:
    """Register a command that reports yoloprune's own errors as one line and exits with 1."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        debug = options.get("debug", False)
        told = logging.StreamHandler()
        told.setFormatter(_Plain())
        logging.basicConfig(level=logging.WARNING, handlers=[told], force=True)
        logging.getLogger("yoloprune").setLevel(logging.DEBUG if debug else logging.INFO)
        try:
            function(*args, **options)
        except YoloPruneError as exc:
            if debug:
                raise
            print(f"yoloprune: {plain(str(exc))}", file=sys.stderr)
            raise typer.Exit(1) from exc

    app.command()(run)
    return function
