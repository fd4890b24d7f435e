"""OpenVINO, from ONNX files or from its own."""

from __future__ import annotations

import logging
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


class OpenVino(Profiled):
    """On a CPU, or what else OpenVINO finds under the device's name."""

    name: ClassVar[RuntimeName] = "openvino"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        import openvino  # type: ignore[import-untyped,unused-ignore]

        logging.getLogger("openvino").setLevel(logging.ERROR)
        self.file = file
        self._core = openvino.Core()
        self._device = options.device.upper()
        if self._device not in self._core.available_devices:
            there = ", ".join(self._core.available_devices)
            raise MeasureError(f"--device {options.device}: OpenVINO finds {there} only.")
        self._settings = {
            "INFERENCE_PRECISION_HINT": "f16" if options.precision == "fp16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            **({"INFERENCE_NUM_THREADS": options.threads} if self._device == "CPU" else {}),
        }
        try:
            own = next(file.glob("*.xml")) if file.is_dir() else file
            self._content = self._core.read_model(str(own))
            self._request = self._compiled(self._settings)
        except (RuntimeError, StopIteration) as exc:
            raise MeasureError(f"openvino: refuses the network ({first_line(exc)}).") from exc
        self._watched: Any = None
        self._found: dict[str, list[float]] = {}
        self.feed(random_batch(options, int(self._content.input(0).shape[1])))

    @classmethod
    def export(cls, model: Any, options: RuntimeOptions, folder: Path) -> Path:
        return exported(model, options, folder, "onnx", rewritten=False)  # 2 % faster as it is

    def feed(self, batch: Batch) -> None:
        self._given = [batch]

    def run(self) -> None:
        self._request.infer(self._given, share_inputs=True)

    def outputs(self) -> list[NDArray[Any]]:
        return [np.array(one.data, dtype=np.float32) for one in self._request.output_tensors]

    def watch(self) -> None:
        if self._watched is None:
            self._watched = self._compiled({**self._settings, "PERF_COUNT": True})
        self._watched.infer(self._given)
        for node in self._watched.get_profiling_info():
            took = 1e3 * node.real_time.total_seconds()
            self._found.setdefault(_place(node.node_name), []).append(took)

    def nodes(self) -> Nodes:
        return usual(self._found)

    def _compiled(self, settings: dict[str, Any]) -> Any:
        return self._core.compile_model(
            self._content, self._device, settings
        ).create_infer_request()


def _place(name: str) -> str:
    """Of a node: what OpenVINO puts in between is named after its neighbours."""
    return name[name.find("/") :] if "/" in name else name
