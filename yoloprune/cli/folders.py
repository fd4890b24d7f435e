"""Where a command puts its results: never, unasked, in the place of another run's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from yoloprune.errors import YoloPruneError
from yoloprune.files import JOURNAL, SUFFIX, check_writable, held, keep_results, remove_empty

RUNS = Path("runs")
Results = Callable[[Path], Iterable[Path]]
"""What in a folder is another run's, or would be replaced."""


@contextmanager
def results_folder(
    out: Path | None, name: str, results: Results, *, overwrite: bool
) -> Iterator[Path]:
    """The folder for a command's results, held by it alone.

    Args:
        out: as asked for; None counts up: ``runs/NAME``, ``runs/NAME2`` …
        name: of the command.
        results: finds what must not be replaced.
        overwrite: it may be.

    Raises:
        YoloPruneError: there are results already, another process is at work there, or it
            cannot be written to.
    """
    with new_folder(out, name) as folder, held(folder, alone=True):
        if not overwrite:
            refuse_results(folder, results(folder))
        yield folder


def refuse_results(folder: Path, results: Iterable[Path]) -> None:
    """Let no results be replaced.

    Raises:
        YoloPruneError: there are some.
    """
    others = "Choose another folder with -o, or replace them with --overwrite."
    keep_results(folder, results, others)


@contextmanager
def new_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The folder that is asked for, or a new one; gone again where nothing came of it.

    Raises:
        YoloPruneError: it cannot be made or written to.
    """
    if out is not None:
        check_writable(out)
        yield out
        return
    missing = [path for path in (RUNS, *RUNS.parents) if not path.exists()]
    check_writable(RUNS)
    folder = _count_up(RUNS, name)
    try:
        yield folder
    finally:  # of a run that came to nothing
        remove_empty([folder, *missing])


def _count_up(parent: Path, name: str) -> Path:
    """Make the first of NAME, NAME2 … that is not there yet, whoever else does the same."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in numbered(parent, name):
        try:
            folder.mkdir()
        except FileExistsError:
            _tidy(folder)
        else:
            return folder
    raise AssertionError


def _tidy(folder: Path) -> None:
    """Take away what a killed run left in an earlier folder, if nobody is at work there."""
    left = (".lock", f".*{SUFFIX}", f".*{JOURNAL}", ".yoloprune-export-*")
    if folder.is_dir() and any(path for pattern in left for path in folder.glob(pattern)):
        with suppress(YoloPruneError), held(folder, alone=True):
            pass


def numbered(parent: Path, name: str) -> Iterator[Path]:
    """NAME, NAME2, NAME3 …, without end."""
    yield parent / name
    for number in itertools.count(2):
        yield parent / f"{name}{number}"


def there(parent: Path, name: str) -> list[Path]:
    """Those of them that exist, the newest first."""
    last = 0
    for path in parent.glob(f"{name}*") if parent.is_dir() else ():
        tail = path.name[len(name) :]
        if tail == "" or (tail.isdecimal() and tail.isascii()):
            last = max(last, int(tail or 1))
    folders = itertools.islice(numbered(parent, name), last)
    return [folder for folder in reversed(list(folders)) if folder.is_dir()]
