"""``yoloprune train``: train, sparsify, fine-tune, distil."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.next_steps import after_training, is_slim
from yoloprune.cli.options import (
    BytesOpt,
    CfgOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    MacsOpt,
    MaxLayerOpt,
    MinChannelsOpt,
    ModelArg,
    OverwriteOpt,
    ParamsOpt,
    PrecisionOpt,
    QuietOpt,
    RatiosOpt,
    RoundOpt,
    SeedOpt,
    SettingsOpt,
    TrustOpt,
    VerboseOpt,
    WeightsOpt,
    check_device,
    is_first,
    load_model,
    note,
    say,
    write_json,
)
from yoloprune.cli.resuming import resumable, run_folder
from yoloprune.cli.spelling import share
from yoloprune.cli.tables import show_line
from yoloprune.cli.targets import TargetOpt, warn_of_ops
from yoloprune.cli.timing import LatencyOpt, RuntimeOpt, TableOpt, ThreadsOpt
from yoloprune.cli.training import sparsity_of, teacher_of, timed
from yoloprune.progress import stage

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source
    from yoloprune.train.options import Preset


TrainDataOpt = Annotated[
    str | None,
    typer.Option(help="Ultralytics data YAML; with --pictures only to measure on, and optional."),
]
PicturesOpt = Annotated[
    str | None,
    typer.Option(
        help="Learn from --teacher alone on these pictures, without labels: a folder, a pattern, a "
        ".txt list, or the train pictures of a data YAML."
    ),
]
EpochsOpt = Annotated[
    int, typer.Option(help="Passes over the training split, or the pictures.", min=1)
]
StepsOpt = Annotated[
    int | None,
    typer.Option(help="With --pictures: batches in all, in place of --epochs.", min=1),
]
BatchOpt = Annotated[int, typer.Option(help="Pictures a step.", min=1)]
SparsityOpt = Annotated[
    str | None,
    typer.Option(
        help="auto: bring the channels that a cut of --percent would remove to zero, with "
        "nothing to tune (the default where --percent is given); l1, prox, group: a penalty "
        "of --strength on the BatchNorm scales; none."
    ),
]
ShareOpt = Annotated[
    float | None,
    typer.Option(
        "--percent", help="Share of prunable channels that the cut will remove.", callback=share
    ),
]
ImportanceOpt = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help="By what auto chooses: taylor, how much the loss needs a channel; gamma, its scale. "
        "Left out, it is gamma where the scales were trained sparse, else taylor.",
    ),
]
UntilOpt = Annotated[
    float,
    typer.Option(
        help="Share of the epochs after which auto's channels stand at zero.", callback=share
    ),
]
StrengthOpt = Annotated[
    float, typer.Option(help="Of l1, prox and group; times the learning rate in each step.")
]
DecayOpt = Annotated[
    str, typer.Option(help="Of the strength after half of the epochs: none, half (all), or kept.")
]
TeacherOpt = Annotated[
    str | None,
    typer.Option(help="Trained network to learn from, beside labels or without: .pt or .cfg."),
]
DistilOpt = Annotated[
    str | None,
    typer.Option(
        "--distil",
        help="What to learn from it beside labels: output of the heads (the default), feature "
        "before them, off. Without labels it is both.",
    ),
]
DistilWeightOpt = Annotated[
    float | None, typer.Option(help="Of its loss beside the labels'; 1 if not.")
]
FadeOpt = Annotated[
    bool | None,
    typer.Option(
        "--distil-fade/--no-distil-fade",
        help="Let that weight fall to zero over the training, as it does if not.",
    ),
]
PresetOpt = Annotated[
    str | None,
    typer.Option(
        help="keep: a gentle schedule for a network that was cut and repaired, whatever --epochs "
        "is (the default for those); stock: Ultralytics' own. --set goes before either."
    ),
]
OnlyOpt = Annotated[
    str | None, typer.Option("--only", help="norms: train BatchNorm scales and biases alone.")
]
KeepZerosOpt = Annotated[
    bool,
    typer.Option("--keep-zeros", help="Hold weights and scales that are zero (masks) at zero."),
]
ScratchOpt = Annotated[bool, typer.Option("--scratch", help="Start from random weights.")]
ResumeOpt = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in --out, or the newest unfinished one."),
]
OutOpt = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder for the run; runs/train, train2 … if not."),
]


@command
def train(
    context: typer.Context,
    model: ModelArg = None,
    data: TrainDataOpt = None,
    pictures: PicturesOpt = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    epochs: EpochsOpt = 100,
    steps: StepsOpt = None,
    imgsz: ImgszOpt = None,
    batch: BatchOpt = 16,
    preset: PresetOpt = None,
    only: OnlyOpt = None,
    keep_zeros: KeepZerosOpt = False,
    sparsity: SparsityOpt = None,
    percent: ShareOpt = None,
    macs: MacsOpt = None,
    params: ParamsOpt = None,
    max_bytes: BytesOpt = None,
    precision: PrecisionOpt = None,
    latency: LatencyOpt = None,
    runtime: RuntimeOpt = None,
    threads: ThreadsOpt = None,
    latency_table: TableOpt = None,
    ratios: RatiosOpt = None,
    min_channels: MinChannelsOpt = 8,
    max_layer_prune: MaxLayerOpt = 0.9,
    round_to: RoundOpt = None,
    target: TargetOpt = None,
    importance: ImportanceOpt = None,
    until: UntilOpt = 0.7,
    strength: StrengthOpt = 0.0,
    decay: DecayOpt = "none",
    teacher: TeacherOpt = None,
    distil_mode: DistilOpt = None,
    distil_weight: DistilWeightOpt = None,
    distil_fade: FadeOpt = None,
    scratch: ScratchOpt = False,
    resume: ResumeOpt = False,
    settings: SettingsOpt = None,
    seed: SeedOpt = 0,
    out: OutOpt = None,
    overwrite: OverwriteOpt = False,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    verbose: VerboseOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Train, sparsify or fine-tune; a slim model keeps its structure."""
    from yoloprune.measure.targets import rounding
    from yoloprune.prune.asking import budget_of, timing_of
    from yoloprune.train.options import parse_settings

    limits = {"macs": macs, "params": params, "bytes": max_bytes, "latency": latency}
    limited = any(limits.values()) or ratios is not None
    method = sparsity or ("auto" if limited or percent is not None else "none")
    budget = budget_of(
        0.5 if percent is None and not limited else percent, limits, precision,
        (min_channels, max_layer_prune, rounding(round_to, target)), file=model or cfg or "",
        ratios=ratios,
    )  # fmt: skip
    how = {"mode": distil_mode, "weight": distil_weight, "fade": distil_fade}
    asked: dict[str, Any] = {
        "data": data, "pictures": pictures, "epochs": epochs, "steps": steps, "batch": batch,
        "device": device, "seed": seed, "only": only, "keep_zeros": keep_zeros, "resume": resume,
        "overwrite": overwrite, "verbose": verbose,
        "sparsity": sparsity_of(method, budget, strength, decay, importance, until),
        "distil": teacher_of(teacher, how, trust, alone=pictures is not None),
        "extra": parse_settings(settings or []),
    }  # fmt: skip
    check_device(device)
    with run_folder(out, resume=resume, overwrite=overwrite) as folder:
        loaded, source = load_model(model, cfg, weights, scratch=scratch, trust=trust)
        from yoloprune.models.door import input_size_of

        warn_of_ops(loaded, target, imgsz)
        timing = timing_of(
            latency, runtime, latency_table, device="cpu", threads=threads,
            size=input_size_of(loaded, imgsz), batch=1, model=source.model.name,
            round_to=budget.round_to,
        )  # fmt: skip
        asked["sparsity"] = timed(asked["sparsity"], timing)
        asked["preset"] = preset or _preset(loaded, source, asked, scratch=scratch)
        with resumable(context, folder):
            files = _carry_out(loaded, source, folder, asked, imgsz, json_file)
    if files:
        sparse, slim = asked["sparsity"] is not None, is_slim(loaded, source)
        after_training(context, files[0], data, slim=slim, sparse=sparse)
    if is_first():
        say(f"results in {folder}")


