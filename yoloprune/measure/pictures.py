"""Pictures without labels: found by a folder, a pattern, a list or a data set, ready for a network.

They calibrate and teach; nothing is measured on them, and no label file is looked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import DataError
from yoloprune.measure.data import readable
from yoloprune.measure.images import (
    Placement,
    input_size,
    letterbox,
    read_image,
    resize_opencv,
    stretch,
)
from yoloprune.measure.resolve import IMAGE_SUFFIXES, describe, expand

log = logging.getLogger(__name__)

_FLAT = 2.0
"""Levels of 255: a picture whose pixels stray less from their mean shows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Pictures of one size.

    Attributes:
        files: where each came from.
        images: uint8 ``[N, 3, H, W]`` RGB, fitted to the network's input as it was trained.
        source: what named them, for people.
        placements: where each lies in the network's input.
    """

    files: tuple[Path, ...]
    images: Tensor
    source: str
    placements: tuple[Placement, ...]


def find_pictures(spec: str | Path, *, split: str = "train") -> tuple[Path, ...]:
    """The picture files that a text names.

    Args:
        spec: a folder (and those in it), a pattern such as ``shots/*.jpg``, a ``.txt`` list, one
            picture, or a data set, of which the split is taken.
        split: of a data set.

    Raises:
        DataError: nothing is there, or none of it is a picture.
    """
    path, text = Path(spec), str(spec)
    bare = path.name == text and not (path.exists() or is_pattern(text) or path.suffix)
    if bare or path.suffix.lower() in {".yaml", ".yml", ".data"}:
        return describe(path).images(split)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return (path,)
    if path.exists():
        return tuple(expand(text, (Path(),), f"{text}: pictures"))
    if not is_pattern(text):
        raise DataError(f"{text}: no such folder, list or picture.")
    root, pattern = rooted(path)
    found = sorted(p for p in root.glob(pattern) if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError(f"{text}: no picture fits this pattern.")
    return tuple(found)


def load_pictures(
    model: nn.Module,
    spec: str | Path,
    imgsz: int | tuple[int, int],
    *,
    count: int = 64,
    seed: int = 0,
) -> Pictures:
    """Read pictures as a network is given them.

    Args:
        model: tells by its ``letterbox`` whether proportions are kept, as when it is measured.
        spec: as :func:`find_pictures` takes it.
        imgsz: side, or height and width, of the input in pixels.
        count: how many are taken, at random where there are more.
        seed: the same pictures for the same seed.

    Raises:
        DataError: nothing is there, none can be read, or all are of one colour.
    """
    found = find_pictures(spec)
    order = np.random.default_rng(seed).permutation(len(found))
    # A few more than are asked for are looked at, so that some may turn out to be unreadable.
    chosen = [found[i] for i in sorted(order[: count + count // 4])]
    good = readable(chosen, Path(spec))[0][:count]
    images, placements = _fitted(model, good, input_size(imgsz))
    flat = images.float().std((1, 2, 3)) < _FLAT
    if bool(flat.all()):
        raise DataError(
            f"{spec}: all {len(good)} pictures are of one colour. Take some that show what the "
            "network looks for."
        )
    if bool(flat.any()):
        log.warning(
            "warning: %s: %d of %d pictures are of one colour and are left out",
            spec, int(flat.sum()), len(good),
        )  # fmt: skip
    stays = (~flat).nonzero()[:, 0]
    return Pictures(
        files=tuple(good[i] for i in stays.tolist()),
        images=images[stays],
        source=str(spec),
        placements=tuple(placements[i] for i in stays.tolist()),
    )


def _fitted(
    model: nn.Module, files: Sequence[Path], size: tuple[int, int]
) -> tuple[Tensor, list[Placement]]:
    fit = letterbox if getattr(model, "letterbox", True) else stretch

    def load(path: Path) -> tuple[Tensor, Placement]:
        image, placement = fit(read_image(path), size, resize_opencv)
        return torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1), placement

    with ThreadPoolExecutor(4) as pool:
        images, placements = zip(*pool.map(load, files), strict=True)
    return torch.stack(images), list(placements)


def is_pattern(text: str) -> bool:
    """Whether a text names files by a pattern."""
    return any(mark in text for mark in "*?[")


def rooted(path: Path) -> tuple[Path, str]:
    """The folder before the first part with a mark, and the rest."""
    parts = path.parts
    first = next(i for i, part in enumerate(parts) if is_pattern(part))
    return Path(*parts[:first]), str(Path(*parts[first:]))
