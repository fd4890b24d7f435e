"""ONNX Runtime: its CPU and CUDA providers, and TensorRT's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import (
    Batch,
    Nodes,
    Profiled,
    exported,
    random_batch,
)
from yoloprune.measure.sessions.turns import usual


class OnnxRuntime(Profiled):
    """On a CPU or, by the device, a GPU, where pictures and outputs stay during a pass."""

    name: ClassVar[RuntimeName] = "onnxruntime"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        self.file = file
        self._options = options
        self._session = self._opened()
        self._entry = self._session.get_inputs()[0]
        self._names = [entry.name for entry in self._session.get_outputs()]
        channels = int(self._entry.shape[1])
        self._binding: Any = self._session.io_binding()
        self._watched: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.feed(random_batch(options, channels))

    @classmethod
    def export(cls, model: Any, options: RuntimeOptions, folder: Path) -> Path:
        return exported(model, options, folder, "onnx", half=options.precision == "fp16")

    def feed(self, batch: Batch) -> None:
        import onnxruntime

        half = self._entry.type == "tensor(float16)"
        self._batch = batch.astype(np.float16) if half else batch
        place, index = _place(self._options.device)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(self._batch, place, index)
        self._binding.bind_ortvalue_input(self._entry.name, value)
        for name in self._names:
            self._binding.bind_output(name, place, index)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> list[NDArray[Any]]:
        return [found.astype(np.float32) for found in self._binding.copy_outputs_to_cpu()]

    def watch(self) -> None:
        if self._watched is None:
            self._folder = tempfile.TemporaryDirectory(prefix="yoloprune-")
            self._watched = self._opened(profile=Path(self._folder.name) / "profile")
        self._watched.run(None, {self._entry.name: self._batch})

    def nodes(self) -> Nodes:
        if self._watched is None:
            return {}
        found = json.loads(Path(self._watched.end_profiling()).read_text())
        self._watched = None
        return node_times(found)

    def close(self) -> None:
        if self._watched is not None:
            self._watched.end_profiling()
        if self._folder is not None:
            self._folder.cleanup()

    def _opened(self, profile: Path | None = None) -> Any:
        import onnxruntime

        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = self._options.threads
        how.inter_op_num_threads = 1
        how.log_severity_level = 3
        if profile is not None:
            how.enable_profiling, how.profile_file_prefix = True, str(profile)
        providers = self._providers(onnxruntime.get_available_providers())
        try:
            return onnxruntime.InferenceSession(str(self.file), how, providers=providers)
        except Exception as exc:  # onnxruntime's errors share no public base
            raise MeasureError(f"{self.name}: refuses the network ({first_line(exc)}).") from exc

    def _providers(self, there: Sequence[str]) -> list[Any]:
        place, index = _place(self._options.device)
        if place == "cpu":
            return ["CPUExecutionProvider"]
        if "CUDAExecutionProvider" not in there:
            raise MeasureError(
                f"--device {self._options.device}: this onnxruntime runs on {', '.join(there)} "
                "only. Install onnxruntime-gpu."
            )
        return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


class OnnxRuntimeTensorRT(OnnxRuntime):
    """The same file, by the provider that builds a TensorRT engine of it."""

    name: ClassVar[RuntimeName] = "onnxruntime-tensorrt"

    @classmethod
    def absent(cls) -> str | None:
        lacks = super().absent()
        if lacks is not None:
            return lacks
        import onnxruntime

        if _TENSORRT in onnxruntime.get_available_providers():
            return None
        return "this onnxruntime has no TensorRT. pip install onnxruntime-gpu tensorrt"

    @classmethod
    def refusal(cls, model: Any, options: RuntimeOptions) -> str | None:
        return "runs on a GPU. Give --device 0" if options.device == "cpu" else None

    def _providers(self, there: Sequence[str]) -> list[Any]:
        half = self._options.precision == "fp16"
        own = {"device_id": _place(self._options.device)[1], "trt_fp16_enable": half}
        return [(_TENSORRT, own), *super()._providers(there)]


_TENSORRT = "TensorrtExecutionProvider"


def _place(device: str) -> tuple[str, int]:
    """Kind and number of a device, of ``cuda:0``."""
    kind, _, index = device.partition(":")
    return kind, int(index or 0)


def node_times(events: Sequence[Mapping[str, Any]]) -> Nodes:
    """Lower quartile of each node; one without a place in the model is its next neighbour's.

    ONNX Runtime names what it puts in between (a reorder of the layout) by numbers that change
    from network to network; it stands right before what needs it.
    """
    ends = "_kernel_time"
    found: dict[str, list[float]] = {}
    waiting: list[float] = []
    kernels = [event for event in events if str(event.get("name", "")).endswith(ends)]
    for event in sorted(kernels, key=lambda event: event["ts"]):
        name, took = str(event["name"]).removesuffix(ends), event["dur"] / 1e3
        if not name.startswith("/"):
            waiting.append(took)
            continue
        found.setdefault(name, []).append(took + sum(waiting))
        waiting.clear()
    return usual(found)
