"""The operations of an exported network: which have weights, where they stand in the model.

What ONNX, OpenVINO and LiteRT write is seen here in the same few words, so that one rule says what
stays in float whatever the runtime.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_FOLLOWERS = {
    "Clip", "Clamp", "Elu", "Erf", "Gelu", "HSwish", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Mish", "Mul", "Multiply", "PRelu", "PReLU", "Relu", "ReLU", "Sigmoid", "Softplus", "SoftPlus",
    "Swish", "Tanh",
    "ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MUL", "PRELU", "RELU", "RELU6", "TANH",
}  # fmt: skip
"""What an activation consists of; it is kept in float together with the layer before it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes:
        name: unique in its file.
        kind: operator, as the format spells it.
        place: path of the module that it belongs to; empty where it has none.
        weighted: whether it holds weights that training found.
        inputs: positions of the operations that it reads.
    """

    name: str
    kind: str
    place: str
    weighted: bool
    inputs: tuple[int, ...]


class NetGraph:
    """Operations of a network in the order in which they run.

    Attributes:
        nodes: all of them.
        first: places of the weighted ones that none stands before.
        last: places of the weighted ones that none stands behind.
        decoding: names of the unweighted ones behind the last: they make boxes and scores.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._readers: list[list[int]] = [[] for _ in nodes]
        before = [False] * len(nodes)
        for i, node in enumerate(nodes):
            for source in node.inputs:
                self._readers[source].append(i)
                before[i] |= before[source] or nodes[source].weighted
        behind = [False] * len(nodes)
        for i in reversed(range(len(nodes))):
            behind[i] = any(behind[r] or nodes[r].weighted for r in self._readers[i])
        weighted = [i for i, node in enumerate(nodes) if node.weighted]
        self.first = _places(nodes[i] for i in weighted if not before[i])
        self.last = _places(nodes[i] for i in weighted if not behind[i])
        self.decoding = tuple(
            node.name for i, node in enumerate(nodes) if not (node.weighted or behind[i])
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Places of all weighted operations."""
        return _places(node for node in self.nodes if node.weighted)

    @property
    def groups(self) -> tuple[str, ...]:
        """Modules that are kept in float or not as a whole: blocks, and branches of the head."""
        return tuple(dict.fromkeys(group_of(layer, self.last) for layer in self.layers))

    def inside(self, paths: Collection[str]) -> tuple[str, ...]:
        """Names of all operations in some modules, and of the activations behind their layers."""
        found = {i for i, node in enumerate(self.nodes) if within(node.place, paths)}
        waiting = [i for i in found if self.nodes[i].weighted]
        while waiting:
            for reader in self._readers[waiting.pop()]:
                if reader not in found and self.nodes[reader].kind in _FOLLOWERS:
                    found.add(reader)
                    waiting.append(reader)
        return tuple(self.nodes[i].name for i in sorted(found))


def fixed_in(model: nn.Module) -> tuple[str, ...]:
    """Modules whose weights nothing was trained in: the bins of a ``DFL``."""
    return tuple(path for path, m in model.named_modules() if type(m).__name__ == "DFL")


def _places(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.place for node in nodes))


def within(place: str, paths: Collection[str]) -> bool:
    """Whether a module is one of some modules, or stands in one."""
    return any(place == path or place.startswith(f"{path}.") for path in paths)


def matching(layers: Iterable[str], pattern: str) -> tuple[str, ...]:
    """Layers that a pattern means: a layer, a module around layers, or a glob over either."""
    return tuple(
        layer
        for layer in layers
        if any(fnmatch.fnmatchcase(path, pattern) for path in (layer, *_around(layer)))
    )


def _around(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def group_of(layer: str, last: Collection[str]) -> str:
    """The module with which a layer is kept in float or not.

    One of the network's own steps (``model.4``); of its head, where that is one step, a branch
    (``model.22.cv2.0``).

    Args:
        layer: path of a layer.
        last: paths of the layers that none stands behind.
    """
    parts = layer.split(".")
    depth = next((i + 1 for i, part in enumerate(parts) if part.isdecimal()), len(parts))
    step = ".".join(parts[:depth])
    if len(last) > 1 and all(within(path, [step]) for path in last):
        inner = next((i for i in range(depth, len(parts)) if parts[i].isdecimal()), depth)
        return ".".join(parts[: inner + 1])
    return step


# --- ONNX

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def onnx_graph(content: Any, fixed: Collection[str] = ()) -> NetGraph:
    """Read the operations of an ONNX model.

    Args:
        content: an ``onnx.ModelProto``, its nodes named after modules, as torch names them.
        fixed: modules whose weights nothing was trained in (the bins of a ``DFL``).
    """
    initial = {tensor.name for tensor in content.graph.initializer}
    made: dict[str, int] = {}
    nodes = []
    for i, node in enumerate(content.graph.node):
        place = onnx_place(node.name)
        has_weight = node.op_type in _WEIGHTED and any(name in initial for name in node.input[1:])
        inputs = tuple(made[name] for name in node.input if name in made)
        weighted = has_weight and not within(place, fixed)
        nodes.append(Node(node.name, node.op_type, place, weighted, inputs))
        made.update(dict.fromkeys(node.output, i))
    return NetGraph(nodes)


def onnx_place(name: str) -> str:
    """``/model.22/cv2.0/cv2.0.1/conv/Conv`` → ``model.22.cv2.0.1.conv``.

    A module in a container has the container's name before its own.
    """
    found: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return ".".join(found)
