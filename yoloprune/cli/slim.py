"""``yoloprune slim``: remove channels physically, save, test and measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command, typed
from yoloprune.cli.dry import dry_folder, show_plan
from yoloprune.cli.folders import results_folder
from yoloprune.cli.options import (
    BytesOpt,
    CfgOpt,
    DataOpt,
    DebugOpt,
    DeviceOpt,
    HeldSplitOpt,
    ImgszOpt,
    JsonOpt,
    MacsOpt,
    MaxDropOpt,
    MaxLayerOpt,
    MinChannelsOpt,
    ModelArg,
    OverwriteOpt,
    ParamsOpt,
    PercentOpt,
    PrecisionOpt,
    QuietOpt,
    RatiosOpt,
    RoundOpt,
    SeedOpt,
    TrustOpt,
    WeightsOpt,
    check_device,
    load_model,
    named,
    say,
    seconds_of,
    torch_name,
    write_json,
)
from yoloprune.cli.planning import DryOpt, PlanOpt, check_nothing_chooses
from yoloprune.cli.shorter import BlocksOpt, shortened
from yoloprune.cli.tables import Column, show_line, show_table, size_of, time_of
from yoloprune.cli.targets import TargetOpt
from yoloprune.cli.timing import LatencyOpt, RuntimeOpt, TableOpt, ThreadsOpt
from yoloprune.report.figures import short

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source
    from yoloprune.prune.options import SlimOptions
    from yoloprune.prune.slim import SlimResult


CriterionOpt = Annotated[
    str | None,
    typer.Option(
        help="What ranks the channels: gamma, l1, l2, lamp, fpgm, random; by pictures recon, "
        "activation; by the loss on pictures taylor, fisher, hessian; or a function of yours as "
        "module:function; if not, what suits the network."
    ),
]
ScopeOpt = Annotated[
    str | None,
    typer.Option(
        help="global: one threshold. local: every group loses the same share. isomorphic: every "
        "class of groups of one structure does, by one threshold of its own."
    ),
]
CalibOpt = Annotated[
    str | None,
    typer.Option(
        help="Pictures to repair with, without labels: a folder, a pattern, a .txt list or a data "
        "YAML; if not, the train split of --data."
    ),
]
CalibImagesOpt = Annotated[int, typer.Option(help="How many of them.", min=2)]
RepairOpt = Annotated[
    bool, typer.Option(help="Fit the layers that are left to what the full network gave.")
]
SearchOpt = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="How long to look for better shares than even ones: 90s, 3m, 1h. Each trial is cut, "
        "repaired, and held against what the full network sees.",
    ),
]
SensitivityOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Shares by the curves that `yoloprune sensitivity` measured."
    ),
]
ReduceOpt = Annotated[str, typer.Option(help="Score of tied channels: mean, max, sum, norm.")]
CompensateOpt = Annotated[
    bool, typer.Option(help="Fold the constants of removed channels into what reads them.")
]
SplitRoutesOpt = Annotated[
    bool, typer.Option("--split-routes", help="Write grouped routes as convs of their own.")
]
OutOpt = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder for the results; runs/slim, slim2 … if not."),
]
PassOpt = Annotated[int, typer.Option(help="Pictures a pass in latency.", min=1)]


@command
def slim(
    context: typer.Context,
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    percent: PercentOpt = None,
    macs: MacsOpt = None,
    params: ParamsOpt = None,
    max_bytes: BytesOpt = None,
    precision: PrecisionOpt = None,
    max_drop: MaxDropOpt = None,
    ratios: RatiosOpt = None,
    blocks: BlocksOpt = 0,
    latency: LatencyOpt = None,
    runtime: RuntimeOpt = None,
    threads: ThreadsOpt = None,
    latency_table: TableOpt = None,
    min_channels: MinChannelsOpt = 8,
    max_layer_prune: MaxLayerOpt = 0.9,
    round_to: RoundOpt = None,
    target: TargetOpt = None,
    criterion: CriterionOpt = None,
    scope: ScopeOpt = None,
    reduce: ReduceOpt = "mean",
    compensate: CompensateOpt = True,
    calib: CalibOpt = None,
    calib_images: CalibImagesOpt = 64,
    repair: RepairOpt = True,
    search: SearchOpt = "0",
    sensitivity: SensitivityOpt = None,
    seed: SeedOpt = 0,
    plan: PlanOpt = None,
    dry_run: DryOpt = False,
    split_routes: SplitRoutesOpt = False,
    out: OutOpt = None,
    overwrite: OverwriteOpt = False,
    data: DataOpt = None,
    split: HeldSplitOpt = "val",
    imgsz: ImgszOpt = None,
    batch: PassOpt = 1,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Remove channels physically; repair, save, test and measure the result."""
    from yoloprune.measure.targets import rounding
    from yoloprune.prune.asking import budget_of, half_if_nothing, timing_of

    if plan is not None:
        check_nothing_chooses(context)
    limits = {"macs": macs, "params": params, "bytes": max_bytes, "latency": latency}
    others = {**limits, "ratios": ratios, "max_drop": max_drop, "blocks": blocks}
    floors = (min_channels, max_layer_prune, rounding(round_to, target))
    budget = budget_of(
        half_if_nothing(percent, others), limits, precision, floors,
        file=named(model, cfg), ratios=ratios, max_drop=max_drop, blocks=blocks,
    )  # fmt: skip
    check_device(device)
    stem = named(model, cfg).stem
    name = f"{stem}-slim"
    place = (
        dry_folder(out, stem, overwrite=overwrite)
        if dry_run
        else results_folder(out, "slim", lambda at: _results(at, name), overwrite=overwrite)
    )
    with place as folder:
        loaded, source = load_model(model, cfg, weights, trust=trust)
        from yoloprune.models.door import input_size_of
        from yoloprune.prune.choose import parse_scope
        from yoloprune.prune.options import SlimOptions
        from yoloprune.prune.score import parse_reduce

        options = SlimOptions(
            budget=budget,
            out=folder,
            criterion=criterion,
            scope=parse_scope(scope),
            reduce=parse_reduce(reduce),
            compensate=compensate,
            calib=calib,
            calib_images=calib_images,
            repair=repair,
            search=seconds_of(search, "--search"),
            sensitivity=sensitivity,
            seed=seed,
            plan=plan,
            split_routes=split_routes,
            target=target,
            data=data,
            split=split,
            imgsz=imgsz,
            batch=batch,
            device=torch_name(device),
            timing=timing_of(
                latency, runtime, latency_table, device=device, threads=threads,
                size=input_size_of(loaded, imgsz), batch=batch, model=source.model.name,
                round_to=budget.round_to,
            ),
        )  # fmt: skip
        if dry_run:
            show_plan(loaded, source, options, json_file, keep=out is not None)
            return
        result = _carried_out(loaded, source, options, typed(context))
    _tell(result, json_file, folder)


