"""Names that stand for parts of a detector: ``backbone``, ``neck``, ``head``; and layer numbers.

An Ultralytics model says in its YAML which layers are its backbone; its head is the last one, and
the neck is between. A cfg says neither. There the head is each detection layer (``[yolo]``,
``[Gaussian_yolo]``, ``[region]``) with the convolution that makes its input and the one before
that, as far as nothing else reads them. The backbone is what stands before the first ``[upsample]``
and before the first convolution of the head, and the neck is the rest. A number is a layer of
``model``, as Darknet numbers them (after ``--split-routes``: those of the network that it made).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from yoloprune.darknet.heads import DetectionHead
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import PlanError
from yoloprune.prune.budget import Budget
from yoloprune.prune.ratios import Rule

AREAS = ("backbone", "neck", "head")
_BRANCH = 2
"""Convolutions of a cfg's head before each detection layer."""


def with_areas(budget: Budget, model: nn.Module) -> Budget:
    """A budget whose rules know what layers their areas and numbers stand for.

    A pattern that begins with the name of a module of the model is none.

    Raises:
        PlanError: the model has no such areas.
    """
    return replace(budget, ratios=located(budget.ratios, model))


def located(rules: Iterable[Rule], model: nn.Module, said: str = "ratios") -> tuple[Rule, ...]:
    """Rules that know what layers their areas and numbers stand for; see :func:`with_areas`.

    Args:
        rules: as they were given.
        model: whose layers are meant.
        said: what errors call them.

    Raises:
        PlanError: the model has no such areas.
    """
    areas: Mapping[str, tuple[str, ...]] | None = None
    found = []
    for rule in rules:
        name = rule.pattern.removesuffix(".*")
        globs = rule.globs
        if name.isdecimal() and isinstance(getattr(model, "model", None), nn.Sequential):
            globs = (f"model.{int(name)}",)
        elif name in AREAS and not hasattr(model, name):
            areas = areas or _areas(model)
            if areas is None:
                raise PlanError(
                    f"{said}: {rule.pattern}: this model does not say what its {name} is. Name "
                    "layers as `yoloprune info` prints them."
                )
            globs = areas[name]
        found.append(replace(rule, globs=globs))
    return tuple(found)


def _areas(model: nn.Module) -> dict[str, tuple[str, ...]] | None:
    """Area → paths of its modules; none where the model does not tell."""
    if isinstance(model, DarknetModel):
        numbers = _of_darknet(model)
    else:
        layers, told = getattr(model, "model", None), getattr(model, "yaml", None)
        backbone = told.get("backbone") if isinstance(told, dict) else None
        if not isinstance(layers, nn.Sequential) or not isinstance(backbone, list):
            return None
        first, last = len(backbone), len(layers) - 1
        if not 0 < first <= last:
            return None
        numbers = {"backbone": range(first), "neck": range(first, last), "head": [last]}
    return {name: tuple(f"model.{i}" for i in found) for name, found in numbers.items()}


def _of_darknet(model: DarknetModel) -> dict[str, Any]:
    """Area → numbers of its layers."""
    layers: list[Any] = list(model.model)
    sources = {i: _read(layer) for i, layer in enumerate(layers)}
    readers = Counter(number for found in sources.values() for number in found)
    head: set[int] = set()
    for i, layer in enumerate(layers):
        if isinstance(layer, DetectionHead):
            at = i
            head.add(at)
            for _ in range(_BRANCH):
                at = sources[at][0]
                if readers[at] > 1 or layers[at].type != "convolutional":
                    break
                head.add(at)
    ends = [min(head), *(layer.i for layer in layers if layer.type == "upsample")]
    backbone = range(min(ends))
    neck = [layer.i for layer in layers if layer.i not in head and layer.i >= len(backbone)]
    return {"backbone": backbone, "neck": neck, "head": sorted(head)}


def _read(layer: Any) -> tuple[int, ...]:
    """Numbers of the layers that a layer reads."""
    found = [layer.f] if isinstance(layer.f, int) else list(layer.f)
    return tuple(layer.i - 1 if number == -1 else number for number in found)
