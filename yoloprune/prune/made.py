"""A model that was cut and repaired, and what is told of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.prune.choose import Choice
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.repair import RepairRecord
from yoloprune.prune.search import LEAST as SEARCHED_ON
from yoloprune.prune.selftest import SelfTest
from yoloprune.prune.shorter import Shorter
from yoloprune.prune.timing import LatencyRecord
from yoloprune.prune.verdict import head_error, judge

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.channels.graph import ChannelGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A cut and repaired model, and how it came about.

    Attributes:
        free: whether only channels and blocks went that were switched off.
        arbitrary: whether they were chosen by scores that hardly differ.
        latency: what it takes, where that was limited.
        shorter: the whole blocks that went, if any did.
    """

    model: nn.Module
    graph: ChannelGraph
    choice: Choice
    plan: PrunePlan
    test: SelfTest
    repair: RepairRecord | None
    free: bool
    arbitrary: bool
    warnings: list[str]
    latency: LatencyRecord | None = None
    shorter: Shorter | None = None


def story(made: Made, *, compensate: bool) -> dict[str, Any]:
    """How a cut came about, for people and scripts.

    Args:
        made: the cut.
        compensate: whether constants were folded.
    """
    return {
        "criterion": made.plan.criterion,
        "scope": made.choice.scope,
        "why": made.choice.why,
        "search": None if made.choice.search is None else made.choice.search.to_dict(),
        "compensate": compensate,
        "self_test": {"max_rel_diff": made.test.max_rel_diff, "dtype": made.test.dtype},
        "repair": None if made.repair is None else made.repair.to_dict(),
        "latency": None if made.latency is None else made.latency.to_dict(),
        "blocks": None if made.shorter is None else made.shorter.to_dict(),
        "warnings": made.warnings,
    }


def verdict(
    made: Made, before: dict[str, Any], after: dict[str, Any], file: Path | None, data: str | None
) -> dict[str, Any]:
    """What the cut leaves behind; ``file`` is the slim model's, None where it is in memory."""
    found = judge(
        before,
        after,
        made.repair,
        head_error=None if made.repair is None else head_error(made.repair, made.graph),
        free=made.free,
        arbitrary=made.arbitrary,
        even=_could_search(made),
        model=None if file is None else str(file),
        data=data,
    )
    return asdict(found)


def _could_search(made: Made) -> bool:
    """Whether even shares were taken where a search could have looked for others."""
    budget, choice = made.plan.budget, made.choice
    enough = made.repair is not None and made.repair.pictures >= SEARCHED_ON
    shared = budget.percent is not None or bool(budget.limits)
    return enough and shared and choice.scope == "local" and choice.search is None