def _carried_out(
    model: nn.Module, source: Source, options: SlimOptions, command: str
) -> SlimResult:
    """Slim, and write the page and the card beside the model."""
    from yoloprune.prune.sensitivity import Sensitivity
    from yoloprune.prune.slim import slim as run_slim
    from yoloprune.report.slim import write_slim_card, write_slim_page

    result = run_slim(model, source, options)
    result.summary["command"] = command
    stem = Path(result.summary["files"]["model"][0]).stem
    page, card = options.out / f"{stem}-report.html", options.out / f"{stem}-card.md"
    measured = None if options.sensitivity is None else Sensitivity.read(options.sensitivity)
    write_slim_page(
        page, result.summary, result.plan, result.graph, result.scores, result.changed, measured
    )
    write_slim_card(card, result.summary)
    result.summary["files"] |= {"report": str(page), "card": str(card)}
    return result


def _tell(result: SlimResult, json_file: Path | None, folder: Path) -> None:
    _show(result)
    write_json(json_file, result.summary)
    say(f"results in {folder}")


def _results(folder: Path, name: str) -> list[Path]:
    """What an earlier cut of a model of that name left."""
    ends = (".cfg", ".weights", ".names", ".pt", "-plan.json", "-report.html", "-card.md")
    return [path for end in ends if (path := folder / f"{name}{end}").exists()]


def _count(side: Mapping[str, Any], key: str) -> str:
    return short(side[key])


def _fraction(side: Mapping[str, Any], key: str) -> str:
    return f"{side[key]:.4f}"


_ROWS = (
    ("params", "parameters", _count),
    ("macs", "MACs", _count),
    ("bytes", "bytes", _count),
    ("latency_ms", "latency, ms (median ± IQR)", time_of),
    ("AP", "AP50:95", _fraction),
    ("AP50", "AP50", _fraction),
    ("mask_AP", "AP of masks", _fraction),
    ("keypoint_AP", "AP of key points", _fraction),
    ("rotated_AP", "AP of turned boxes", _fraction),
    ("top1", "top-1", _fraction),
)


