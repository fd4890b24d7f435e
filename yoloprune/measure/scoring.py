"""What a session sees in pictures: AP of the very file that is timed, and how true it runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from yoloprune.measure.changed import CONFIDENCE, confident
from yoloprune.measure.copies import structural_copy
from yoloprune.measure.detect import (
    Detections,
    DetectOptions,
    class_count,
    decode,
    detect,
    fit_of,
    nms_iou,
)
from yoloprune.measure.exported import Deployed
from yoloprune.measure.images import read_image, to_input
from yoloprune.measure.runtimes import RuntimeOptions
from yoloprune.measure.sessions.base import Batch, Session, channels_of, random_batch
from yoloprune.models.difference import difference

_TIMED = 24
"""Pictures that what comes before and after the network is timed on."""
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a session saw.

    Attributes:
        found: detections of each picture, for AP.
        post_ms: median milliseconds of one picture's NMS at the score that deployments use.
    """

    found: tuple[Detections, ...]
    post_ms: float

    @property
    def sure(self) -> list[Detections]:
        """What a deployment would show."""
        return confident(self.found)


def see(
    session: Session, model: nn.Module, images: Sequence[Path], options: RuntimeOptions
) -> Sight:
    """Run a session over pictures, through the same steps before and after as torch's.

    Args:
        session: opened with ``options``.
        model: that it runs; its names and its way to fit pictures are used.
        images: picture files, at least one.
        options: see there.

    Raises:
        DataError: a picture cannot be read.
        MeasureError: the output is not finite, or has another shape.
    """
    how = DetectOptions(imgsz=options.imgsz, batch=options.batch, progress=False)
    classes, iou = class_count(model), nms_iou(model, how)
    post: list[float] = []

    def watched(batch: NDArray[Any]) -> NDArray[Any]:
        made = run_on(session, batch)
        output = torch.from_numpy(made)
        face.end2end = output.shape[2] == 6 and output.shape[1] != 4 + classes
        for one in output[: max(0, _TIMED - len(post))]:
            start = time.perf_counter()
            decode(
                one[None], classes=classes, conf=CONFIDENCE, iou=iou, max_det=how.max_det,
                end2end=bool(face.end2end),
            )  # fmt: skip
            post.append(1e3 * (time.perf_counter() - start))
        return made

    face = Deployed(model, watched, options.batch)
    found = tuple(detect(face, images, how))
    return Sight(found=found, post_ms=statistics.median(post))


def run_on(session: Session, batch: NDArray[Any]) -> NDArray[Any]:
    """First raw output of a session for a batch of the size that it was opened for."""
    session.feed(np.ascontiguousarray(batch, dtype=np.float32))
    session.run()
    return session.outputs()[0]


def preparing_ms(model: nn.Module, images: Sequence[Path], imgsz: tuple[int, int]) -> float:
    """Median milliseconds from a decoded picture to the input, on a CPU."""
    fit = fit_of(model, DetectOptions(imgsz=imgsz))
    times = []
    for path in images[:_TIMED]:
        picture = read_image(path)
        start = time.perf_counter()
        to_input([fit(picture)[0]], _CPU)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def sample(model: nn.Module, images: Sequence[Path], options: RuntimeOptions) -> Batch:
    """A batch to compare outputs on: the first pictures, random ones where there are none."""
    channels = channels_of(model)
    if not images or channels != 3:
        return random_batch(options, channels)
    fit = fit_of(model, DetectOptions(imgsz=options.imgsz))
    paths = [images[i % len(images)] for i in range(options.batch)]
    found: Batch = to_input([fit(read_image(path))[0] for path in paths], _CPU).numpy()
    return found


def expected(model: nn.Module, batch: Batch) -> NDArray[Any]:
    """First raw output of torch in fp32, of the network unfused."""
    with torch.inference_mode():
        made: Any = structural_copy(model)(torch.from_numpy(batch))
    while isinstance(made, (tuple, list)):
        made = made[0]
    found: NDArray[Any] = made.numpy()
    return found


def agreement(wanted: NDArray[Any], found: NDArray[Any]) -> float | None:
    """Largest difference of outputs as a share of their scale; None where their forms differ."""
    apart = difference([wanted], [found])
    return apart if np.isfinite(apart) else None
