"""The application that every command enters itself into, and how its errors are told."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import typer
from typer.core import TyperGroup

from yoloprune.cli.panels import COMMANDS, Command, command_group
from yoloprune.cli.spelling import spelled
from yoloprune.errors import FormatError, YoloPruneError
from yoloprune.plain import plain
from yoloprune.version import __version__


class Commands(TyperGroup):
    """The commands, each of which also takes ``key=value``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, and spell what was typed after it as flags."""
        ctx.meta[_TYPED] = ["yoloprune", *args]
        name, found, rest = super().resolve_command(ctx, args)
        as_typed = found is None or ctx.resilient_parsing  # by a shell that completes
        return name, found, rest if as_typed else spelled(rest, found)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands in the order of their groups."""
        order = [name for names in COMMANDS.values() for name in names]
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


_TYPED = "yoloprune.typed"


def was_given(context: typer.Context, name: str) -> bool:
    """Whether the user set a parameter of the command, be it to its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def typed(context: typer.Context) -> str:
    """The command that is being carried out, as a shell takes it."""
    return shlex.join(context.meta[_TYPED])


STANDARD = Path("-")
"""Where ``--json -`` writes."""
OUTPUT: ContextVar[TextIO] = ContextVar("OUTPUT")
"""Standard output, while all that is said to people goes to the other stream."""

app = typer.Typer(
    name="yoloprune",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Slim trained YOLO detectors, Darknet or Ultralytics: really smaller, really faster, "
    "still stock.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"yoloprune {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit."),
    ] = False,
) -> None:
    """Take what stands before the command."""


Function = TypeVar("Function", bound=Callable[..., None])


class _Told(logging.StreamHandler[TextIO]):
    """To standard error as it is at that moment: a bar takes it over while it is drawn."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error."""
        return sys.stderr


_WARNS = "warning: "


class _Plain(logging.Formatter):
    """A message in one line, with nothing in it that a terminal would act on."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        keep = "" if record.name.startswith("yoloprune") else "\n"  # others' may be paragraphs
        text = plain(super().formatMessage(record), keep=keep)
        warns = record.levelno == logging.WARNING and not text.startswith(_WARNS)
        return f"{_WARNS}{text}" if warns else text


def _level(options: Mapping[str, Any]) -> int:
    """Of what is told beside results and errors."""
    if options.get("debug"):
        return logging.DEBUG
    return logging.WARNING if options.get("quiet") else logging.INFO


@contextmanager
def _apart(json_file: Path | None) -> Iterator[None]:
    """Keep standard output for the JSON, where that goes there."""
    if json_file != STANDARD:
        yield
        return
    token = OUTPUT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        OUTPUT.reset(token)


def _keep_inputs(options: Mapping[str, Any]) -> None:
    """Let --json not overwrite what another argument names.

    Raises:
        FormatError: it would.
    """
    target = options.get("json_file")
    if not isinstance(target, Path) or not target.is_file():
        return
    for name, value in options.items():
        for given in value if isinstance(value, (list, tuple)) else [value]:
            if name != "json_file" and isinstance(given, (str, Path)) and _same(given, target):
                raise FormatError(
                    f"--json: {target} is read, too, and would be overwritten. Name another file."
                )


def _same(given: str | Path, target: Path) -> bool:
    try:
        return target.samefile(given)
    except (OSError, ValueError):  # no file at all
        return False


def tell_error(error: YoloPruneError) -> None:
    """One line on what is wrong."""
    print(f"yoloprune: {plain(str(error))}", file=sys.stderr, flush=True)


def command(function: Function) -> Function:
    """Register a command that reports yoloprune's own errors as one line and exits with 1."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        debug = options.get("debug", False)
        told = _Told()
        told.setFormatter(_Plain())
        logging.basicConfig(level=logging.WARNING, handlers=[told], force=True)
        logging.getLogger("yoloprune").setLevel(_level(options))
        try:
            _keep_inputs(options)
            with _apart(options.get("json_file")):
                function(*args, **options)
        except YoloPruneError as exc:
            if debug:
                raise
            tell_error(exc)
            raise typer.Exit(1) from exc

    name = function.__name__
    app.command(cls=Command, rich_help_panel=command_group(name))(run)
    return function
