"""Exported files as detectors, so that AP is that of the very file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.runtimes import version_of


class ExportedModel(nn.Module):
    """A file with the face of the model that it was made from.

    Args:
        model: names, and how pictures are fitted and boxes read, are its.
        file: an ONNX file, run in ONNX Runtime.
        threads: that compute; 0 for all.

    Raises:
        MeasureError: the runtime is not installed, or refuses the file.
    """

    def __init__(self, model: nn.Module, file: Path, threads: int = 0) -> None:
        super().__init__()
        for name in ("names", "letterbox", "end2end", "task"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))
        self._run, self._batch = _opened(file, threads)

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedModel:
        return self  # it holds no state that a pass changes

    def forward(self, x: Tensor) -> Tensor:
        """First output of the file for pictures ``[B, C, H, W]`` in 0 … 1, whatever B."""
        size = self._batch or len(x)
        parts = []
        for part in torch.split(x.cpu(), size):
            full = torch.cat((part, part[:1].expand(size - len(part), *part.shape[1:])))
            parts.append(torch.from_numpy(self._run(full.numpy())).float()[: len(part)])
        return torch.cat(parts)


def _opened(file: Path, threads: int) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], int | None]:
    """What runs a file, and the pictures that it takes a pass; None for any number."""
    version_of("onnxruntime")
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.log_severity_level = 3
    how.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(file), how, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors share no public base
        raise MeasureError(f"{file}: ONNX Runtime refuses it ({first_line(exc)}).") from exc
    entry = session.get_inputs()[0]
    kind = np.float16 if entry.type == "tensor(float16)" else np.float32
    size = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = session.run(None, {entry.name: batch.astype(kind)})[0]
        return found

    return run, size


def file_accuracy(
    model: nn.Module, dataset: Dataset, options: DetectOptions
) -> Callable[[Path], float]:
    """A function that gives the AP of a file.

    Args:
        model: that files are made from.
        dataset: the split to measure on.
        options: how to detect.
    """
    return lambda file: evaluate(ExportedModel(model, file), dataset, options).metrics.AP
