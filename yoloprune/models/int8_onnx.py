"""8 bits for ONNX Runtime, by its own static quantisation.

Weights are signed, symmetric, with a scale an output channel; activations have a scale a tensor,
from the least and the largest value that calibration saw. Which type suits a CPU was measured here
(YOLOv8n, 320 px, one thread of a Xeon with VNNI): unsigned activations 10 ms where float takes 18;
signed ones 40, though equally exact. ARM takes signed ones. Padding is left in float: Darknet's
max-pooling pads with −inf, of which the tool makes a scale that leaves nothing.

Reference: ONNX Runtime's documentation, Quantize ONNX models; and of ``quantize_static``.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from yoloprune.models.net_graph import NetGraph, fixed_in, onnx_graph
from yoloprune.models.quiet import no_logging

_CPU = Path("/proc/cpuinfo")
_X86 = {"x86_64", "amd64", "i386", "i686", "x86"}


def is_x86() -> bool:
    """Whether this is a PC's processor."""
    return platform.machine().lower() in _X86


def has_vnni(cpuinfo: Path = _CPU) -> bool:
    """Whether this x86 CPU multiplies bytes without saturation; no where it cannot be told."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return bool({"avx512_vnni", "avx_vnni"} & set(flags.split()))


class OnnxTool:
    """Quantises one ONNX file, as often as is asked for.

    Args:
        source: in float32.
        folder: for what is made on the way.
        model: that was exported.
    """

    suffix = ".onnx"

    def __init__(self, source: Path, folder: Path, model: nn.Module) -> None:
        import onnx
        import onnxruntime
        from onnxruntime.quantization import quant_pre_process

        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.source = source
        self._ready = folder / "shapes.onnx"
        with _quiet():
            quant_pre_process(str(source), str(self._ready))
        content = onnx.load(self._ready)
        self.graph: NetGraph = onnx_graph(content, fixed_in(model))
        self._input = content.graph.input[0].name
        self.settings: dict[str, Any] = {
            "activations": "uint8" if is_x86() else "int8",
            "weights": "int8, a scale an output channel",
            "reduce_range": is_x86() and not has_vnni(),
        }

    def quantise(
        self, target: Path, batches: Sequence[NDArray[np.float32]], floats: Collection[str]
    ) -> None:
        """Write a file in 8 bits.

        Args:
            target: path of it.
            batches: what is calibrated on, each ``[B, C, H, W]`` in 0 … 1.
            floats: names of operations that stay in float.
        """
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        pads = (node.name for node in self.graph.nodes if node.kind == "Pad")
        unsigned = self.settings["activations"] == "uint8"
        with _quiet():
            quantize_static(
                str(self._ready),
                str(target),
                _reader(self._input, batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=self.settings["reduce_range"],
                activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*floats, *pads],
            )

    def run(self, file: Path, batches: Sequence[NDArray[np.float32]]) -> list[list[NDArray[Any]]]:
        """Outputs of a file for each batch."""
        import onnxruntime

        how = onnxruntime.SessionOptions()
        how.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), how, providers=["CPUExecutionProvider"])
        return [list(session.run(None, {self._input: batch})) for batch in batches]


def _reader(name: str, batches: Sequence[NDArray[np.float32]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._left, None)
            return None if batch is None else {name: batch}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """The tool tells the root logger of each step, and divides 0 by 0 for constants of zeros."""
    with no_logging(), np.errstate(divide="ignore", invalid="ignore"):
        yield
