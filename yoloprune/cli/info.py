"""``yoloprune info``: what a model is made of, and what of it may go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.next_steps import after_measuring
from yoloprune.cli.options import (
    CfgOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    ModelArg,
    TrustOpt,
    WeightsOpt,
    load_model,
    torch_name,
    warn,
    write_json,
)
from yoloprune.cli.tables import Column, show_line, show_table, size_of
from yoloprune.cli.targets import CountedOpt
from yoloprune.progress import stage
from yoloprune.report.figures import short

BlocksOpt = Annotated[
    bool, typer.Option("--blocks", help="Show the residual blocks instead, and which may go.")
]


@command
def info(
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    imgsz: ImgszOpt = None,
    target: CountedOpt = None,
    blocks: BlocksOpt = False,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Show every layer: shapes, cost, scales, and what is prunable or why not."""
    with stage("loading"):
        from yoloprune.measure.fastpath import examine
        from yoloprune.measure.inspection import inspect_model
        from yoloprune.measure.targets import DEFAULT, find_target
        from yoloprune.models.door import input_size_of, lacks_weights
        from yoloprune.prune.blocks import find_blocks

    wanted = find_target(target or DEFAULT)
    scratch = weights is None and lacks_weights(model or cfg or "")
    loaded, source = load_model(model, cfg, weights, scratch=scratch, trust=trust)
    record = {"model": str(source.model), **inspect_model(loaded.to(torch_name(device)), imgsz)}
    record["fast_path"] = examine(loaded, wanted, tuple(record["imgsz"]))
    record["blocks"] = find_blocks(loaded, input_size_of(loaded, imgsz)).to_dict()
    if scratch:
        warn("no weights at hand: the scales shown are those of a fresh network.")
    if blocks:
        _show_blocks(record)
    else:
        _show(record, suits=target is not None)
    if not scratch:
        after_measuring(loaded, source, None)
    write_json(json_file, record)


_COLUMNS = (
    Column("layer", justify="left"),
    Column("type", justify="left", optional=4),
    Column("out", optional=2),
    Column("prunable", optional=1),
    Column("params", optional=3),
    Column("MACs", optional=2),
    Column("|γ| p05", optional=5),
    Column("p50", optional=3),
    Column("p95", optional=5),
    Column("unit group / why not", justify="left", optional=4, wraps=True),
)


_BLOCK_COLUMNS = (
    Column("block", justify="left"),
    Column("kind", justify="left", optional=1),
    Column("params"),
    Column("MACs"),
    Column("share", optional=2),
)


def _show_blocks(record: Mapping[str, Any]) -> None:
    """A row a block that may go, and why others may not."""
    total = record["totals"]["macs"]
    found = record["blocks"]["removable"]
    rows = [
        (
            block["name"],
            block["kind"],
            short(block["params"]),
            short(block["macs"]),
            f"{block['macs'] / max(total, 1):.1%}",
        )
        for block in found
    ]
    show_table(f"{record['model']} at {size_of(record['imgsz'])}", _BLOCK_COLUMNS, rows)
    for name, why in record["blocks"]["bound"].items():
        show_line(f"{name} cannot go: it {why}")
    show_line(_count_of_blocks(record))


def _count_of_blocks(record: Mapping[str, Any]) -> str:
    """How many blocks may go, in a line."""
    found = record["blocks"]["removable"]
    share = sum(block["macs"] for block in found) / max(record["totals"]["macs"], 1)
    every = len(found) + len(record["blocks"]["bound"])
    return f"{len(found)} of {every} blocks may go whole ({share:.1%} of the MACs)"


def _show(record: Mapping[str, Any], *, suits: bool = False) -> None:
    """A row a layer, and the totals; with what does not suit a target that was named."""
    from yoloprune.measure.fastpath import avoid_lines, off_line

    rows = []
    for layer in record["layers"]:
        gamma = layer["gamma"]
        scales = [f"{gamma[q]:.3g}" for q in ("p05", "p50", "p95")] if gamma else ["", "", ""]
        shape = layer["out_shape"]
        out = "×".join(str(n) for n in shape[1:]) or str(layer["out_channels"])
        why = layer["reason"] or ", ".join(f"#{g}" for g in layer["groups"])
        cost = (short(layer["params"]), short(layer["macs"]))
        rows.append(
            (layer["name"], layer["type"], out, str(layer["prunable"]), *cost, *scales, why)
        )
    show_table(f"{record['model']} at {size_of(record['imgsz'])}", _COLUMNS, rows)
    for reason in record["balances"]:
        show_line(f"equal counts: {reason}")
    for name in record["unreached"]:
        show_line(f"not reached by the forward pass: {name}")
    total = record["totals"]
    share = total["prunable_channels"] / max(total["channels"], 1)
    norms = total["prunable_bn_channels"] / max(total["bn_channels"], 1)
    show_line(
        f"{short(total['params'])} parameters, {short(total['macs'])} MACs; "
        f"{total['prunable_channels']} of {total['channels']} channels prunable ({share:.1%}), "
        f"{total['prunable_bn_channels']} of {total['bn_channels']} BN channels ({norms:.1%}), "
        f"{total['prunable_units']} of {total['units']} units"
    )
    show_line(off_line(record["fast_path"]))
    for text in avoid_lines(record["fast_path"]) if suits else ():
        show_line(text)
    if record["blocks"]["removable"]:
        show_line(f"{_count_of_blocks(record)}: --blocks lists them")
