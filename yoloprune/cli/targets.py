"""``--target``, and ``yoloprune targets``: what devices and toolchains want, with sources."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.options import DebugOpt, JsonOpt, is_first, warn, write_json
from yoloprune.cli.tables import Column, show_line, show_table

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.measure.targets import Target

TargetOpt = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="What the network will run on: sets --round-to, and says what of it does not suit; "
        "`yoloprune targets` lists them.",
    ),
]
CountedOpt = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="Count the convs that leave its fast path (onnxruntime if not), and say what of the "
        "network does not suit it.",
    ),
]


@command
def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Say all of one, with sources.")
    ] = None,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """List what devices and toolchains want of a network; with NAME, each fact and its source."""
    from yoloprune.measure.targets import TARGETS, find_target

    chosen = TARGETS if name is None else (find_target(name),)
    if name is None:
        _list(chosen)
    else:
        _describe(chosen[0])
    write_json(json_file, {"targets": [_record(target) for target in chosen]})


def warn_of_ops(model: nn.Module, target: str | None, imgsz: int | None) -> None:
    """Say what of a network its target does badly, where one is named."""
    if target is None or not is_first():
        return
    from yoloprune.measure.fastpath import notes
    from yoloprune.models.door import input_size_of

    for text in notes(model, target, input_size_of(model, imgsz)):
        warn(text)


_COLUMNS = (
    Column("target", justify="left"),
    Column("what", justify="left", optional=2, wraps=True),
    Column("multiples of"),
    Column("layout", justify="left", optional=3, wraps=True),
    Column("precision", justify="left", optional=4, wraps=True),
    Column("to avoid", justify="left", optional=1, wraps=True),
)


def _list(chosen: tuple[Target, ...]) -> None:
    rows = [
        (
            target.name,
            target.title,
            str(target.round_to or "not published"),
            target.layout,
            target.precision,
            ", ".join(item.name for item in target.avoid),
        )
        for target in chosen
    ]
    show_table("targets, and what channels are to be for each", _COLUMNS, rows)
    show_line("each fact and its source: yoloprune targets NAME")


def _describe(target: Target) -> None:
    show_line(f"{target.name}: {target.title}")
    if target.aliases:
        show_line(f"also: {', '.join(target.aliases)}")
    wants = f"multiples of {target.round_to}" if target.round_to else "nothing published of widths"
    show_line(f"channels: {wants}; layout {target.layout}; holds for {target.precision}")
    for fact in target.facts:
        show_line(f"- {fact.says}. {fact.known.capitalize()}: {fact.source}")
    for item in target.avoid:
        fact = item.fact
        show_line(f"- avoid {item.name}: {fact.says}. {fact.known.capitalize()}: {fact.source}")


def _record(target: Target) -> dict[str, Any]:
    """A target as JSON-able data."""
    fields = ("name", "title", "aliases", "round_to", "path", "layout", "precision")
    return {
        **{field: getattr(target, field) for field in fields},
        "facts": [asdict(fact) for fact in target.facts],
        "avoid": [{"op": item.name, **asdict(item.fact)} for item in target.avoid],
    }
