"""Pictures → detections: preprocessing, batched inference, non-maximum suppression."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from yoloprune.errors import DataError, MeasureError
from yoloprune.measure.copies import device_of, find_device, float32_copy
from yoloprune.measure.images import (
    RESIZES,
    ImageArray,
    Placement,
    input_size,
    letterbox,
    read_image,
    stretch,
    to_input,
)
from yoloprune.measure.sound import check_finite
from yoloprune.progress import counting

logger = logging.getLogger(__name__)

DARKNET_NMS_IOU = 0.45
ULTRALYTICS_NMS_IOU = 0.7
# More candidates than this an image are never told apart by a ranking of 300.
_MAX_CANDIDATES = 30_000
# Heads whose outputs have the right shape but mean something else.
_UNFIT_HEADS = {
    "OBB": "draws rotated boxes",
    "RTDETRDecoder": "gives boxes as fractions of its input (RT-DETR)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectOptions:
    """How detections are made.

    Attributes:
        imgsz: side of the square input, or ``(height, width)``, in pixels.
        conf: scores must be above it, in ``[0, 1)``. 0.001 is what AP wants.
        iou: overlap above which NMS drops the lower score, in ``[0, 1]``. None: 0.45 for a
            Darknet model, 0.7 for an Ultralytics one, their own validators' values.
        max_det: most detections that are kept an image.
        letterbox: keep the aspect ratio and pad with grey. None: as the model was trained
            (its ``letterbox`` attribute for Darknet; yes for Ultralytics).
        clip: cut boxes off at the picture's border. None: yes for Ultralytics, as its validator
            does; no for Darknet, whose AP is then that of the usual check by OpenCV and
            pycocotools (0.004 to 0.006 below the AP of clipped boxes on COCO images).
        resize: ``opencv`` (as most deployments do) or ``darknet`` (as its own program does; the
            two differ by several points of confidence on single objects).
        batch: images a forward pass.
        device: where the model runs, as torch spells it. None: where it is.
        workers: threads that decode images; 0 decodes in the calling thread.
        progress: draw a progress bar, where standard error is a terminal.
    """

    imgsz: int | tuple[int, int]
    conf: float = 0.001
    iou: float | None = None
    max_det: int = 300
    letterbox: bool | None = None
    clip: bool | None = None
    resize: str = "opencv"
    batch: int = 16
    device: str | None = None
    workers: int = 2
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        input_size(self.imgsz)
        if not 0 <= self.conf < 1:
            raise MeasureError(f"conf: got {self.conf}, expected 0 <= conf < 1.")
        if self.iou is not None and not 0 <= self.iou <= 1:
            raise MeasureError(f"iou: got {self.iou}, expected 0 <= iou <= 1.")
        if self.resize not in RESIZES:
            raise MeasureError(f"resize: got {self.resize}, expected {' or '.join(RESIZES)}.")
        for name, least in (("max_det", 1), ("batch", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise MeasureError(f"{name}: got {getattr(self, name)}, expected >= {least}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """What a model sees in one picture, the highest score first.

    Attributes:
        image: the picture's file.
        width, height: its size in pixels.
        boxes_xyxy: float32 ``[n, 4]``, ``[x1, y1, x2, y2]`` in pixels of the picture.
        scores: float32 ``[n]`` in ``(conf, 1]``.
        classes: int64 ``[n]``, ids.
    """

    image: Path
    width: int
    height: int
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


def is_darknet(model: nn.Module) -> bool:
    """Tell a Darknet model by its ``letterbox`` attribute, which Ultralytics models lack."""
    return hasattr(model, "letterbox")


def nms_iou(model: nn.Module, options: DetectOptions) -> float:
    """The NMS threshold that `detect` uses: the one asked for, else the model family's."""
    if options.iou is not None:
        return options.iou
    return DARKNET_NMS_IOU if is_darknet(model) else ULTRALYTICS_NMS_IOU


def clips(model: nn.Module, options: DetectOptions) -> bool:
    """Whether `detect` clips boxes: what was asked for, else the model family's habit."""
    return not is_darknet(model) if options.clip is None else options.clip


Unread = Callable[[Path, DataError], None]
"""Is told of a picture that cannot be read."""
Fit = Callable[[ImageArray], tuple[ImageArray, Placement]]
"""Picture, uint8 ``[H, W, 3]``, → the network's input, and where the picture lies in it."""


