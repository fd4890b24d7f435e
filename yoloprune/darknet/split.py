"""Grouped routes rewritten as two convs and a route, for toolchains that reject groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from yoloprune.darknet.cfg import Cfg, Section, parse_cfg
from yoloprune.darknet.modules import DarknetConv
from yoloprune.darknet.network import DarknetModel, check_unfused, current_cfg

REFERENCES = {"route": "layers", "shortcut": "from", "sam": "from", "scale_channels": "from"}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where every old layer stands in the new cfg.

    Attributes:
        whole: old number → new number of what it gives.
        parts: old number of a split conv → new numbers of its parts.
    """

    whole: dict[int, int]
    parts: dict[int, tuple[int, ...]]


def split_routes(model: DarknetModel) -> DarknetModel:
    """An exactly equivalent network without grouped routes.

    A conv of C filters that feeds ``[route] groups=g`` becomes g convs of C / g filters that
    read the same input, and a route that joins them; the grouped route then names one of the
    parts. The parts need not be of one size, so pruning is freer than with grouped routes.

    Args:
        model: not modified.

    Returns:
        A new model, with the parameters of the old one; the model itself if it has no
        grouped route.

    Raises:
        CfgError: a grouped route reads something else than a dense conv.
        WeightsError: the model was fused.
    """
    check_unfused(model)
    cfg = current_cfg(model)
    groups = _split_convs(cfg)
    if not groups:
        return model
    layout = _lay_out(cfg, groups)
    text = "".join((*cfg.head, *cfg.net.lines))
    for section in cfg.layers:
        text += "".join(_rewrite(section, layout, groups))
    new = DarknetModel(parse_cfg(text, cfg.source)).to(next(model.parameters()))
    _copy_parameters(model, new, layout)
    new.names, new.header, new.letterbox = model.names, model.header, model.letterbox
    return new.train(model.training)


def _split_convs(cfg: Cfg) -> dict[int, int]:
    """Old number of each conv that a grouped route reads → number of groups."""
    groups: dict[int, int] = {}
    for route in cfg.layers:
        count = route.get_int("groups", 1) if route.kind == "route" else 1
        if count == 1:
            continue
        for index in _absolute(route, "layers"):
            source = cfg.layers[index]
            dense = source.kind == "convolutional" and source.get_int("groups", 1) == 1
            if not dense or index == 0:
                raise route.error(
                    "groups", f"reads #{index} [{source.kind}]: only a dense conv can be split."
                )
            if groups.setdefault(index, count) != count:
                raise route.error("groups", f"reads #{index} in {count} groups, another differs.")
    return groups


def _absolute(section: Section, key: str) -> list[int]:
    return [section.index + n if n < 0 else n for n in section.get_ints(key)]


def _lay_out(cfg: Cfg, groups: dict[int, int]) -> _Layout:
    whole: dict[int, int] = {}
    parts: dict[int, tuple[int, ...]] = {}
    position = 0
    for section in cfg.layers:
        count = groups.get(section.index, 1)
        if count > 1:  # conv, then (route, conv) for each further part, then the joining route
            parts[section.index] = tuple(position + 2 * k for k in range(count))
            position += 2 * count - 1
        whole[section.index] = position
        position += 1
    return _Layout(whole, parts)


def _rewrite(section: Section, layout: _Layout, groups: dict[int, int]) -> list[str]:
    """The new lines of one old section."""
    index = section.index
    end = "\r\n" if section.lines[0].endswith("\r\n") else "\n"
    if index in layout.parts:
        numbers = layout.parts[index]
        size = section.get_int("filters", 1) // groups[index]
        conv = [*section.with_options({"filters": size}).lines]
        lines = list(conv)
        for number in numbers[1:]:
            lines += _route((layout.whole[index - 1],), number - 1, end) + conv
        return lines + _route(numbers, layout.whole[index], end)
    if section.kind not in REFERENCES:
        return list(section.lines)
    key = REFERENCES[section.kind]
    if section.kind == "route" and section.get_int("groups", 1) > 1:
        group = section.get_int("group_id", 0)
        targets = [layout.parts[i][group] for i in _absolute(section, key)]
        section = section.without("groups", "group_id")
    else:
        targets = [layout.whole[i] for i in _absolute(section, key)]
    here = layout.whole[index]
    numbers_text = ",".join(
        str(target - here if old < 0 else target)
        for old, target in zip(section.get_ints(key), targets, strict=True)
    )
    return list(section.with_options({key: numbers_text}).lines)


def _route(targets: tuple[int, ...], here: int, end: str) -> list[str]:
    numbers = ",".join(str(target - here) for target in targets)
    return [f"[route]{end}", f"layers={numbers}{end}", end]


@torch.no_grad()
def _copy_parameters(old: DarknetModel, new: DarknetModel, layout: _Layout) -> None:
    layer: Any
    for layer in old.model:
        if layer.i not in layout.parts:
            new.model[layout.whole[layer.i]].load_state_dict(layer.state_dict())
            continue
        numbers = layout.parts[layer.i]
        tensors = zip(*(t.chunk(len(numbers)) for t in layer.darknet_tensors()), strict=True)
        for number, values in zip(numbers, tensors, strict=True):
            part = new.model[number]
            assert isinstance(part, DarknetConv)
            for target, value in zip(part.darknet_tensors(), values, strict=True):
                target.copy_(value)
