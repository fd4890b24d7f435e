"""Slim trained YOLO detectors, Darknet or Ultralytics: really smaller, really faster, still stock.

The names below are the public door. They are imported on first use, so that the command line
can print its help without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from yoloprune.version import __version__ as __version__

if TYPE_CHECKING:
    from yoloprune.api.bench import bench
    from yoloprune.api.loop import Sparsity
    from yoloprune.api.measure import Evaluation, evaluate
    from yoloprune.api.recipes import RecipeRun, run_recipe
    from yoloprune.api.result import Slimmed, Table
    from yoloprune.api.slim import slim
    from yoloprune.api.stages import cut, plan, repair, score, trace
    from yoloprune.channels.graph import ChannelGraph
    from yoloprune.errors import YoloPruneError
    from yoloprune.mask.masking import made_permanent, mask_model
    from yoloprune.mask.sparsity import sparsity
    from yoloprune.mask.spec import MaskSpec
    from yoloprune.measure.bench_result import BenchResult
    from yoloprune.models.door import Source, load, save
    from yoloprune.models.export import ExportOptions, ExportResult, export_model
    from yoloprune.prune.blocks import find_blocks, remove_blocks
    from yoloprune.prune.budget import Budget
    from yoloprune.prune.cut import cut_units
    from yoloprune.prune.plan import PrunePlan
    from yoloprune.prune.score import Scores
    from yoloprune.train.options import DistillOptions, SparsityOptions, TrainOptions
    from yoloprune.train.run import TrainResult
    from yoloprune.train.run import train as train_model
    from yoloprune.train.trainer import trainer_for

__all__ = [
    "BenchResult",
    "Budget",
    "ChannelGraph",
    "DistillOptions",
    "Evaluation",
    "ExportOptions",
    "ExportResult",
    "MaskSpec",
    "PrunePlan",
    "RecipeRun",
    "Scores",
    "Slimmed",
    "Source",
    "Sparsity",
    "SparsityOptions",
    "Table",
    "TrainOptions",
    "TrainResult",
    "YoloPruneError",
    "bench",
    "cut",
    "cut_units",
    "evaluate",
    "export_model",
    "find_blocks",
    "load",
    "made_permanent",
    "mask_model",
    "plan",
    "remove_blocks",
    "repair",
    "run_recipe",
    "save",
    "score",
    "slim",
    "sparsity",
    "trace",
    "train_model",
    "trainer_for",
]

_HOMES = {
    "BenchResult": "measure.bench_result",
    "Budget": "prune.budget",
    "ChannelGraph": "channels.graph",
    "DistillOptions": "train.options",
    "Evaluation": "api.measure",
    "ExportOptions": "models.export",
    "ExportResult": "models.export",
    "MaskSpec": "mask.spec",
    "PrunePlan": "prune.plan",
    "RecipeRun": "api.recipes",
    "Scores": "prune.score",
    "Slimmed": "api.result",
    "Source": "models.door",
    "Sparsity": "api.loop",
    "SparsityOptions": "train.options",
    "Table": "api.result",
    "TrainOptions": "train.options",
    "TrainResult": "train.run",
    "YoloPruneError": "errors",
    "bench": "api.bench",
    "cut": "api.stages",
    "cut_units": "prune.cut",
    "evaluate": "api.measure",
    "export_model": "models.export",
    "find_blocks": "prune.blocks",
    "load": "models.door",
    "made_permanent": "mask.masking",
    "mask_model": "mask.masking",
    "plan": "api.stages",
    "remove_blocks": "prune.blocks",
    "repair": "api.stages",
    "run_recipe": "api.recipes",
    "save": "models.door",
    "score": "api.stages",
    "slim": "api.slim",
    "sparsity": "mask.sparsity",
    "trace": "api.stages",
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
