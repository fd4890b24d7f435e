"""The one way to open a network in a runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import nn

from yoloprune.errors import MeasureError
from yoloprune.measure.runtimes import RUNTIMES, RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Session
from yoloprune.measure.sessions.with_litert import LiteRT
from yoloprune.measure.sessions.with_ncnn import Ncnn
from yoloprune.measure.sessions.with_onnxruntime import OnnxRuntime, OnnxRuntimeTensorRT
from yoloprune.measure.sessions.with_opencv import OpenCV, OpenCVDarknet
from yoloprune.measure.sessions.with_openvino import OpenVino
from yoloprune.measure.sessions.with_tensorrt import TensorRT
from yoloprune.measure.sessions.with_torch import Torch, TorchCompile, TorchScript

_CLASSES: tuple[type[Session], ...] = (
    Torch, TorchCompile, TorchScript, OnnxRuntime, OnnxRuntimeTensorRT, OpenVino, OpenCV,
    OpenCVDarknet, Ncnn, LiteRT, TensorRT,
)  # fmt: skip
SESSIONS: Mapping[RuntimeName, type[Session]] = {one.name: one for one in _CLASSES}
assert tuple(SESSIONS) == RUNTIMES


@contextmanager
def opened(models: Sequence[nn.Module], options: RuntimeOptions) -> Iterator[list[Session]]:
    """Sessions of several networks, as long as the block lasts.

    Args:
        models: that take ``[B, 3, H, W]`` in 0 … 1. Not modified.
        options: where and how.

    Raises:
        ExportError: a network cannot be exported.
        MeasureError: the runtime or the device is not there, or refuses a network.
    """
    kind = SESSIONS[options.runtime]
    lacks = kind.absent()
    if lacks is not None:
        raise MeasureError(f"--runtime {options.runtime}: {lacks}.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yoloprune-")))
        made = []
        for i, model in enumerate(models):
            place = folder / str(i)
            place.mkdir()
            session = kind.of_model(model, options, place)
            stack.callback(session.close)
            made.append(session)
        yield made
