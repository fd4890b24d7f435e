"""How a network is to be slimmed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import Scope
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.score import Reduce
from yoloprune.prune.timing import TimingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimOptions:
    """How to slim.

    Attributes:
        budget: how much is to go, and what must stay; not looked at where there is a plan.
        out: folder for the model, the plan and the report.
        criterion: what ``--criterion`` takes; None for what suits the network.
        scope: ``global``, ``local`` or ``isomorphic``; None for the criterion's own.
        reduce: how a unit's channels become one score.
        compensate: fold the constants of removed channels into their consumers.
        calib: pictures to repair with: a folder, a pattern, a list or a data set; None takes the
            train split of ``data`` where that is given.
        calib_images: how many of them.
        repair: fit what is left to what the full network gave, where there are pictures.
        search: seconds to look for better shares than even ones; 0 does not.
        sensitivity: file of ``yoloprune sensitivity``, whose curves set the shares.
        seed: of the search.
        plan: a plan, or its file, that is carried out as it is; nothing is chosen then.
        split_routes: write grouped routes as convs of their own (Darknet).
        target: name of what it will run on, to say what does not suit it; None only counts the
            convs that leave ONNX Runtime's fast path.
        data: data set to measure on; None measures none.
        split: of the data set; ``held-back`` for a fifth of its train split, which is then not
            repaired on either.
        imgsz: input size for all measurements; None is the model's own.
        batch: pictures a pass in latency.
        device: where to measure.
        repeats: timed passes; 0 times nothing.
        drop_trials: cuts that are tried, at most, where the budget bounds what AP may fall by.
        timing: where a limit to latency is meant; needed where the budget has one.
    """

    budget: Budget
    out: Path
    criterion: str | None = None
    scope: Scope | None = None
    reduce: Reduce = "mean"
    compensate: bool = True
    calib: str | None = None
    calib_images: int = 64
    repair: bool = True
    search: float = 0.0
    sensitivity: Path | None = None
    seed: int = 0
    plan: Path | PrunePlan | None = None
    split_routes: bool = False
    target: str | None = None
    data: str | None = None
    split: str = "val"
    imgsz: int | tuple[int, int] | None = None
    batch: int = 1
    device: str = "cpu"
    repeats: int = 30
    drop_trials: int = 7
    timing: TimingOptions | None = None
