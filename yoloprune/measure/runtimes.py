"""Runtimes that a network is deployed in: their names, what they need, and how one is asked for.

:mod:`yoloprune.measure.sessions` holds a class of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal, get_args

from yoloprune.errors import MeasureError

RuntimeName = Literal[
    "torch", "torch-compile", "torch-cudagraph", "torchscript", "onnxruntime",
    "onnxruntime-tensorrt", "openvino", "opencv", "opencv-darknet", "ncnn", "litert", "tensorrt",
]  # fmt: skip
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
ProfiledName = Literal["torch", "onnxruntime", "openvino"]
PROFILED: tuple[ProfiledName, ...] = get_args(ProfiledName)
"""Those that tell where their time goes, which ``profile`` and ``--latency`` want."""
FloatPrecision = Literal["fp32", "fp16"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a runtime, and the export to it, cannot do without.

    Attributes:
        modules: the first one is the runtime itself.
        install: what pip is told.
    """

    modules: tuple[str, ...]
    install: str


_TORCH = _Needs(("torch",), "torch")
_ONNX = "onnx onnxruntime onnxslim"
_NEEDS: Mapping[str, _Needs] = {
    "torch": _TORCH,
    "torch-compile": _TORCH,
    "torch-cudagraph": _TORCH,
    "torchscript": _TORCH,
    "onnxruntime": _Needs(("onnxruntime", "onnx"), _ONNX),
    "onnxruntime-tensorrt": _Needs(("onnxruntime", "onnx"), "onnx onnxruntime-gpu tensorrt"),
    "openvino": _Needs(("openvino", "onnx"), "openvino onnx"),
    "opencv": _Needs(("cv2", "onnx"), "opencv-python onnx"),
    "opencv-darknet": _Needs(("cv2",), "opencv-python"),
    "ncnn": _Needs(("ncnn", "pnnx"), "ncnn pnnx==20260526"),
    "litert": _Needs(("ai_edge_litert", "litert_torch"), "litert-torch ai-edge-litert"),
    "tensorrt": _Needs(("tensorrt", "onnx"), "tensorrt onnx"),
}
_DISTRIBUTIONS = {"cv2": "opencv-python", "ai_edge_litert": "ai-edge-litert"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Where and how a network runs.

    Attributes:
        runtime: name of it.
        imgsz: height and width of the input in pixels.
        batch: pictures a pass.
        device: ``cpu``, or as torch spells it; OpenVINO also takes ``GPU`` and ``NPU``.
        precision: of weights and activations.
        threads: that compute, on a CPU.

    Raises:
        MeasureError: the runtime is unknown, or a number means nothing.
    """

    runtime: RuntimeName
    imgsz: tuple[int, int]
    batch: int = 1
    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check every range."""
        if self.runtime not in RUNTIMES:
            raise MeasureError(
                f"--runtime: unknown, got {self.runtime!r}, expected {', '.join(RUNTIMES)}."
            )
        if self.precision not in get_args(Precision):
            raise MeasureError(
                f"--precision: got {self.precision!r}, expected {', '.join(get_args(Precision))}."
            )
        if self.batch < 1 or self.threads < 1:
            raise MeasureError(
                f"--batch and --threads: must be at least 1, got {self.batch} and {self.threads}."
            )

    @property
    def conditions(self) -> tuple[str, str, str, int, int]:
        """As a row of a bench has them: runtime, device, precision, batch, threads."""
        return (self.runtime, self.device, self.precision, self.batch, self.threads)

    @property
    def words(self) -> str:
        """In words: ``onnxruntime, cpu, fp32, batch 1, 1 thread, 320 x 320``."""
        height, width = self.imgsz
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.runtime}, {self.device}, {self.precision}, batch {self.batch}, {threads}, "
            f"{width} x {height}"
        )


USUAL = ("torch", "onnxruntime", "openvino", "opencv")
"""What is measured where nothing else is said."""


def usual_here() -> tuple[RuntimeName, ...]:
    """Those of :data:`USUAL` that are installed."""
    return tuple(name for name in RUNTIMES if name in USUAL and missing(name) is None)


def missing(runtime: RuntimeName) -> str | None:
    """What must be installed for a runtime; None where all of it is there."""
    needs = _NEEDS[runtime]
    if all(find_spec(module) is not None for module in needs.modules):
        return None
    return f"is not installed. pip install {needs.install}"


def module_of(runtime: RuntimeName) -> str:
    """The Python module that is the runtime itself."""
    return _NEEDS[runtime].modules[0]


def version_of(runtime: RuntimeName) -> str:
    """Of an installed runtime.

    Raises:
        MeasureError: it is not installed.
    """
    lacks = missing(runtime)
    if lacks is not None:
        raise MeasureError(f"--runtime {runtime}: {lacks}.")
    module = module_of(runtime)
    try:
        return metadata.version(_DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:  # such as onnxruntime-gpu, which has another name
        return str(__import__(module).__version__)


def runtime_here(
    name: str | None,
    *,
    device: str,
    threads: int | None,
    size: tuple[int, int],
    batch: int = 1,
    precision: str = "fp32",
) -> RuntimeOptions:
    """Where a network will run that is timed layer by layer, of what a user says of it.

    Args:
        name: of the runtime; None for ONNX Runtime where it is installed, else torch.
        device: as it was typed; empty for the CPU, in torch for a GPU where there is one.
        threads: that compute; None for as many as torch uses.
        size: height and width of the input in pixels.
        batch: pictures a pass.
        precision: of weights and activations.

    Raises:
        MeasureError: the runtime is unknown, or a number means nothing.
    """
    import torch

    from yoloprune.models.door import torch_device

    found = name or ("onnxruntime" if find_spec("onnxruntime") else "torch")
    if found not in PROFILED:
        raise MeasureError(
            f"--runtime: unknown, got {found!r}, expected {', '.join(PROFILED)}, which tell where "
            "their time goes."
        )
    if precision not in get_args(FloatPrecision):
        raise MeasureError(f"--precision: got {precision!r}, expected fp32 or fp16.")
    if found == "openvino":
        place = device or "cpu"
    else:
        place = torch_device(device) if device or found == "torch" else "cpu"
    return RuntimeOptions(
        runtime=found,
        imgsz=size,
        batch=batch,
        device=place,
        precision=precision,  # type: ignore[arg-type]
        threads=threads or torch.get_num_threads(),
    )
