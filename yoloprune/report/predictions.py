"""Pictures with the boxes that a model found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from yoloprune.errors import YoloPruneError
from yoloprune.files import write_bytes
from yoloprune.measure.images import read_image
from yoloprune.report.plots import Panel, detections_picture


def prediction_files(
    out: Path, images: Sequence[Path], *, overwrite: bool = False
) -> dict[str, Path]:
    """Where the pictures with boxes go: a file of its own each, none of which is an input.

    ``NAME.png``, or where another picture or an input has that name ``NAME.jpg.png``,
    ``NAME.jpg-2.png`` …

    Args:
        out: folder.
        images: the inputs, in order.
        overwrite: whether files that are no input may be replaced.

    Returns:
        Input → file.

    Raises:
        YoloPruneError: a file is there already.
    """
    taken = {_place(image) for image in images}
    files: dict[str, Path] = {}
    for image in images:
        if str(image) in files:
            continue
        numbered = (f"{image.name}-{number}.png" for number in count(2))
        names = chain((f"{image.stem}.png", f"{image.name}.png"), numbered)
        file = next(out / name for name in names if _place(out / name) not in taken)
        taken.add(_place(file))
        files[str(image)] = file
    for file in files.values():
        if not overwrite and (file.exists() or file.is_symlink()):
            raise YoloPruneError(
                f"{file}: is there already. Choose another folder with -o, or replace it with "
                "--overwrite."
            )
    return files


def _place(path: Path) -> str:
    """A file's place, as written by a system that may not tell capitals apart."""
    return str(path.parent.resolve() / path.name).casefold()


def write_predictions(files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
    """Draw what ``predict_images`` found.

    Args:
        files: of :func:`prediction_files`.
        record: what it returned.
    """
    for image in record["images"]:
        path = Path(image["file"])
        panel = Panel(read_image(path), image["boxes"], path.name)
        write_bytes(files[image["file"]], detections_picture(panel))
