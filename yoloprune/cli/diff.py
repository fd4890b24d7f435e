"""``yoloprune diff``: two plans side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yoloprune.cli.app import command
from yoloprune.cli.options import DebugOpt, JsonOpt, write_json
from yoloprune.cli.tables import Column, show_line, show_table

if TYPE_CHECKING:
    from yoloprune.prune.plan import PrunePlan
    from yoloprune.prune.plandiff import LayerDiff, PlanDiff

PlanArg = Annotated[Path, typer.Argument(help="A plan, as slim writes it.")]


@command
def diff(
    a: PlanArg,
    b: PlanArg,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Compare two plans: what both remove, and what only one does."""
    from yoloprune.prune.plan import PrunePlan
    from yoloprune.prune.plandiff import diff_plans

    first, second = PrunePlan.read(a), PrunePlan.read(b)
    found = diff_plans(first, second)
    _show(a, b, first, second, found)
    write_json(json_file, {"a": str(a), "b": str(b), **found.to_dict()})


_COLUMNS = (
    Column("layer", justify="left"),
    Column("A"),
    Column("B"),
    Column("both"),
    Column("only A", optional=1),
    Column("only B", optional=1),
    Column("overlap", optional=2),
)
_SIDES = (
    Column("", justify="left"),
    Column("A", justify="left", wraps=True),
    Column("B", justify="left", wraps=True),
)


def _show(a: Path, b: Path, first: PrunePlan, second: PrunePlan, found: PlanDiff) -> None:
    """What the plans say of themselves, and a row a layer."""
    show_line(f"A: {a}")
    show_line(f"B: {b}")
    rows = [("for", _source(first), _source(second))]
    rows.append(("criterion", first.criterion, second.criterion))
    rows.append(("asked", first.budget.asked, second.budget.asked))
    rows += [
        (key.removeprefix("budget."), str(values[0]), str(values[1]))
        for key, values in found.settings.items()
        if key in ("budget.min_channels", "budget.max_layer_prune", "budget.round_to")
    ]
    rows.append(("reached", _reached(first), _reached(second)))
    show_table("plans", _SIDES, rows)
    if found.same_model is False:
        show_line(
            f"different models: A was made for {_source(first)}, B for {_source(second)}; "
            "channels of the same number need not be alike"
        )
    blocks = found.blocks
    sides = (("both", blocks.both), ("A only", blocks.only_a), ("B only", blocks.only_b))
    for side, names in sides:
        if names:
            show_line(f"whole blocks out in {side}: {', '.join(names)}")
    if not blocks.same and found.layers:
        show_line("without different blocks a layer of one name need not be the same layer")
    if found.layers:
        cells = [_row(layer) for layer in found.layers]
        show_table("output channels removed", _COLUMNS, [*cells, ["all", *_row(found.total)[1:]]])
    show_line(_words(found))


def _source(plan: PrunePlan) -> str:
    if plan.source is None:
        return "not said"
    digest = f" ({plan.source.sha256[:12]}…)" if plan.source.sha256 else ""
    return plan.source.path + digest


def _reached(plan: PrunePlan) -> str:
    reached = plan.reached
    return f"{reached.channels} of {reached.prunable_channels} channels ({reached.percent:.1%})"


def _row(layer: LayerDiff) -> list[str]:
    both, only_a, only_b = len(layer.both), len(layer.only_a), len(layer.only_b)
    counts = (both + only_a, both + only_b, both, only_a, only_b)
    return [layer.layer, *map(str, counts), f"{layer.overlap:.0%}"]


def _words(found: PlanDiff) -> str:
    if found.same_cut:
        return f"the same {'blocks and ' if found.blocks.both else ''}channels go"
    total = found.total
    changed = sum(bool(layer.only_a or layer.only_b) for layer in found.layers)
    return (
        f"{len(total.both)} channels go in both, {len(total.only_a)} in A only, "
        f"{len(total.only_b)} in B only ({total.overlap:.0%} overlap); "
        f"{changed} of {len(found.layers)} layers differ"
    )