def detect(
    model: nn.Module,
    images: Sequence[Path],
    options: DetectOptions,
    unread: Unread | None = None,
) -> Iterator[Detections]:
    """Run a detector over pictures.

    Args:
        model: maps float ``[B, 3, H, W]`` RGB in 0 … 1 to ``[B, 4 + nc, N]`` (xywh in input
            pixels, then class scores), or to ``[B, K, 6]`` (xyxy, score, class; heads that
            need no NMS), or to a tuple or list that starts with one of them; has ``names``.
            Not modified: training mode, caches and weights stay.
        images: picture files.
        options: see `DetectOptions`.
        unread: told of pictures that cannot be read, which are left out; None ends at the first.

    Yields:
        One `Detections` an image, in the given order.

    Raises:
        DataError: a picture cannot be read.
        MeasureError: the model's parameters or its output are not finite, or the output has
            another shape.
    """
    detector = Detector(model, options)
    with counting(len(images), "images", options.progress) as advance:
        for batch in _load_batches(fit_of(model, options), images, options):
            good = []
            for path, loaded in batch:
                if not isinstance(loaded, DataError):
                    good.append((path, *loaded))
                elif unread is None:
                    raise loaded
                else:
                    unread(path, loaded)
            yield from detector(good)
            advance(len(batch))


class Detector:
    """A detector that is made ready once, for pictures that come batch by batch.

    Args:
        model: see :func:`detect`.
        options: see `DetectOptions`.

    Raises:
        MeasureError: the model's parameters are not finite, or it is no detector.
    """

    def __init__(self, model: nn.Module, options: DetectOptions) -> None:
        check_finite(model)
        self._options = options
        self._device = device_of(model) if options.device is None else find_device(options.device)
        self._runner = float32_copy(model, self._device)
        self._classes = class_count(model)
        self._iou, self._clip = nms_iou(model, options), clips(model, options)
        self._end2end = bool(getattr(model, "end2end", False))

    @torch.inference_mode()
    def __call__(self, batch: Sequence[tuple[Path, ImageArray, Placement]]) -> list[Detections]:
        """What is in each picture, in order.

        Args:
            batch: what each is called, its network input as :func:`fit_of` gives it, and where it
                lies there.

        Raises:
            MeasureError: the model's output is not finite, or has another shape.
        """
        if not batch:
            return []
        paths, arrays, placements = zip(*batch, strict=True)
        found = decode(
            self._runner(to_input(arrays, self._device)),
            classes=self._classes,
            conf=self._options.conf,
            iou=self._iou,
            max_det=self._options.max_det,
            end2end=self._end2end,
        )
        each = zip(paths, placements, found, strict=True)
        return [_detections(path, placement, rows, self._clip) for path, placement, rows in each]


def fit_of(model: nn.Module, options: DetectOptions) -> Fit:
    """How a picture becomes the input of a model."""
    size, resize = input_size(options.imgsz), RESIZES[options.resize]
    wanted: Any = options.letterbox
    if wanted is None:
        wanted = getattr(model, "letterbox", True)
    fit = letterbox if wanted else stretch
    return lambda image: fit(image, size, resize)


def class_count(model: nn.Module) -> int:
    """Number of classes of a detector, from its ``names``.

    Raises:
        MeasureError: the model has no names, or a head that is read in another way.
    """
    names: Any = getattr(model, "names", None)
    if not names:
        raise MeasureError(f"{type(model).__name__}: has no class names, expected a detector.")
    layers: Any = getattr(model, "model", None)
    head = type(layers[-1]).__name__ if isinstance(layers, nn.Sequential) else ""
    for prefix, reason in _UNFIT_HEADS.items():
        if head.startswith(prefix):
            raise MeasureError(f"{type(model).__name__}: {reason}, which is not measured here.")
    return len(names)