def _preset(model: nn.Module, source: Source, asked: Mapping[str, Any], *, scratch: bool) -> Preset:
    """What suits a network where the user leaves it open."""
    if scratch or asked["sparsity"] is not None:
        return "stock"
    if asked["pictures"] is not None:  # a teacher's own statistics are held, too
        return "keep"
    if not is_slim(model, source):
        return "stock"
    if is_first():
        note("--preset keep, since this network was cut; --preset stock trains as Ultralytics does")
    return "keep"


def _carry_out(
    loaded: nn.Module,
    source: Source,
    out: Path,
    asked: dict[str, Any],
    imgsz: int | None,
    json_file: Path | None,
) -> list[str]:
    """Train, and tell what came of it; one process of a distributed run speaks for all.

    Returns:
        Files of the trained networks, the best first; none in another process of such a run.
    """
    from yoloprune.measure.data import load_dataset
    from yoloprune.models.checkpoint import task_of
    from yoloprune.models.door import input_size_of
    from yoloprune.report.sparsity import write_sparsity_picture
    from yoloprune.train.options import TrainOptions
    from yoloprune.train.run import train as run_training

    options = TrainOptions(imgsz=max(input_size_of(loaded, imgsz)), **asked)
    if options.pictures is not None and is_first():
        note("learning from the teacher alone, no label is read")
    if options.data and options.pictures is None and task_of(loaded) == "detect":
        with stage("reading labels"):
            pictures = len(load_dataset(options.data, split="train").images)
        if is_first():
            note(f"training on {pictures} pictures, into {out}")
    if is_first() and not options.keep_zeros:
        _tell_of_zeros(loaded)
    result = run_training(loaded, out, options)
    if not result.files:
        return []
    record: dict[str, Any] = {
        "model": str(source.model), "data": options.data, "pictures": options.pictures,
        "files": {"model": [str(file) for file in result.files]},
    }  # fmt: skip
    if result.metrics is not None:
        record["metrics"] = {name: float(value) for name, value in result.metrics.items()}
    if options.sparsity is not None:
        record["sparsity"] = result.sparsity
        record["files"]["sparsity"] = str(write_sparsity_picture(out))
    _show(record)
    write_json(json_file, record)
    return [str(file) for file in result.files]


