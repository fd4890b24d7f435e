"""Bars for long work on a terminal, a line now and then elsewhere; and how a time is told."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

_PATIENCE = 15.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def counting(total: int, what: str, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Draw a bar that is told how many more are done; none for a single one."""
    if not wanted or total < 2:
        yield lambda count: None
        return
    done = 0
    with _told(what, total) as tell:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            tell(done, total)

        yield advance


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar that is told how many are done, and of how many."""
    with _told(what, None) as tell:
        yield tell


@contextmanager
def stage(what: str, *, still: bool = False) -> Iterator[None]:
    """Draw that something is under way; bars of its parts take its place while they are drawn.

    Args:
        what: is under way.
        still: draw only what changes, for a clock that ticks disturbs what is timed.
    """
    if not _shown():
        yield
        return
    task = _TERMINAL.add(what, None, is_stage=True, still=still)
    try:
        yield
    finally:
        _TERMINAL.remove(task)


def span(seconds: float) -> str:
    """A time for people: ``8.2 s``, ``95 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


@contextmanager
def _told(what: str, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """Of something that is counted."""
    if not _shown():
        yield _Lines(what)
        return
    task = _TERMINAL.add(what, total, is_stage=False)
    try:
        yield lambda done, total: _TERMINAL.update(task, done, total)
    finally:
        _TERMINAL.remove(task)


def _shown() -> bool:
    """Whether anybody looks: at a terminal, and has not set the package's log to less."""
    return sys.stderr.isatty() and logging.getLogger("yoloprune").level <= logging.INFO


class _Lines:
    """A line in the log now and then, of work that takes long."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun = self._last = time.monotonic()
        self._before: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Take in how many are done, and of how many."""
        now = time.monotonic()
        if self._before is None:  # what was made ready before the first is not done again
            self._begun, self._before = now, done
        if now - self._last >= _PATIENCE and 0 < done < total:
            self._last, counted = now, done - self._before
            left = (now - self._begun) / max(counted, 1) * (total - done)
            when = f", {span(left)} left" if counted else ""
            log.info("%s: %d of %d%s", self._what, done, total, when)


class _Terminal:
    """The one place of a terminal where bars are drawn, one below the other."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._stages: dict[TaskID, bool] = {}

    def add(self, what: str, total: int | None, *, is_stage: bool, still: bool = False) -> TaskID:
        """Draw a further one below."""
        if self._bars is None:
            self._bars = _bars(ticking=not still)
            self._bars.start()
        task = self._bars.add_task(what, total=total)
        self._stages[task] = is_stage
        self._arrange()
        return task

    def update(self, task: TaskID, done: int, total: int) -> None:
        """Let it be as long as what is done."""
        assert self._bars is not None
        self._bars.update(
            task, completed=done, total=total, refresh=not self._bars.live.auto_refresh
        )

    def remove(self, task: TaskID) -> None:
        """Draw it no more; the last one leaves the terminal as it was."""
        assert self._bars is not None
        del self._stages[task]
        self._bars.remove_task(task)
        self._arrange()
        if not self._stages:
            self._bars.stop()
            self._bars = None

    def _arrange(self) -> None:
        """Show stages that have nothing below them."""
        assert self._bars is not None
        for task, is_stage in self._stages.items():
            last = task == next(reversed(self._stages))
            self._bars.update(task, visible=last or not is_stage)
        if not self._bars.live.auto_refresh:
            self._bars.refresh()


_TERMINAL = _Terminal()
"""There is one for a process, as there is one standard error."""


def _bars(*, ticking: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Count(ProgressColumn):
        """How many of how many, and the time that is left; or since when."""

        def render(self, task: Task) -> Text:
            if task.total is None and not ticking:
                return Text("")
            if task.total is None:
                return Text(span(task.elapsed or 0), "progress.elapsed")
            left = task.time_remaining
            told = f"{task.completed:.0f}/{task.total:.0f}"
            return Text(told if not left else f"{told}  {span(left)} left", "progress.remaining")

    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), Count(),
        console=Console(stderr=True), transient=True, auto_refresh=ticking, refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),  # else what goes to a pipe would land here
    )  # fmt: skip
