"""A mark in a checkpoint that keeps stock Ultralytics from growing a slim model back.

``YOLO("slim.pt").train()`` does not train the model of the file: it builds a new one from
``model.yaml`` and copies the tensors that still fit, without a word about the rest. Loading,
predicting, validating, fusing and exporting never build anything from it. So a model that is
not what its YAML says gets the message as the name of its scale, which the builder looks up
first of all and does not find: training stops there, with the message. What stood in its place
is kept beside it, and yoloprune's own trainers, which never rebuild, do not mind.

Reference: Ultralytics 8.4.190, ``nn/tasks.py`` ``parse_model``.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from torch import nn

log = logging.getLogger(__name__)

MESSAGE = (
    "This model was slimmed by yoloprune, and stock training would grow it back to full size. "
    "Train it with YOLO(FILE).train(trainer=yoloprune.trainer_for(FILE), data=DATA) or on the "
    "command line with: yoloprune train FILE --data DATA"
)
_SHORT_MESSAGE = " was slimmed by yoloprune and trains with trainer=yoloprune.trainer_for(FILE)"
_KEY = "yoloprune"
_REPLACED = ("scale", "scales", "yaml_file")


def is_marked(yaml: Any) -> bool:
    """Whether a model description carries the mark."""
    return isinstance(yaml, dict) and _KEY in yaml


def unmarked(yaml: dict[str, Any]) -> dict[str, Any]:
    """A copy of a model description without the mark."""
    plain = deepcopy(yaml)
    replaced = plain.pop(_KEY, None)
    if replaced is not None:
        for key in _REPLACED:
            plain.pop(key, None)
        plain.update(replaced)
    return plain


def mark(model: nn.Module) -> None:
    """Mark a model whose structure its own YAML does not describe, unmark any other, in place.

    Models without an Ultralytics description (Darknet's, a user's own) are left alone: stock
    training cannot build anything from them.
    """
    described: Any = model
    yaml = getattr(model, "yaml", None)
    if not isinstance(yaml, dict) or not {"backbone", "head"} <= set(yaml):
        return
    plain = unmarked(yaml)
    described.yaml = _marked(plain, model) if _differs(plain, model) else plain


def _marked(plain: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    replaced = {key: plain[key] for key in _REPLACED if key in plain}
    scales = plain.get("scales") or {"": [1.0, 1.0, float("inf")]}
    marked = {**plain, "scale": MESSAGE, "scales": scales, _KEY: replaced}
    if hasattr(model, "set_classes"):  # trainers of text models rebuild from the file's name
        stem = Path(plain.get("yaml_file", "model")).stem
        marked["yaml_file"] = f"{stem}{_SHORT_MESSAGE}.yaml"
    return marked


def _differs(plain: dict[str, Any], model: nn.Module) -> bool:
    """Whether a model's tensors are not those that its description builds."""
    from yoloprune.models.description import check_description, layers_of

    try:
        check_description(plain, "model.yaml")
        built = layers_of(plain)
    except Exception as exc:  # layers of the user's own: stock training fails at them, too
        log.debug("model.yaml cannot be built: %s", exc)
        return False
    layers = cast(nn.Module, model.model)
    return _shapes(built) != _shapes(layers)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
