"""What one network sees and another does not: objects lost, boxes invented, and where it shows.

A labelled object is found where a box of its class with a score of 0.25 or more overlaps it by an
IoU of 0.5 or more; the surest box takes the object that it overlaps most, and each object is taken
once. Sizes are COCO's: below 32² pixels of the picture small, above 96² large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloprune.measure.accuracy import truth_boxes
from yoloprune.measure.bench_rows import BenchChange, BenchCount, Box
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import Detections
from yoloprune.measure.images import read_image

CONFIDENCE = 0.25
"""Score from which on a box is taken for something seen."""
OVERLAP = 0.5
"""IoU from which on two boxes are of one object."""
MOST = 12
"""Pictures that are kept of a network."""
_SIZES = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, np.inf))
_THUMBNAIL, _QUALITY = 360, 78

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a network sees beside its baseline.

    Attributes:
        counts: labelled objects that either finds, by class and by size.
        changes: the pictures that changed most, the most changed first.
        classes: names.
        images: pictures that were looked at.
    """

    counts: tuple[BenchCount, ...]
    changes: tuple[BenchChange, ...]
    classes: tuple[str, ...]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: all but the thumbnails."""
        return {
            "images": self.images,
            "confidence": CONFIDENCE,
            "iou": OVERLAP,
            "counts": [asdict(one) for one in self.counts],
            "pictures": [
                {"image": one.image, "lost": one.lost, "invented": one.found}
                for one in self.changes
            ],
        }


class Sights:
    """Collects what a network and the one made of it see, while either is measured."""

    def __init__(self, model: str) -> None:
        """``model``: name of the second."""
        self.model = model
        self.seen: list[tuple[Dataset, list[Detections]]] = []

    def add(self, dataset: Dataset, found: Sequence[Detections]) -> None:
        """Take what the next of them detected."""
        self.seen.append((dataset, confident(found)))

    def compared(self) -> Changed | None:
        """The second beside the first; None where their task has no upright boxes."""
        if not self.seen:
            return None
        (dataset, before), (_, after) = self.seen
        return compare_sight(dataset, before, after, model=self.model)


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture, by what it shows and what either network saw.

    ``found_*``: bool ``[n]``, whether each labelled object was found; ``invented``: boxes of the
    second network that fit no label and no box of the first.
    """

    index: int
    classes: NDArray[np.int64]
    areas: FloatArray
    found_before: BoolArray
    found_after: BoolArray
    invented: int

    @property
    def lost(self) -> int:
        return int((self.found_before & ~self.found_after).sum())


def confident(found: Sequence[Detections]) -> list[Detections]:
    """What is taken for seen of each picture; the rest of the boxes is forgotten."""
    kept = []
    for one in found:
        sure = one.scores >= CONFIDENCE
        kept.append(
            replace(
                one, boxes_xyxy=one.boxes_xyxy[sure], scores=one.scores[sure],
                classes=one.classes[sure],
            )
        )  # fmt: skip
    return kept


def compare_sight(
    dataset: Dataset,
    before: Sequence[Detections],
    after: Sequence[Detections],
    *,
    model: str,
    most: int = MOST,
) -> Changed:
    """Hold what a network sees against what its baseline does.

    Args:
        dataset: whose pictures they saw, with labels.
        before: of the baseline, one entry a picture of ``dataset``, in its order.
        after: of the other.
        model: name of the other.
        most: pictures that are kept.

    Raises:
        DataError: a picture cannot be read any more.
    """
    before, after = confident(before), confident(after)
    pictures = [
        _compare(index, labels, old, new)
        for index, (labels, old, new) in enumerate(zip(dataset.labels, before, after, strict=True))
    ]
    changed = [one for one in pictures if one.lost + one.invented]
    changed.sort(key=lambda one: (-one.lost - one.invented, -one.lost, one.index))
    return Changed(
        counts=tuple(_counts(pictures, dataset.names, model)),
        changes=tuple(
            _change(model, one, before[one.index], after[one.index]) for one in changed[:most]
        ),
        classes=dataset.names,
        images=len(pictures),
    )


