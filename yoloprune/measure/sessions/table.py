"""The one way to open a network in a runtime. Light: a class is imported when it is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from yoloprune.errors import MeasureError
from yoloprune.measure.runtimes import RUNTIMES, RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Session

if TYPE_CHECKING:
    from torch import nn

_CLASSES: Mapping[RuntimeName, str] = {
    "torch": "with_torch.Torch",
    "torch-compile": "with_torch.TorchCompile",
    "torch-cudagraph": "with_torch.TorchCudaGraph",
    "torchscript": "with_torch.TorchScript",
    "onnxruntime": "with_onnxruntime.OnnxRuntime",
    "onnxruntime-tensorrt": "with_onnxruntime.OnnxRuntimeTensorRT",
    "openvino": "with_openvino.OpenVino",
    "opencv": "with_opencv.OpenCV",
    "opencv-darknet": "with_opencv.OpenCVDarknet",
    "ncnn": "with_ncnn.Ncnn",
    "litert": "with_litert.LiteRT",
    "tensorrt": "with_tensorrt.TensorRT",
}
"""Name → where its class is, in this folder."""
assert tuple(_CLASSES) == RUNTIMES


def session_class(runtime: RuntimeName) -> type[Session]:
    """What opens networks in a runtime, installed or not.

    Raises:
        MeasureError: there is no such runtime.
    """
    if runtime not in _CLASSES:
        raise MeasureError(f"--runtimes: unknown, got {runtime!r}, expected {', '.join(_CLASSES)}.")
    module, name = _CLASSES[runtime].split(".")
    found = getattr(import_module(f"{__package__}.{module}"), name)
    return cast(type[Session], found)


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
    kind = session_class(options.runtime)
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
