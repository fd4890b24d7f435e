"""Where a training goes, and which one is gone on with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from yoloprune.cli.app import typed
from yoloprune.cli.folders import RUNS, new_folder, there
from yoloprune.cli.options import is_first, note
from yoloprune.errors import TrainError
from yoloprune.files import check_writable


@contextmanager
def run_folder(out: Path | None, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """The folder of the run, as far as can be told before anything is loaded.

    Raises:
        TrainError: there is nothing to go on with, or it is finished, or several processes
            would each choose a folder.
        YoloPruneError: it holds another run's results.
    """
    from yoloprune.train.folder import Begun, refuse_results

    if resume:
        folder = out or _newest_unfinished()
        check_writable(folder)
        begun = Begun.read(folder)
        if begun is not None and begun.finished(folder):
            _complete(folder)
            raise TrainError(
                f"--resume: {folder} is finished, its results are {', '.join(begun.files or ())} "
                "there. Leave --resume out and choose another folder to begin another run."
            )
        yield folder
        return
    if out is None and "RANK" in os.environ:
        raise TrainError("--out: is needed where several processes are started. Give -o FOLDER.")
    with new_folder(out, "train") as folder:
        if is_first() and not overwrite:
            refuse_results(folder)
        yield folder


@contextmanager
def resumable(context: typer.Context, folder: Path) -> Iterator[None]:
    """Where a training is stopped by hand, say with which command it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if is_first() and (folder / "weights" / "last.pt").is_file():
            missing = [] if context.params["resume"] else ["--resume"]
            missing += [] if context.params["out"] else ["-o", str(folder)]
            note(f"to go on: {' '.join([typed(context), *map(shlex.quote, missing)])}")
        raise


def _complete(folder: Path) -> None:
    """Do what a run that was killed after its last checkpoint left undone."""
    from yoloprune.files import held
    from yoloprune.report.sparsity import PICTURE, write_sparsity_picture
    from yoloprune.train.log import LOG

    with held(folder, alone=True):  # which takes away what is half-written
        if (folder / LOG).is_file() and not (folder / PICTURE).is_file():
            write_sparsity_picture(folder)


def _newest_unfinished() -> Path:
    """The run that --resume alone means.

    Raises:
        TrainError: there is none.
    """
    from yoloprune.train.folder import Begun

    for folder in there(RUNS, "train"):
        begun = Begun.read(folder)
        if begun is not None and begun.files is None:
            return folder
    raise TrainError(
        f"--resume: there is no unfinished run in {RUNS / 'train'} or one numbered after it. Name "
        "its folder with -o."
    )
