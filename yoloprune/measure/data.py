"""Detection data sets: an Ultralytics data YAML or a Darknet ``.data`` file → `Dataset`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from yoloprune.errors import DataError
from yoloprune.measure.images import picture_problem
from yoloprune.measure.labels import LabelArray, empty_labels, label_path, read_labels
from yoloprune.measure.resolve import Description, check_split, describe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The pictures of one split and the objects that they show.

    Attributes:
        names: class names; a class id is an index into them.
        images: picture files, sorted where a folder was given, else in the list's order.
        labels: one float64 ``[n, 5]`` an image: class id, centre x, centre y, width, height as
            fractions of the image's size; ``[0, 5]`` for an image without a label file.
        source: the data file that was read.
        split: ``train``, ``val`` or ``test``.
        skipped: picture files of the split that cannot be decoded, and are left out.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[LabelArray, ...]
    source: Path
    split: str
    skipped: tuple[Path, ...] = ()

    @property
    def instances(self) -> int:
        """Number of labelled objects in all images."""
        return sum(len(labels) for labels in self.labels)


def load_dataset(path: str | Path, *, split: str = "val", task: str | None = None) -> Dataset:
    """Read one split of a data set.

    See :func:`yoloprune.measure.resolve.describe` for what names one. Where it says how many key
    points an object has, they stand behind the box in its labels, and are left out here.

    Args:
        path: an Ultralytics data YAML, or a Darknet ``.data`` file.
        split: ``train``, ``val`` or ``test``; ``val`` is Darknet's ``valid``.
        task: what it is read for, in Ultralytics' words; ``pose`` asks for key points.

    Raises:
        DataError: a file is missing or malformed, images are missing, none is labelled, or
            key points are asked for and it has none.
    """
    check_split(split)
    description = describe(path)
    keypoints = _keypoints(description)
    if task == "pose" and not keypoints:
        raise DataError(
            f"{description.source}: has no kpt_shape, expected [points, 2 or 3]. Is it a data set "
            "of key points?"
        )
    images, skipped = readable(description.images(split), description.source)
    return Dataset(
        names=description.names,
        images=images,
        labels=_read_all_labels(
            images,
            classes=len(description.names),
            source=description.source,
            keypoints=keypoints,
        ),
        source=description.source,
        split=split,
        skipped=skipped,
    )


def _keypoints(description: Description) -> int:
    """How many numbers of key points stand behind each box; 0 where there are none."""
    shape = description.extra.get("kpt_shape")
    if shape is None:
        return 0
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(n) is int for n in shape)
        or not (1 <= shape[0] <= 10_000 and shape[1] in (2, 3))
    ):
        raise DataError(
            f"{description.source}: kpt_shape: expected [points, 2 or 3], got {str(shape)[:80]}."
        )
    return int(shape[0]) * int(shape[1])


def readable(images: Sequence[Path], source: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The pictures that can be decoded, and those that cannot, which are told with a count.

    Args:
        images: picture files.
        source: of the data set, for people.

    Raises:
        DataError: none can.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = list(pool.map(picture_problem, images))
    good = tuple(p for p, problem in zip(images, problems, strict=True) if problem is None)
    bad = [(p, problem) for p, problem in zip(images, problems, strict=True) if problem]
    if not good:
        raise DataError(f"{source}: none of {len(images)} pictures can be read: {bad[0][1]}.")
    if bad:
        log.warning(
            "warning: %s: %d of %d pictures cannot be read and are left out: %s",
            source,
            len(bad),
            len(images),
            bad[0][1],
        )
    return good, tuple(path for path, _ in bad)


def _read_all_labels(
    images: Sequence[Path], *, classes: int, source: Path, keypoints: int
) -> tuple[LabelArray, ...]:
    labels, labelled = [], 0
    for image in images:
        path = label_path(image)
        labels.append(
            empty_labels()
            if path is None
            else read_labels(path, classes=classes, keypoints=keypoints)
        )
        labelled += path is not None
    if not labelled:
        raise DataError(
            f"{source}: none of {len(images)} images has a label file. For {images[0]} expected a"
            " .txt beside it, or under labels/ in place of images/."
        )
    return tuple(labels)