def _tell_of_zeros(model: nn.Module) -> None:
    """Masks that are going to be trained away are mostly an oversight."""
    from yoloprune.mask.sparsity import sparsity

    share = sparsity(model).share("conv")
    if share >= _MASKED:
        note(
            f"{share:.0%} of the weights are exactly zero, as masks leave them, and will be "
            "trained like all others; --keep-zeros keeps them zero"
        )


_MASKED = 0.01
"""Share of zeros from which on a network is taken for a masked one."""


def _show(record: Mapping[str, Any]) -> None:
    """How good the best epoch's network is, how sparse the scales, and where the models are."""
    from yoloprune.train.voice import figures

    if measured := figures(record.get("metrics") or {}):
        show_line(f"best.pt: {measured}, as Ultralytics measures it")
    sparse = record.get("sparsity")
    if sparse:
        gamma = sparse["gamma"]
        spread = ", ".join(f"{name} {gamma[name]:.3g}" for name in ("p25", "p50", "p75", "max"))
        show_line(
            f"{sparse['zero_units']} of {sparse['units']} prunable units stand at zero "
            f"({sparse['zero_share']:.1%}); |gamma|: {spread}"
        )
    files = record["files"]
    for path in (*files["model"], files.get("sparsity")):
        if path:
            show_line(f"wrote {path}")
