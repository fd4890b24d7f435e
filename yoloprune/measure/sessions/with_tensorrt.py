"""TensorRT, by an engine that Ultralytics' export builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from numpy.typing import NDArray

from yoloprune.errors import MeasureError
from yoloprune.measure.copies import find_device
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Batch, Session, exported, random_batch

if TYPE_CHECKING:
    from torch import nn


class TensorRT(Session):
    """On the GPU that built the engine; pictures and outputs stay there during a pass."""

    name: ClassVar[RuntimeName] = "tensorrt"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        import tensorrt  # type: ignore[import-not-found,import-untyped,unused-ignore]

        self.file = file
        self._device = find_device(options.device)
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(engine_bytes(file))
        if self._engine is None:
            raise MeasureError(f"tensorrt: refuses {file.name}. Was it built on this GPU?")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._buffers: dict[str, torch.Tensor] = {}
        kinds = {tensorrt.float32: torch.float32, tensorrt.float16: torch.float16}
        self._entry, self._exits = "", []
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            shape = tuple(self._engine.get_tensor_shape(name))
            kind = kinds[self._engine.get_tensor_dtype(name)]
            self._buffers[name] = torch.empty(shape, dtype=kind, device=self._device)
            self._context.set_tensor_address(name, self._buffers[name].data_ptr())
            if self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT:
                self._entry = name
            else:
                self._exits.append(name)
        self.feed(random_batch(options, self._buffers[self._entry].shape[1]))

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        return "runs on a GPU. Give --device 0" if options.device == "cpu" else None

    @classmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        return exported(model, options, folder, "engine", half=options.precision == "fp16")

    def feed(self, batch: Batch) -> None:
        self._buffers[self._entry].copy_(torch.from_numpy(batch))
        torch.cuda.synchronize(self._device)

    def run(self) -> None:
        self._context.execute_async_v3(self._stream.cuda_stream)
        self._stream.synchronize()

    def pass_ms(self) -> float:
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize(self._device)
        start.record(self._stream)
        self._context.execute_async_v3(self._stream.cuda_stream)
        end.record(self._stream)
        self._stream.synchronize()
        return float(start.elapsed_time(end))

    def outputs(self) -> list[NDArray[Any]]:
        return [self._buffers[name].float().cpu().numpy() for name in self._exits]


def engine_bytes(file: Path) -> bytes:
    """The engine itself, behind the length and the JSON that Ultralytics puts before it."""
    content = file.read_bytes()
    length = int.from_bytes(content[:4], "little")
    if content[4:5] == b"{" and 4 + length < len(content):
        return content[4 + length :]
    return content
