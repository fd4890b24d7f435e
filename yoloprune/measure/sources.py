"""What ``predict`` looks at: pictures and videos, by file, folder, pattern, list or data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from yoloprune.errors import DataError
from yoloprune.measure.pictures import find_pictures, is_pattern, rooted
from yoloprune.measure.resolve import IMAGE_SUFFIXES, pictures_in
from yoloprune.measure.videos import VIDEO_SUFFIXES

_LOOKED_AT = IMAGE_SUFFIXES | VIDEO_SUFFIXES


def find_sources(specs: Iterable[str], missing: Callable[[DataError], None]) -> tuple[Path, ...]:
    """All pictures and videos that texts name, each once, in order.

    Args:
        specs: each a file, a folder (and those in it), a pattern such as ``'shots/*.jpg'``, a
            ``.txt`` list, or a data set, of which the validation pictures are taken.
        missing: told of one that names nothing.
    """
    found: dict[Path, None] = {}
    for spec in specs:
        try:
            found.update(dict.fromkeys(_sources(spec)))
        except DataError as exc:
            missing(exc)
    return tuple(found)


def is_video(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _sources(spec: str) -> Iterator[Path]:
    """What one text names.

    Raises:
        DataError: nothing.
    """
    path = Path(spec)
    if path.is_file() and path.suffix.lower() not in {".txt", ".yaml", ".yml", ".data"}:
        yield path  # whether it is a picture is told when it is read
    elif path.is_dir():
        inside = sorted(pictures_in(path, spec, _LOOKED_AT))
        if not inside:
            raise DataError(f"{spec}: no picture and no video in this folder.")
        yield from inside
    elif is_pattern(spec) and not path.exists():
        root, pattern = rooted(path)
        fits = sorted(p for p in root.glob(pattern) if p.suffix.lower() in _LOOKED_AT)
        if not fits:
            raise DataError(f"{spec}: no picture and no video fits this pattern.")
        yield from fits
    elif path.suffix and not path.exists() and path.suffix.lower() in _LOOKED_AT:
        raise DataError(f"{spec}: no such file.")
    else:
        yield from find_pictures(spec, split="val")
