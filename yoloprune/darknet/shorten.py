"""Residual blocks of a Darknet network, and a shorter cfg without some of them.

A ``[shortcut]`` adds what a branch of layers gives to what the branch was given. Without the branch
and the shortcut, whoever read the sum reads what the branch was given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from yoloprune.darknet.cfg import Cfg, Section, parse_cfg
from yoloprune.darknet.heads import DetectionHead
from yoloprune.darknet.modules import DarknetConv
from yoloprune.darknet.network import DarknetModel, check_unfused, current_cfg, shapes_of
from yoloprune.darknet.split import REFERENCES

_IDEMPOTENT = ("relu",)
"""Activations that change nothing of what they gave."""


@dataclass(frozen=True, slots=True)
class DarknetResidual:
    """A block that a network can do without.

    Attributes:
        source: number of the layer before the branch …
        shortcut: … and of the ``[shortcut]`` that ends it. The block is what lies behind the first,
            up to the second.
        silencing: qualified names of the tensors that, zero, make the branch give zero.
    """

    source: int
    shortcut: int
    silencing: tuple[str, ...]


def residuals(model: DarknetModel) -> tuple[list[DarknetResidual], dict[int, str]]:
    """The blocks that can go, and why the other shortcuts cannot: number → reason."""
    cfg = current_cfg(model)
    channels = [shape.channels for shape in shapes_of(cfg)]
    found: list[DarknetResidual] = []
    bound: dict[int, str] = {}
    for section in cfg.layers:
        if section.kind != "shortcut":
            continue
        checked = _checked(model, section, cfg, channels)
        if isinstance(checked, str):
            bound[section.index] = checked
        else:
            found.append(checked)
    return found, bound


def _checked(
    model: DarknetModel, section: Section, cfg: Cfg, channels: list[int]
) -> DarknetResidual | str:
    """A block that can go, or why it cannot."""
    number = section.index
    before, *others = _sources(model, number)
    if len(others) > 1:
        return f"adds {len(others) + 1} layers, so that more than one path stays"
    if section.get_str("weights_type", "none") != "none":
        return "weighs what it adds, so that its path is no identity"
    source = others[0]
    if channels[source] != channels[before]:
        return f"adds {channels[before]} channels to {channels[source]}"
    act = section.get_str("activation", "linear")
    kept = cfg.layers[source].get_str("activation", "linear")
    if act != "linear" and (act not in _IDEMPOTENT or kept != act):
        return f"activates its sum ({act}), which would be left out"
    inside = set(range(source + 1, number))
    outer = [j for j in range(len(cfg.layers)) if j not in inside and j != number]
    if not inside or any(isinstance(model.model[j], DetectionHead) for j in inside):
        return "adds no branch of layers of its own"
    if any(inside & set(_sources(model, j)) for j in outer):
        return "its branch is read by other layers, too"
    silencing = _silencing(model, before)
    if isinstance(silencing, str):
        return silencing
    return DarknetResidual(source, number, silencing)


def _sources(model: DarknetModel, number: int) -> list[int]:
    layer: Any = model.model[number]
    return [number - 1] if layer.f == -1 else list(layer.f)


def _silencing(model: DarknetModel, number: int) -> tuple[str, ...] | str:
    """The tensors that, zero, make a layer give zero; or why there are none."""
    layer: Any = model.model[number]
    if layer.type in ("sam", "scale_channels"):  # a product, so that one factor is enough
        return _silencing(model, _sources(model, number)[1])
    if layer.type == "dropout":
        return _silencing(model, number - 1)
    if not isinstance(layer, DarknetConv) or layer.act(torch.zeros(1, 1, 1, 1)).any():
        return f"its branch ends in [{layer.type}], which cannot be brought to zero"
    part = "bn" if hasattr(layer, "bn") else "conv"
    return f"model.{number}.{part}.weight", f"model.{number}.{part}.bias"


def without_residuals(
    model: DarknetModel, shortcuts: Collection[int]
) -> tuple[DarknetModel, dict[int, int]]:
    """A shorter network.

    Args:
        model: not modified.
        shortcuts: numbers of the ``[shortcut]`` sections whose blocks go, each of which
            :func:`residuals` has found.

    Returns:
        A new model, with the parameters of the old one in what is left, and the new number of
        each layer → the old one.

    Raises:
        WeightsError: the model was fused.
    """
    check_unfused(model)
    cfg = current_cfg(model)
    known = {block.shortcut: block for block in residuals(model)[0]}
    gone: set[int] = set()
    for number in shortcuts:
        gone |= set(range(known[number].source + 1, number + 1))
    place: dict[int, int] = {}
    for section in cfg.layers:  # a layer that goes is read as what its block was given
        number = section.index
        kept = len(set(range(number)) - gone)
        place[number] = (
            kept
            if number not in gone
            else place[known[number].source]
            if (number in shortcuts)
            else -1
        )
    text = "".join((*cfg.head, *cfg.net.lines))
    for section in cfg.layers:
        if section.index not in gone:
            text += "".join(_renumbered(section, place))
    new = DarknetModel(parse_cfg(text, cfg.source)).to(next(model.parameters()))
    old_numbers = {place[i]: i for i in range(len(cfg.layers)) if i not in gone}
    for number, old in old_numbers.items():
        new.model[number].load_state_dict(model.model[old].state_dict())
    new.names, new.header, new.letterbox = model.names, model.header, model.letterbox
    return new.train(model.training), old_numbers


def _renumbered(section: Section, place: dict[int, int]) -> tuple[str, ...]:
    """The lines of a section that stays, in the numbers of the new cfg."""
    key = REFERENCES.get(section.kind)
    if key is None:
        return section.lines
    here = place[section.index]
    numbers = []
    for number in section.get_ints(key):
        target = place[section.index + number if number < 0 else number]
        numbers.append(str(target - here if number < 0 else target))
    text = ",".join(numbers)
    same = numbers == [str(n) for n in section.get_ints(key)]
    return section.lines if same else section.with_options({key: text}).lines