def _change(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    if key not in ("params", "macs", "bytes", "latency_ms"):
        return f"{after[key] - before[key]:+.4f}"
    return f"÷ {before[key] / after[key]:.2f}" if after[key] else ""


_COLUMNS = (
    Column("", justify="left", wraps=True),
    Column("before", wraps=True),
    Column("after", wraps=True),
    Column("change", optional=1),
)


def _show(result: SlimResult) -> None:
    """Before and after, asked and reached, and where things are."""
    from yoloprune.measure.fastpath import change_line
    from yoloprune.measure.targets import wider_hint

    record = result.summary
    before, after = record["before"], record["after"]
    rows = [
        (name, form(before, key), form(after, key), _change(before, after, key))
        for key, name, form in _ROWS
        if before.get(key) is not None and after.get(key) is not None
    ]
    show_table(f"{record['model']} at {size_of(record['imgsz'])}", _COLUMNS, rows)
    if record["blocks"] is not None:
        show_line(shortened(record["blocks"]))
    reached = record["reached"]
    where = f", {record['scope']}" if record["scope"] else ""  # a given plan has none
    show_line(
        f"asked: {result.plan.budget.asked}; removed {reached['channels']} of "
        f"{reached['prunable_channels']} prunable channels ({reached['percent']:.1%}, "
        f"{reached['units']} units) by {record['criterion']}{where}: {record['why']}"
    )
    show_line(
        f"the cut is exact: it differs from the masked model by "
        f"{record['self_test']['max_rel_diff']:.1e} of the output's scale"
    )
    show_line(change_line(**record["fast_path"]))
    if record["repair"] is not None:
        show_line(_repaired(record["repair"]))
    if record["search"] is not None:
        show_line(_searched(record["search"]))
    if record["max_drop"] is not None:
        show_line(_dropped(record["max_drop"]))
    if record["latency"] is not None:
        show_line(_timed(record["latency"], "full" if record["blocks"] is None else "shorter"))
        if record["latency"]["tries"] and (hint := wider_hint(result.plan.budget.round_to)):
            show_line(hint)
    files = record["files"]
    for path in (*files["model"], files["plan"], files.get("report"), files.get("card")):
        if path:
            show_line(f"wrote {path}")
    verdict = record["verdict"]
    show_line(f"the slim network {verdict['words']}")
    show_line(f"next: {verdict['next']}")


def _repaired(record: Mapping[str, Any]) -> str:
    """What repair did, in a line."""
    if record["left_out"]:
        return f"not repaired: {record['pictures']} pictures brought no gain, see the warning"
    layers = [layer for layer in record["layers"] if layer["after"] < layer["before"]]
    before = sum(layer["before"] for layer in layers) / max(len(layers), 1)
    after = sum(layer["after"] for layer in layers) / max(len(layers), 1)
    return (
        f"repaired on {record['pictures']} pictures in {record['seconds']:.0f} s: {len(layers)} of "
        f"{len(record['layers'])} layers, error on held-out pictures {before:.1%} → {after:.1%} of "
        "their variance"
    )


def _searched(record: Mapping[str, Any]) -> str:
    """What a search came to, in a line."""
    alone = f"{record['parts']} parts alone, then " if record["parts"] else ""
    took = f"searched for {record['seconds']:.0f} s, {alone}{record['trials']} trials: "
    if not record["kept"]:
        return took + "nothing better than even shares on pictures that it did not choose by"
    nearer = 1 - record["found_unseen"] / record["even_unseen"]
    return (
        f"{took}what it sees is {nearer:.0%} nearer to the full network's than with even shares, "
        "on pictures that nothing was chosen by"
    )


def _dropped(record: Mapping[str, Any]) -> str:
    """What a bound on AP came to, in a line."""
    from yoloprune.measure.held_back import HELD_BACK

    chosen, split = record["trials"][record["chosen"]], record["split"]
    line = (
        f"--max-drop {record['bound']:g}: of {len(record['trials'])} cuts the smallest that held "
        f"has {chosen['macs']:.1%} of the multiply-adds; measured anew on {split}, it loses "
        f"{record['again']:.4f} of {record['figure']}. It was chosen there, which flatters it: "
    )
    if split == HELD_BACK:
        return line + "measure it on the val split, which nothing was chosen by"
    return (
        line + f"trust pictures more that nothing was chosen by, or search with --split {HELD_BACK}"
    )


def _timed(record: Mapping[str, Any], whole: str) -> str:
    """How a limit to latency was met, in a line."""
    median, worst = record["error"]
    by = f"the table is off by {median:.1%} (median), {worst:.1%} (worst)"
    if not record["tries"]:
        return (
            f"latency is foretold for {record['machine']} ({record['runtime']}), not measured: {by}"
        )
    last = record["tries"][-1]
    over = last["ms"] / record["limit"] - 1
    held = "and holds" if record["met"] else f"{100 * over:.2g} % over"
    return (
        f"takes {last['ms']:.2f} ms, {last['ms'] / last['full']:.1%} of the {whole} network's "
        f"{last['full']:.2f}, {held} the limit of {record['limit']:.2f} ms "
        f"({record['runtime']}; {len(record['tries'])} cuts were timed; {by})"
    )