def decode(
    output: Any, *, classes: int, conf: float, iou: float, max_det: int, end2end: bool = False
) -> list[torch.Tensor]:
    """Turn a model's output into detections.

    A box counts once for every class whose score is above ``conf``, as Darknet and
    Ultralytics count when they compute AP. Rows behind the class scores (masks, key points)
    are ignored.

    Args:
        output: see `detect`.
        classes: number of classes, ``nc``.
        conf: see `DetectOptions`.
        iou: see `DetectOptions`.
        max_det: see `DetectOptions`.
        end2end: the head has done without NMS. Seen by itself in an output ``[B, K, 6]``, except
            where K happens to be ``4 + nc``.

    Returns:
        One float32 ``[n, 6]`` an image, ``[x1, y1, x2, y2, score, class]`` in input pixels,
        the highest score first.

    Raises:
        MeasureError: the output has another shape, or is not finite.
    """
    while isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, torch.Tensor) or output.ndim != 3:
        raise MeasureError(f"model output: got {_shape(output)}, expected [B, {4 + classes}, N].")
    output = output.float()
    if not bool(torch.isfinite(output).all()):
        raise MeasureError("model output: holds nan or inf. Did its training diverge?")
    rows, columns = output.shape[1:]
    if (end2end and columns >= 6) or (columns == 6 and rows != 4 + classes):
        return [_filter_final(one[:, :6], conf, max_det) for one in output]
    # Turned round, as transformers give it, it must not pass for boxes.
    turned = columns == 4 + classes != rows
    if rows < 4 + classes or turned or end2end:
        raise MeasureError(
            f"model output: got {_shape(output)}, expected [B, {4 + classes}, N] or [B, K, 6]."
            " Do the model's names fit its head?"
        )
    return [_suppress(one, classes, conf, iou, max_det) for one in output]


def _suppress(
    prediction: torch.Tensor, classes: int, conf: float, iou: float, max_det: int
) -> torch.Tensor:
    """Non-maximum suppression class by class: ``[4 + nc, N]`` → ``[n, 6]``."""
    class_ids, anchors = torch.nonzero(prediction[4 : 4 + classes] > conf, as_tuple=True)
    scores = prediction[4 + class_ids, anchors]
    if len(scores) > _MAX_CANDIDATES:
        scores, best = scores.topk(_MAX_CANDIDATES)
        class_ids, anchors = class_ids[best], anchors[best]
    centre, half = prediction[:2, anchors].T, prediction[2:4, anchors].T / 2
    boxes = torch.cat((centre - half, centre + half), dim=1)
    keep = torchvision.ops.batched_nms(boxes, scores, class_ids, iou)[:max_det]
    columns = (boxes[keep], scores[keep, None], class_ids[keep, None].to(boxes.dtype))
    return torch.cat(columns, dim=1)


def _filter_final(rows: torch.Tensor, conf: float, max_det: int) -> torch.Tensor:
    """Rows of a head that needs no NMS, ``[K, 6]`` → ``[n, 6]``."""
    rows = rows[rows[:, 4] > conf]
    return rows[rows[:, 4].argsort(descending=True, stable=True)[:max_det]]


def _detections(path: Path, placement: Placement, rows: torch.Tensor, clip: bool) -> Detections:
    return Detections(
        image=path,
        width=placement.width,
        height=placement.height,
        boxes_xyxy=placement.to_picture(rows[:, :4], clip=clip).cpu().numpy().astype(np.float32),
        scores=rows[:, 4].cpu().numpy().astype(np.float32),
        classes=rows[:, 5].cpu().numpy().astype(np.int64),
    )


_Loaded = tuple[ImageArray, Placement] | DataError
_Batch = list[tuple[Path, _Loaded]]


def _load_batches(fit: Fit, images: Sequence[Path], options: DetectOptions) -> Iterator[_Batch]:
    """Decode batches, the next one while the network works on the present one."""

    def load(path: Path) -> _Loaded:
        try:
            return fit(read_image(path))
        except DataError as exc:
            return exc

    starts = range(0, len(images), options.batch)
    batches = [images[start : start + options.batch] for start in starts]
    if options.workers == 0:
        for paths in batches:
            yield [(path, load(path)) for path in paths]
        return
    with ThreadPoolExecutor(options.workers) as pool:
        pending: list[Future[_Loaded]] = []
        for index, paths in enumerate(batches):
            present = pending or [pool.submit(load, path) for path in paths]
            following = batches[index + 1] if index + 1 < len(batches) else []
            pending = [pool.submit(load, path) for path in following]
            loaded = [future.result() for future in present]
            yield list(zip(paths, loaded, strict=True))


def _shape(output: Any) -> str:
    return str(list(output.shape)) if isinstance(output, torch.Tensor) else type(output).__name__
