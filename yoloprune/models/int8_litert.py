"""8 bits for LiteRT, by its own quantiser.

Weights are symmetric, with a scale an output channel; activations are signed, with a scale a tensor
from the least and the largest value that calibration saw. Input and output stay in float32.
Operations are named after the modules that they came from, containers that are not called left out;
where two layers have one name, the order in which the model calls them tells which is which.

Reference: AI Edge Quantizer's documentation, static quantization and recipes.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import zipfile
from collections import Counter
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
from yoloprune.models.quiet import no_logging

_WEIGHTED = {
    "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D",
}  # fmt: skip
_ACTIVATIONS = {
    "ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MUL", "PRELU", "RELU", "RELU6", "TANH",
}  # fmt: skip
"""Whose names are not to be trusted: equal ones are given that of the first."""
_NOT_QUANTISED = "no_quantize"
_METADATA = "metadata.json"
"""Which Ultralytics appends to its files, zipped."""


class LiteRtTool:
    """Quantises one ``.tflite`` file, as often as is asked for.

    Args:
        source: in float32.
        folder: for what is made on the way.
        model: that was exported.
    """

    suffix = ".tflite"

    def __init__(self, source: Path, folder: Path, model: nn.Module) -> None:
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils as reading

        self.name = f"ai-edge-quantizer {metadata.version('ai-edge-quantizer')}"
        self.source = source
        content = reading.read_model(str(source))
        self.graph: NetGraph = litert_graph(content, model)
        self.settings: dict[str, Any] = {
            "activations": "int8",
            "weights": "int8, a scale an output channel",
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
        from ai_edge_quantizer import qtyping, quantizer, recipe

        with _quiet():
            tool = quantizer.Quantizer(str(self.source))
            tool.load_quantization_recipe(recipe.static_wi8_ai8())
            kinds = qtyping.TFLOperationName
            ends = ((".*", kinds.INPUT), (".*", kinds.OUTPUT))
            kept = tuple((f"^{re.escape(name)};", kinds.ALL_SUPPORTED) for name in sorted(floats))
            for pattern, kind in (*ends, *kept):
                tool.update_quantization_recipe(
                    regex=pattern, operation_name=kind, algorithm_key=_NOT_QUANTISED
                )
            entry = self._entry()
            seen = tool.calibrate({"serving_default": [{entry: batch} for batch in batches]})
            tool.quantize(calibration_result=seen).export_model(str(target), overwrite=True)
        _copy_metadata(self.source, target)

    def _entry(self) -> str:
        """What the one input is called in the file's signature."""
        from ai_edge_litert.interpreter import Interpreter

        found = Interpreter(str(self.source)).get_signature_list()
        return str(found["serving_default"]["inputs"][0])

    def run(self, file: Path, batches: Sequence[NDArray[np.float32]]) -> list[list[NDArray[Any]]]:
        """Outputs of a file for each batch, boxes in pixels."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file))
        interpreter.allocate_tensors()
        entry, exits = interpreter.get_input_details()[0], interpreter.get_output_details()
        found = []
        for batch in batches:
            interpreter.set_tensor(entry["index"], batch)
            interpreter.invoke()
            made = [np.array(interpreter.get_tensor(one["index"])) for one in exits]
            found.append(in_pixels(made, batch.shape[2], batch.shape[3]))
        return found


def in_pixels(outputs: list[NDArray[Any]], height: int, width: int) -> list[NDArray[Any]]:
    """Outputs with boxes as torch gives them: Ultralytics' export has shares of the input.

    Args:
        outputs: of one pass, the detections ``[B, 4 + …, N]`` first; changed in place.
        height: of the input.
        width: of the input.
    """
    boxes = outputs[0]
    if boxes.ndim == 3 and not (boxes.shape[2] == 6 < boxes.shape[1]):
        boxes[:, [0, 2]] *= width
        boxes[:, [1, 3]] *= height
    return outputs


def litert_graph(content: Any, model: nn.Module) -> NetGraph:
    """Read the operations of a LiteRT model.

    Args:
        content: what the quantiser reads of a file.
        model: that it was exported from.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    graph = content.subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    constant = [len(_data(content, tensor)) > 0 for tensor in graph.tensors]
    places, fixed = Places(model), fixed_in(model)
    made: dict[int, int] = {}
    nodes = []
    for i, op in enumerate(graph.operators):
        code = content.operatorCodes[op.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        name = names[op.outputs[0]]
        reads = [number for number in op.inputs if number >= 0]
        has_weight = kind in _WEIGHTED and any(constant[number] for number in reads[:2])
        place = "" if kind in _ACTIVATIONS else places.of(name, weighted=has_weight)
        inputs = tuple(made[number] for number in reads if number in made)
        weighted = has_weight and not within(place, fixed)
        nodes.append(Node(name, kind, place, weighted, inputs))
        made.update(dict.fromkeys((int(number) for number in op.outputs), i))
    return NetGraph(nodes)


def _data(content: Any, tensor: Any) -> Any:
    found = content.buffers[tensor.buffer].data
    return () if found is None else found


class Places:
    """Which module an operation came from, by its name.

    A name is the modules from the outermost to the innermost, each as its class and what it is
    called in the one around it (``pkg.Conv_cv1``), with slashes between; behind a semicolon comes a
    number, or what else went into the operation.

    Args:
        model: that was exported.
    """

    def __init__(self, model: nn.Module) -> None:
        self._chains: dict[str, list[str]] = {}
        for path, module in model.named_modules():
            around, _, name = path.rpartition(".")
            word = f"{type(module).__module__}.{type(module).__qualname__}_{name}"
            self._chains[path] = [*self._chains[around], word] if path else []
        self._known = {word for chain in self._chains.values() for word in chain}
        self._met: Counter[tuple[str, ...]] = Counter()

    def of(self, name: str, *, weighted: bool) -> str:
        """Path of the module of an operation; empty where that is none, or no single one.

        Args:
            name: of the operation.
            weighted: whether it holds weights: of layers with one name the next one is meant.
        """
        words = tuple(word for word in name.partition(";")[0].split("/") if word in self._known)
        found = [
            path
            for path, chain in self._chains.items()
            if words and chain and chain[-1] == words[-1] and _is_part(words, chain)
        ]
        if not weighted:
            return found[0] if len(found) == 1 else ""
        self._met[words] += 1
        if self._met[words] > len(found):
            raise ExportError(f"litert: {name!r} is none of the layers of the network.")
        return found[self._met[words] - 1]


def _is_part(words: Sequence[str], chain: Sequence[str]) -> bool:
    """Whether a chain has these words in this order; what is not called is left out of a name."""
    left = iter(chain)
    return all(word in left for word in words)


def _copy_metadata(source: Path, target: Path) -> None:
    """Give a file what Ultralytics' exporter appended to the one that it was made from."""
    if not zipfile.is_zipfile(source):
        return
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "a") as made:
        if _METADATA in given.namelist():
            made.writestr(_METADATA, given.read(_METADATA), zipfile.ZIP_DEFLATED)


@contextmanager
def _quiet() -> Iterator[None]:
    """The tool tells of each step on the terminal."""
    heard = io.StringIO()
    with (
        no_logging(),
        contextlib.redirect_stdout(heard),
        contextlib.redirect_stderr(heard),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
