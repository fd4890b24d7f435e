"""Bars for long work, on a terminal; elsewhere nothing. And how a time is told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def counting(total: int, what: str, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Draw a bar that is told how many more are done; none for a single one."""
    if not wanted or total < 2 or not _shown():
        yield lambda count: None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar that is told how many are done, and of how many."""
    if not _shown():
        yield lambda done, total: None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _shown() -> bool:
    """Whether anybody looks: at a terminal, and has not set the package's log to less."""
    return sys.stderr.isatty() and logging.getLogger("yoloprune").level <= logging.INFO


def span(seconds: float) -> str:
    """A time for people: ``8.2 s``, ``95 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, console=Console(stderr=True), transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else what goes to a pipe would land here
    )  # fmt: skip
