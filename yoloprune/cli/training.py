"""What the flags of ``train`` ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yoloprune.errors import TrainError

if TYPE_CHECKING:
    from yoloprune.prune.budget import Budget
    from yoloprune.prune.timing import TimingOptions
    from yoloprune.train.options import DistillOptions, SparsityOptions


def sparsity_of(
    method: str,
    budget: Budget,
    strength: float,
    decay: str,
    importance: str | None,
    until: float,
) -> SparsityOptions | None:
    """What the flags of sparsity ask for.

    Raises:
        TrainError: a value is out of its range, or belongs to another method.
    """
    from yoloprune.train.options import SparsityOptions

    if method != "none":
        return SparsityOptions(
            budget=budget,
            method=method,  # type: ignore[arg-type]
            strength=strength,
            decay=decay,  # type: ignore[arg-type]
            criterion=importance,  # type: ignore[arg-type]
            until=until,
        )
    if strength or decay != "none":
        raise TrainError("--strength, --decay: need --sparsity l1, prox or group.")
    if importance is not None:
        raise TrainError(f"--criterion {importance}: needs --percent, for --sparsity auto.")
    return None


def timed(wish: SparsityOptions | None, timing: TimingOptions | None) -> SparsityOptions | None:
    """The same wish, with where its limit to latency is meant."""
    if wish is None or timing is None:
        return wish
    table = None if timing.table is None else str(timing.table.resolve())
    return replace(wish, runtime=timing.runtime, table=table)


def teacher_of(
    teacher: str | None, how: Mapping[str, Any], trust: bool, *, alone: bool
) -> DistillOptions | None:
    """What the flags of distillation ask for; those left out stay as the options have them.

    Raises:
        TrainError: they say how to learn beside labels, where none is read.
    """
    from yoloprune.train.options import DistillOptions

    given = {name: value for name, value in how.items() if value is not None}
    if alone and given:
        raise TrainError(
            "--distil, --distil-weight, --distil-fade: say how to learn beside labels. Leave them "
            "out with --pictures."
        )
    if teacher is None or given.get("mode") == "off":
        return None
    return DistillOptions(teacher=teacher, trust=trust, **given)
