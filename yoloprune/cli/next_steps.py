"""The command to type next, filled in."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from yoloprune.cli.app import was_given
from yoloprune.cli.tables import show_line

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source

_CHOOSE = (
    "percent", "macs", "params", "max_bytes", "precision", "latency", "runtime", "threads",
    "latency_table", "ratios", "min_channels", "max_layer_prune", "round_to", "target",
)  # fmt: skip
"""Parameters of ``train`` that the cut after it is to be given, too."""


def show_next(*words: object) -> None:
    """A line with a command that a shell takes as it is."""
    show_line(f"next: yoloprune {shlex.join(map(str, words))}")


def model_words(source: Source) -> list[str]:
    """A model as it is typed, with its weights where these are not found by its name."""
    weights = source.weights
    if weights is None or weights.stem == source.model.stem:
        return [str(source.model)]
    return [str(source.model), "--weights", str(weights)]


def is_slim(model: nn.Module, source: Source) -> bool:
    """Whether a network was cut: by its mark, or by the plan beside it."""
    from yoloprune.models.marker import is_marked

    plan = source.model.with_name(f"{source.model.stem}-plan.json")
    return is_marked(getattr(model, "yaml", None)) or plan.is_file()


def after_measuring(model: nn.Module, source: Source, data: str | None) -> None:
    """A full network is cut next, a slim one handed over."""
    words = model_words(source)
    if is_slim(model, source):
        show_next("export", *words, "--format", "onnx")
    elif data is None:
        show_next("slim", *words, "--macs", "0.5", "--dry-run")
    else:
        show_next("slim", *words, "--macs", "0.5", "--data", data)


def after_training(
    context: typer.Context, best: str, data: str | None, *, slim: bool, sparse: bool
) -> None:
    """Sparse scales are cut by the same budget, a slim network handed over, a full one cut.

    Args:
        context: of ``train``.
        best: file of the best epoch's network.
        data: it was measured on; None where it was not.
        slim: whether it was cut before.
        sparse: whether its scales were made sparse for a cut to come.
    """
    measured = [] if data is None else ["--data", data]
    if sparse:
        show_next("slim", best, *flags_of(context, _CHOOSE), *measured)
    elif slim:
        show_next("export", best, "--format", "onnx")
    else:
        show_next("slim", best, "--macs", "0.5", *measured)


def flags_of(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Those of some flags of a command that were typed, with their values."""
    wanted = set(names)
    found = []
    for option in context.command.params:
        name = option.name or ""
        if name in wanted and was_given(context, name):
            found += [max(option.opts, key=len), str(context.params[name])]
    return found
