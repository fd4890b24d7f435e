"""Slim trained YOLO detectors, Darknet or Ultralytics: really smaller, really faster, still stock.

The names below are the public door. They are imported on first use, so that the command line
can print its help without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from yoloprune.version import __version__ as __version__

if TYPE_CHECKING:
    from yoloprune.channels.trace import trace
    from yoloprune.errors import YoloPruneError
    from yoloprune.mask.masking import made_permanent, mask_model
    from yoloprune.mask.sparsity import sparsity
    from yoloprune.mask.spec import MaskSpec
    from yoloprune.models.door import Source, load, save
    from yoloprune.models.export import ExportOptions, ExportResult, export_model
    from yoloprune.prune.blocks import find_blocks, remove_blocks
    from yoloprune.prune.budget import Budget
    from yoloprune.prune.cut import cut_units
    from yoloprune.prune.options import SlimOptions
    from yoloprune.prune.slim import SlimResult, slim
    from yoloprune.train.options import DistillOptions, SparsityOptions, TrainOptions
    from yoloprune.train.run import TrainResult
    from yoloprune.train.run import train as train_model
    from yoloprune.train.trainer import trainer_for

__all__ = [
    "Budget",
    "DistillOptions",
    "ExportOptions",
    "ExportResult",
    "MaskSpec",
    "SlimOptions",
    "SlimResult",
    "Source",
    "SparsityOptions",
    "TrainOptions",
    "TrainResult",
    "YoloPruneError",
    "cut_units",
    "export_model",
    "find_blocks",
    "load",
    "made_permanent",
    "mask_model",
    "remove_blocks",
    "save",
    "slim",
    "sparsity",
    "trace",
    "train_model",
    "trainer_for",
]

_HOMES = {
    "Budget": "prune.budget",
    "DistillOptions": "train.options",
    "ExportOptions": "models.export",
    "ExportResult": "models.export",
    "MaskSpec": "mask.spec",
    "SlimOptions": "prune.options",
    "SlimResult": "prune.slim",
    "Source": "models.door",
    "SparsityOptions": "train.options",
    "TrainOptions": "train.options",
    "TrainResult": "train.run",
    "YoloPruneError": "errors",
    "cut_units": "prune.cut",
    "export_model": "models.export",
    "find_blocks": "prune.blocks",
    "load": "models.door",
    "made_permanent": "mask.masking",
    "mask_model": "mask.masking",
    "remove_blocks": "prune.blocks",
    "save": "models.door",
    "slim": "prune.slim",
    "sparsity": "mask.sparsity",
    "trace": "channels.trace",
    "train_model": "train.run:train",
    "trainer_for": "train.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(f"{__name__}.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
