"""Slim trained YOLO detectors, Darknet or Ultralytics: really smaller, really faster, still stock.

The names below are the public door. They are imported on first use, so that the command line
can print its help without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloprune.channels.trace import trace
    from yoloprune.cut import cut_units
    from yoloprune.errors import YoloPruneError
    from yoloprune.export import ExportOptions, ExportResult, export_model
    from yoloprune.models import Source, load, save
    from yoloprune.pipeline import SlimOptions, SlimResult, slim
    from yoloprune.plan import Budget
    from yoloprune.train.options import DistillOptions, SparsityOptions, TrainOptions
    from yoloprune.train.run import TrainResult
    from yoloprune.train.run import train as train_model
    from yoloprune.train.trainer import trainer_for

__all__ = [
    "Budget",
    "DistillOptions",
    "ExportOptions",
    "ExportResult",
    "SlimOptions",
    "SlimResult",
    "Source",
    "SparsityOptions",
    "TrainOptions",
    "TrainResult",
    "YoloPruneError",
    "cut_units",
    "export_model",
    "load",
    "save",
    "slim",
    "trace",
    "train_model",
    "trainer_for",
]

_HOMES = {
    "Budget": "plan",
    "DistillOptions": "train.options",
    "ExportOptions": "export",
    "ExportResult": "export",
    "SlimOptions": "pipeline",
    "SlimResult": "pipeline",
    "Source": "models",
    "SparsityOptions": "train.options",
    "TrainOptions": "train.options",
    "TrainResult": "train.run",
    "YoloPruneError": "errors",
    "cut_units": "cut",
    "export_model": "export",
    "load": "models",
    "save": "models",
    "slim": "pipeline",
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
