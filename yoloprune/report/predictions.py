"""Pictures and videos with the boxes that a model found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import cv2

from yoloprune.errors import YoloPruneError
from yoloprune.files import write_bytes
from yoloprune.measure.images import read_image
from yoloprune.measure.sources import is_video
from yoloprune.report.boxes import Colour, draw_boxes

_KEPT = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Forms of pictures that are kept; others become PNG."""
_QUALITY = 95
_QUALITY_OF = {
    ".jpg": cv2.IMWRITE_JPEG_QUALITY,
    ".jpeg": cv2.IMWRITE_JPEG_QUALITY,
    ".webp": cv2.IMWRITE_WEBP_QUALITY,
}


def prediction_files(
    out: Path, inputs: Sequence[Path], *, overwrite: bool = False
) -> dict[Path, Path]:
    """Where the pictures with boxes go: a file of its own each, none of which is an input.

    ``NAME.jpg`` for a picture of that form, ``NAME.mp4`` for a video; or where another or an input
    has that name ``NAME-2.jpg``, ``NAME-3.jpg`` …

    Args:
        out: folder.
        inputs: pictures and videos, in order.
        overwrite: whether files that are no input may be replaced.

    Returns:
        Input → file.

    Raises:
        YoloPruneError: a file is there already.
    """
    taken = {_place(path) for path in inputs}
    files: dict[Path, Path] = {}
    for path in dict.fromkeys(inputs):
        suffix = path.suffix if path.suffix.lower() in _KEPT else ".png"
        suffix = ".mp4" if is_video(path) else suffix
        ends = (suffix if number == 1 else f"-{number}{suffix}" for number in count(1))
        file = next(at for end in ends if _place(at := out / f"{path.stem}{end}") not in taken)
        taken.add(_place(file))
        files[path] = file
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


def write_prediction(file: Path, record: Mapping[str, Any], colours: Mapping[str, Colour]) -> None:
    """Draw what was found in one picture into a copy of it.

    Args:
        file: of :func:`prediction_files`.
        record: ``file`` and ``boxes``.
        colours: of the classes.

    Raises:
        YoloPruneError: it cannot be written.
    """
    drawn = draw_boxes(read_image(Path(record["file"])), record["boxes"], colours)
    quality = _QUALITY_OF.get(file.suffix.lower())
    settings = [] if quality is None else [quality, _QUALITY]
    done, data = cv2.imencode(file.suffix.lower(), drawn, settings)
    if not done:
        raise YoloPruneError(f"{file}: OpenCV cannot write {file.suffix} here.")
    write_bytes(file, data.tobytes())