def same_object(boxes: Sequence[Box], others: Sequence[Box]) -> list[bool]:
    """Which boxes have one of their class among others that overlaps them enough."""
    one, two = (np.array(side, dtype=np.float64).reshape(-1, 6) for side in (boxes, others))
    fits = (_ious(one[:, :4], two[:, :4]) >= OVERLAP) & (one[:, 4, None] == two[None, :, 4])
    return [bool(any_) for any_ in fits.any(axis=1)]


def _compare(index: int, labels: FloatArray, old: Detections, new: Detections) -> _Picture:
    truth, classes = truth_boxes(labels, old.width, old.height), labels[:, 0].astype(np.int64)
    found_before, _ = _match(truth, classes, old)
    found_after, unmatched = _match(truth, classes, new)
    known = same_object(_boxes(new), _boxes(old))
    return _Picture(
        index=index,
        classes=classes,
        areas=(truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1]),
        found_before=found_before,
        found_after=found_after,
        invented=sum(not known[at] for at in np.flatnonzero(unmatched)),
    )


def _match(
    truth: FloatArray, classes: NDArray[np.int64], seen: Detections
) -> tuple[BoolArray, BoolArray]:
    """Whether each labelled object was found, and whether each box fits none."""
    ious = _ious(seen.boxes_xyxy.astype(np.float64), truth)
    ious[seen.classes[:, None] != classes[None, :]] = 0.0
    found, unmatched = np.zeros(len(truth), dtype=bool), np.ones(len(seen.scores), dtype=bool)
    for at in np.argsort(-seen.scores, kind="stable"):
        free = np.where(found, 0.0, ious[at])
        if len(free) and free.max() >= OVERLAP:
            found[int(free.argmax())], unmatched[at] = True, False
    return found, unmatched


def _ious(one: FloatArray, two: FloatArray) -> FloatArray:
    """``[n, 4]`` and ``[m, 4]`` xyxy → ``[n, m]``."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(side[:, 2:] - side[:, :2]).prod(axis=1) for side in (one, two)]
    union = areas[0][:, None] + areas[1][None, :] - common
    ious: FloatArray = common / np.maximum(union, 1e-9)
    return ious


def _counts(pictures: Sequence[_Picture], names: Sequence[str], model: str) -> Iterator[BenchCount]:
    """By class, those that the data show; then by size."""
    empty = np.zeros(0)
    classes, areas, before, after = (
        np.concatenate([getattr(one, name) for one in pictures] or [empty])
        for name in ("classes", "areas", "found_before", "found_after")
    )

    def counted(of: BoolArray) -> dict[str, int]:
        return {
            "truths": int(of.sum()), "baseline": int(before[of].sum()),
            "found": int(after[of].sum()),
        }  # fmt: skip

    for index, name in enumerate(names):
        if (classes == index).any():
            yield BenchCount(model=model, by="class", name=name, **counted(classes == index))
    for name, low, high in _SIZES:
        of = (areas >= low) & (areas < high)
        if of.any():
            yield BenchCount(model=model, by="size", name=name, **counted(of))


def _change(model: str, one: _Picture, old: Detections, new: Detections) -> BenchChange:
    return BenchChange(
        model=model,
        image=old.image.name,
        lost=one.lost,
        found=one.invented,
        boxes_before=_boxes(old),
        boxes_after=_boxes(new),
        thumbnail=_thumbnail(old),
        width=old.width,
        height=old.height,
    )


def _boxes(seen: Detections) -> tuple[Box, ...]:
    def box(xyxy: NDArray[np.float32], class_id: np.int64, score: np.float32) -> Box:
        x1, y1, x2, y2 = (round(float(v), 1) for v in xyxy)
        return (x1, y1, x2, y2, int(class_id), round(float(score), 3))

    return tuple(map(box, seen.boxes_xyxy, seen.classes, seen.scores))


def _thumbnail(seen: Detections) -> bytes:
    """A JPEG of a picture, its longer side small."""
    image = read_image(seen.image)
    scale = min(_THUMBNAIL / max(image.shape[:2]), 1.0)
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    small = cv2.resize(image, (size[0], size[1]), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
