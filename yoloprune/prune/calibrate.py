"""The pictures that a cut is chosen and repaired on, and what is done with them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from yoloprune.errors import DataError
from yoloprune.measure.copies import device_of
from yoloprune.measure.pictures import Pictures, load_pictures
from yoloprune.measure.resolve import describe
from yoloprune.progress import progress
from yoloprune.prune.choose import Choice
from yoloprune.prune.evidence import Lessons, check_teachable, is_labelled, labelled_lessons
from yoloprune.prune.knapsack import knapsack
from yoloprune.prune.own import find_criterion
from yoloprune.prune.repair import Repaired, RepairOptions, RepairRecord, repair
from yoloprune.prune.search import LEAST, SearchOptions, search
from yoloprune.prune.sensitivity import Sensitivity, by_curves

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.channels.graph import BoolArray, ChannelGraph
    from yoloprune.prune.budget import Budget
    from yoloprune.prune.planner import Planner
    from yoloprune.prune.score import Scores

log = logging.getLogger(__name__)

_LEAST = 2
_FEW = 8
"""Pictures under which a repair is poor."""
_DRIFT = 0.25
"""Standard deviations: seen .12 on pictures of the network's own kind, .35 on foreign ones."""


def calibration_source(
    calib: str | None, data: str | None, *, repair: bool, criterion: str | None
) -> str | None:
    """What names the pictures to look at, if anything does.

    Args:
        calib: what the user named.
        data: the data set that is measured on; else its train split is taken.
        repair: whether there will be a repair.
        criterion: that ranks channels.
    """
    if calib is not None or data is None:
        return calib
    # A folder is one of classes; without a train split there is only what is measured on.
    looks = criterion is not None and find_criterion(criterion).looks != "weights"
    wanted = (repair or looks) and not Path(data).is_dir()
    return data if wanted and describe(data).entries.get("train") else None


def lessons_for(
    model: nn.Module,
    criterion: str | None,
    sources: tuple[str | None, ...],
    size: tuple[int, int],
    count: int,
) -> Lessons | None:
    """Labelled pictures, where a criterion asks the loss and there are any.

    Args:
        model: the network.
        criterion: that ranks channels.
        sources: what names pictures, the best first; of the first with labels the train split is
            taken.
        size: height and width of the input in pixels.
        count: how many are taken.

    Raises:
        PlanError: the model has no loss that can be asked.
        DataError: the classes of labelled pictures are not the model's.
    """
    if criterion is None or find_criterion(criterion).looks != "loss":
        return None
    check_teachable(model, criterion)
    for source in sources:
        if source is not None and is_labelled(source):
            found = labelled_lessons(model, source, size, count)
            if found is not None:
                return found
    return None


def calibration(
    model: nn.Module, source: str | None, size: tuple[int, int], count: int, *, asked: bool
) -> Pictures | None:
    """The pictures that calibrate, ready for the network.

    Args:
        model: the network.
        source: what names them, see :func:`calibration_source`.
        size: height and width of the input in pixels.
        count: how many are taken.
        asked: whether the user named them.

    Returns:
        None where none are named, or a data set that was given for something else has too few.

    Raises:
        DataError: those that the user named cannot be used.
    """
    if source is None:
        return None
    found = load_pictures(model, source, size, count=count)
    many = len(found.files)
    if many < _LEAST and asked:
        raise DataError(
            f"--calib {source}: has {many} picture, expected at least {_LEAST}, better some dozens."
        )
    if many < _FEW:
        what = "repair is poor" if many >= _LEAST else "nothing is repaired"
        log.warning(
            "warning: %s: with %d pictures to repair on %s. Give some dozens with --calib.",
            source, many, what,
        )  # fmt: skip
    return found if many >= _LEAST else None


def searched(
    model: nn.Module,
    graph: ChannelGraph,
    choice: Choice,
    pictures: Pictures,
    options: SearchOptions,
) -> Choice:
    """The same choice with shares that are searched for, as far as there is something to find."""
    if choice.compares:
        log.info("--search: left out, the cut takes switched-off channels alone")
        return choice
    if len(pictures.files) < LEAST:
        log.warning(
            "warning: --search: left out, %s has %d pictures, and it needs at least %d",
            pictures.source, len(pictures.files), LEAST,
        )  # fmt: skip
        return choice
    with progress("search") as advance:
        how = replace(options, progress=advance)
        found = search(model, graph, choice.scores, choice.budget, pictures.images, how)
    return replace(choice, scores=found.scores, budget=found.budget, search=found.record)


def measured_shares(choice: Choice, graph: ChannelGraph, file: Path) -> Choice:
    """A choice whose order within parts stands, and whose shares are those of measured curves."""
    found = Sensitivity.read(file)
    made = by_curves(choice.scores, graph, found)
    name = f"{choice.scores.criterion}, {made.criterion}"
    limited = bool(choice.budget.limits)
    how = "that lose least for what they cost" if limited else "at equal losses"
    why = f"shares {how}, as {file.name} measured"
    scores = replace(made, criterion=name)
    return replace(choice, scores=scores, scope="global", why=why, compares=False, curves=True)


def shared_out(planner: Planner, choice: Choice, budget: Budget) -> Scores:
    """Scores for a budget: by the knapsack where a choice has curves, and there is a limit."""
    if choice.curves and budget.limits:
        return knapsack(planner, choice.scores, budget)
    return choice.scores


def repair_on(
    model: nn.Module,
    thin: nn.Module,
    graph: ChannelGraph,
    kept: BoolArray,
    pictures: Pictures,
    device: str,
) -> Repaired:
    """Repair with a progress bar; the result stays where ``thin`` is."""
    with progress("repair") as advance:
        how = RepairOptions(device=device, progress=advance)
        done = repair(model, thin, graph, kept, pictures.images, how)
    return Repaired(model=done.model.to(device_of(thin)), record=done.record)


def repair_warnings(record: RepairRecord, pictures: Pictures) -> list[str]:
    """Say so where the pictures are of another world than the training's, or repair did harm."""
    texts = []
    if record.drift is not None and record.drift >= _DRIFT:
        texts.append(
            f"{pictures.source}: these pictures look foreign to the network: its channel means on "
            f"them are {record.drift:.2f} standard deviations from those of its training (median; "
            f"about 0.1 for its own kind, from {_DRIFT} on repair harms). Give pictures like those "
            "that it is for."
        )
    if record.left_out:
        before, after = record.apart
        texts.append(
            "repair was left out: each layer came nearer to the full network, but what the whole "
            f"gives on mirrored pictures went from an error of {before:.2g} to {after:.2g} of its "
            "variance. More pictures, or a smaller cut, may help."
        )
    for text in texts:
        log.warning("warning: %s", text)
    return texts
