"""Exported files as detectors, so that AP is that of the very file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.errors import MeasureError
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.images import input_size
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Session
from yoloprune.measure.sessions.table import session_class

_RUNTIMES: dict[str, RuntimeName] = {
    ".onnx": "onnxruntime",
    "_openvino_model": "openvino",
    ".tflite": "litert",
    "_ncnn_model": "ncnn",
    ".engine": "tensorrt",
}
"""How a file's name ends → what runs it."""


class Deployed(nn.Module):
    """What a runtime runs, with the face of the model that it was made from.

    Args:
        model: names, and how pictures are fitted and boxes read, are its.
        run: takes float32 ``[batch, C, H, W]`` in 0 … 1, gives the first raw output.
        batch: pictures that it takes a pass.
    """

    end2end: bool

    def __init__(
        self, model: nn.Module, run: Callable[[NDArray[Any]], NDArray[Any]], batch: int
    ) -> None:
        super().__init__()
        for name in ("names", "letterbox", "end2end", "task"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))
        self._run, self._batch = run, batch

    def __deepcopy__(self, memo: dict[int, Any]) -> Deployed:
        return self  # it holds no state that a pass changes

    def forward(self, x: Tensor) -> Tensor:
        """First raw output for pictures ``[B, C, H, W]`` in 0 … 1, whatever B."""
        parts = []
        for part in torch.split(x.cpu(), self._batch):
            full = torch.cat((part, part[:1].expand(self._batch - len(part), *part.shape[1:])))
            made = torch.from_numpy(self._run(np.ascontiguousarray(full.numpy())))
            parts.append(made.float()[: len(part)])
        return torch.cat(parts)


def open_file(file: Path, options: DetectOptions, threads: int = 1) -> Session:
    """Open what ``export`` wrote, in the runtime that it was written for, on the CPU.

    Args:
        file: or folder.
        options: size of the input, and pictures a pass, as it was exported.
        threads: that compute.

    Raises:
        MeasureError: no runtime is known for it, or that is not installed or refuses it.
    """
    runtime = next((name for end, name in _RUNTIMES.items() if file.name.endswith(end)), None)
    if runtime is None:
        raise MeasureError(
            f"{file}: is run by nothing here, expected a name that ends in {', '.join(_RUNTIMES)}."
        )
    lacks = session_class(runtime).absent()
    if lacks is not None:
        raise MeasureError(f"{file}: {runtime}: {lacks}.")
    how = RuntimeOptions(
        runtime=runtime, imgsz=input_size(options.imgsz), batch=options.batch, threads=threads
    )
    return session_class(runtime).of_file(file, how)


def deployed_file(model: nn.Module, file: Path, options: DetectOptions) -> Deployed:
    """A file as a detector.

    Args:
        model: that it was made from.
        file: see :func:`open_file`.
        options: see there.

    Raises:
        MeasureError: see there.
    """
    session = open_file(file, options)

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        session.feed(batch)
        session.run()
        return session.outputs()[0]

    return Deployed(model, run, options.batch)


def file_accuracy(
    model: nn.Module, dataset: Dataset, options: DetectOptions
) -> Callable[[Path], float]:
    """A function that gives the AP of a file.

    Args:
        model: that files are made from.
        dataset: the split to measure on.
        options: how to detect; as many pictures a pass as the files take.
    """
    return lambda file: evaluate(deployed_file(model, file, options), dataset, options).metrics.AP
