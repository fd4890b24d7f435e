"""Another number of classes: new class outputs, every other weight kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from yoloprune.darknet.network import DarknetModel, current_cfg, with_classes
from yoloprune.errors import TrainError

log = logging.getLogger(__name__)

ClassLayer: TypeAlias = nn.Conv2d | nn.Linear | nn.Embedding
Names: TypeAlias = Mapping[int, str]


def fit_classes(model: nn.Module, names: Names) -> nn.Module:
    """A copy of a model for these classes; only the class outputs are new where they differ.

    As in Ultralytics, the output of a class that the model already knows by name is kept, and
    takes the place that the data gives it.

    Args:
        model: any of Ultralytics' models, or a Darknet one. Not modified.
        names: class number → name.

    Returns:
        The copy: float32, every floating-point parameter trainable.

    Raises:
        TrainError: the number differs, and it is not known where the model's class outputs are.
    """
    copy: Any = deepcopy(model).float()
    old: Names = dict(getattr(model, "names", None) or names)
    rows = _rows(old, names)
    if isinstance(copy, DarknetModel):
        if len(names) != len(old):
            copy = _darknet_classes(copy, len(names))
            _tell(old, names, [None] * len(names))
    elif hasattr(copy, "set_classes"):  # classes are texts: there are no outputs of their own
        _text_classes(copy, len(names))
    elif rows is not None:
        _replace(copy, rows)
        copy.names = {row: names[key] for row, key in enumerate(sorted(names))}
        _tell(old, names, rows)
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.dtype.is_floating_point)
    return copy  # type: ignore[no-any-return]


def _tell(old: Names, new: Names, rows: list[int | None]) -> None:
    kept = sum(row is not None for row in rows)
    known = f", of which {kept} are known by name and keep their outputs" if kept else ""
    log.warning(
        "The model has %d classes, the data %d%s: %s class outputs start anew, "
        "everything else keeps its weights.",
        len(old),
        len(new),
        known,
        "the other" if 0 < kept < len(rows) else "no" if kept else "its",
    )


def _rows(old: Names, new: Names) -> list[int | None] | None:
    """For each new class the old output that it takes over; None where all stay as they are."""
    wanted = [_plain(new[key]) for key in sorted(new)]
    known = {_plain(name): row for row, (_, name) in enumerate(sorted(old.items()))}
    unnamed = any(all(str(k) == str(v) for k, v in names.items()) for names in (old, new))
    rows = [None if unnamed else known.get(name) for name in wanted]
    if len(old) == len(new) and (set(rows) == {None} or rows == list(range(len(rows)))):
        return None
    return rows


def _plain(name: str) -> str:
    return str(name).strip().lower()


def _text_classes(model: Any, count: int) -> None:
    """Make room for so many texts in a picture, at most 80, as in Ultralytics' trainers."""
    count = min(count, 80)
    head = model.model[-1]
    head.nc = count
    head.no = count + head.reg_max * 4
    model.yaml = {**model.yaml, "nc": count}


@torch.no_grad()
def _replace(model: Any, rows: list[int | None]) -> None:
    """Give the last layer of an Ultralytics model outputs for other classes, in place."""
    head = model.model[-1]
    slots = class_layers(head, len(rows))
    if not slots:
        raise TrainError(
            f"model.{head.i} ({type(head).__name__}): its class outputs are not known, so it "
            f"cannot be trained for {len(rows)} other classes."
        )
    for owner, name, bias in slots:
        old = owner._modules[name]
        new = _resized(old, rows, bias)
        if isinstance(owner, nn.Sequential):
            owner[int(name)] = new
        else:
            setattr(owner, name, new)
    if hasattr(head, "nc"):
        head.nc = len(rows)
    if hasattr(head, "no"):
        head.no = len(rows) + head.reg_max * 4
    if hasattr(model, "nc"):
        model.nc = len(rows)
    model.yaml = {**model.yaml, "nc": len(rows)}


Slot: TypeAlias = tuple[nn.Module, str, float | None]


def class_layers(head: nn.Module, classes: int) -> list[Slot]:
    """The layers of a head that have one output, or one embedding, for each class.

    Args:
        head: the last layer of an Ultralytics model.
        classes: how many there are to be, which sets the biases that new ones start from.

    Returns:
        (parent, name within it, bias of a new class or None for the layer's own way); nothing
        for a head that is not known.
    """
    from ultralytics.nn.modules import Classify, Detect, RTDETRDecoder, SemanticSegment

    known: Any = head
    if isinstance(known, Detect):
        slots: list[Slot] = []
        for branches in (known.cv3, getattr(known, "one2one_cv3", None)):
            for branch, stride in zip(branches or (), known.stride.tolist(), strict=False):
                # .01 objects a picture of 640 pixels in each of its cells, as in Ultralytics
                start = math.log(5 / classes / (640 / stride) ** 2)
                slots.append((branch, str(len(branch) - 1), start))
        semantic = getattr(getattr(known, "proto", None), "semseg", None)
        return [*slots, *_last([semantic])]
    if isinstance(known, RTDETRDecoder):
        start = -math.log((1 - 0.01) / 0.01) / 80 * classes
        return [
            (known, "denoising_class_embed", None),
            (known, "enc_score_head", start),
            *((known.dec_score_head, str(i), start) for i in range(len(known.dec_score_head))),
        ]
    if isinstance(known, SemanticSegment):
        return _last([known.classifier, known.aux_head])
    if isinstance(known, Classify):
        return [(known, "linear", None)]
    return []


def _last(branches: list[Any]) -> list[Slot]:
    return [(branch, str(len(branch) - 1), None) for branch in branches if branch is not None]


def _resized(old: Any, rows: list[int | None], bias: float | None) -> ClassLayer:
    """The same layer with one output a row, taken over from the old one where a row names it."""
    new: Any = deepcopy(old)
    count = len(rows)
    if isinstance(old, nn.Conv2d):
        new.out_channels = count
    elif isinstance(old, nn.Linear):
        new.out_features = count
    elif isinstance(old, nn.Embedding):
        new.num_embeddings = count
    else:
        raise TrainError(f"{type(old).__name__}: is no layer of class outputs.")
    new.weight = nn.Parameter(old.weight.new_empty(count, *old.weight.shape[1:]))
    if getattr(old, "bias", None) is not None:
        new.bias = nn.Parameter(old.bias.new_empty(count))
    new.reset_parameters()
    if bias is not None and new.bias is not None:
        new.bias.fill_(bias)
    for name, value in old.named_parameters(recurse=False):
        _take_over(new.get_parameter(name), value, rows)
    return new  # type: ignore[no-any-return]


def _take_over(new: Tensor, old: Tensor, rows: list[int | None]) -> None:
    for row, source in enumerate(rows):
        if source is not None:
            new[row] = old[source]


@torch.no_grad()
def _darknet_classes(model: DarknetModel, classes: int) -> DarknetModel:
    """The same network with other heads; box and objectness outputs keep their weights."""
    other = DarknetModel(with_classes(current_cfg(model), classes))
    other.header, other.letterbox = model.header, model.letterbox
    layers: Any = model.model
    heads = {index - 1: layers[index] for index in model.heads}
    for old, new in zip(layers, other.model, strict=True):
        if old.i not in heads:
            new.load_state_dict(old.state_dict())
            continue
        anchors = heads[old.i].num_anchors
        kept = heads[old.i].entries - model.nc
        for name, value in old.state_dict().items():
            target = new.state_dict()[name]
            rows = target.view(anchors, -1, *target.shape[1:])
            rows[:, :kept] = value.view(anchors, -1, *value.shape[1:])[:, :kept]
    return other
