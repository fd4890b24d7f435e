"""8 bits for OpenVINO, by NNCF's post-training quantisation.

Weights are symmetric, with a scale an output channel; activations are asymmetric, but for those
that no value below 0 reaches (NNCF's mixed preset, for SiLU and its like). NNCF then corrects
biases for the mean that rounding shifts.

Reference: OpenVINO's documentation, Post-training quantization with NNCF.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from yoloprune.errors import ExportError
from yoloprune.models.net_graph import NetGraph, Node, fixed_in, within

_WEIGHTED = {
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData",
    "MatMul",
}  # fmt: skip
_NO_OPERATIONS = {"Constant", "Parameter", "Result"}


class OpenVinoTool:
    """Quantises one folder of OpenVINO's, as often as is asked for.

    Args:
        source: the folder, in float32.
        folder: for what is made on the way.
        model: that was exported.
    """

    suffix = "_openvino_model"

    def __init__(self, source: Path, folder: Path, model: nn.Module) -> None:
        import openvino

        self.name = f"nncf {metadata.version('nncf')}, openvino {openvino.get_version()}"
        self.source = source
        self._core = openvino.Core()
        self._xml = xml_in(source)
        self.graph: NetGraph = openvino_graph(self._core.read_model(self._xml), fixed_in(model))
        self.settings: dict[str, Any] = {
            "preset": "mixed",
            "weights": "int8, a scale an output channel",
            "fast_bias_correction": True,
        }

    def quantise(
        self, target: Path, batches: Sequence[NDArray[np.float32]], floats: Collection[str]
    ) -> None:
        """Write a folder in 8 bits.

        Args:
            target: path of it; what is there goes.
            batches: what is calibrated on, each ``[B, C, H, W]`` in 0 … 1.
            floats: names of operations that stay in float.
        """
        import openvino

        if target.exists():
            shutil.rmtree(target)
        with _quiet():
            import nncf

            made = nncf.quantize(
                self._core.read_model(self._xml),
                nncf.Dataset(list(batches)),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=sorted(floats), validate=False),
            )
        target.mkdir()
        for file in self.source.iterdir():
            if file.suffix not in (".xml", ".bin"):
                shutil.copy(file, target / file.name)
        openvino.save_model(made, target / self._xml.name, compress_to_fp16=False)

    def run(self, file: Path, batches: Sequence[NDArray[np.float32]]) -> list[list[NDArray[Any]]]:
        """Outputs of a folder for each batch; float parts in full precision."""
        made = self._core.compile_model(xml_in(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return [[np.array(found) for found in made(batch).values()] for batch in batches]


def xml_in(folder: Path) -> Path:
    """The network in a folder of OpenVINO's.

    Raises:
        ExportError: there is none, or several.
    """
    found = sorted(folder.glob("*.xml"))
    if len(found) != 1:
        raise ExportError(f"{folder}: holds {len(found)} .xml files, expected the network's own.")
    return found[0]


def openvino_graph(model: Any, fixed: Collection[str] = ()) -> NetGraph:
    """Read the operations of an OpenVINO model.

    Args:
        model: an ``openvino.Model`` that was made of a torch module, which names its operations.
        fixed: modules whose weights nothing was trained in (the bins of a ``DFL``).
    """
    operations = [op for op in model.get_ordered_ops() if op.get_type_name() not in _NO_OPERATIONS]
    numbers = {op.get_friendly_name(): i for i, op in enumerate(operations)}
    nodes = []
    for op in operations:
        sources = [entry.get_node() for entry in op.input_values()]
        kind, place = op.get_type_name(), openvino_place(op.get_friendly_name())
        weighted = kind in _WEIGHTED and any(_is_constant(source) for source in sources)
        inputs = tuple(
            numbers[source.get_friendly_name()]
            for source in sources
            if source.get_friendly_name() in numbers
        )
        trained = weighted and not within(place, fixed)
        nodes.append(Node(op.get_friendly_name(), kind, place, trained, inputs))
    return NetGraph(nodes)


def _is_constant(node: Any) -> bool:
    """Whether nothing but constants goes in, such as weights that are converted or reshaped."""
    if node.get_type_name() == "Constant":
        return True
    sources = [entry.get_node() for entry in node.input_values()]
    return bool(sources) and all(_is_constant(source) for source in sources)


def openvino_place(name: str) -> str:
    """``__module.model.0.conv/aten::_convolution/Convolution`` → ``model.0.conv``."""
    place, slash, _ = name.partition("/")
    return place.removeprefix("__module.") if slash and place.startswith("__module.") else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF tells of each step on the terminal, and imports what warns."""
    names = ("nncf", "openvino", "torch.utils.cpp_extension")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
