"""``yoloprune train``: train, sparsify, fine-tune, distil."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.folders import RUNS, new_folder, there
from yoloprune.cli.options import (
    CfgOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    MaxLayerOpt,
    MinChannelsOpt,
    ModelArg,
    OverwriteOpt,
    RoundOpt,
    SeedOpt,
    SettingsOpt,
    TrustOpt,
    WeightsOpt,
    budget_of,
    check_device,
    is_first,
    load_model,
    say,
    write_json,
)
from yoloprune.cli.tables import show_line
from yoloprune.errors import TrainError
from yoloprune.files import check_writable

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source
    from yoloprune.prune.plan import Budget
    from yoloprune.train.options import DistillOptions, Preset, SparsityOptions


TrainDataOpt = Annotated[str, typer.Option(help="Ultralytics data YAML.")]
EpochsOpt = Annotated[int, typer.Option(help="Passes over the training split.", min=1)]
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
    typer.Option("--percent", help="Share of prunable channels that the cut will remove."),
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
    float, typer.Option(help="Share of the epochs after which auto's channels stand at zero.")
]
StrengthOpt = Annotated[
    float, typer.Option(help="Of l1, prox and group; times the learning rate in each step.")
]
DecayOpt = Annotated[
    str, typer.Option(help="Of the strength after half of the epochs: none, half (all), or kept.")
]
TeacherOpt = Annotated[
    str | None, typer.Option(help="Trained network to learn from, too: .pt or .cfg.")
]
DistilOpt = Annotated[
    str,
    typer.Option(
        "--distil", help="What to learn from it: output of the heads, feature before them, off."
    ),
]
DistilWeightOpt = Annotated[float, typer.Option(help="Of its loss beside the labels'.")]
FadeOpt = Annotated[bool, typer.Option(help="Let that weight fall to zero over the training.")]
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
    model: ModelArg = None,
    data: TrainDataOpt = ...,  # type: ignore[assignment]
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    epochs: EpochsOpt = 100,
    imgsz: ImgszOpt = None,
    batch: BatchOpt = 16,
    preset: PresetOpt = None,
    only: OnlyOpt = None,
    sparsity: SparsityOpt = None,
    percent: ShareOpt = None,
    min_channels: MinChannelsOpt = 8,
    max_layer_prune: MaxLayerOpt = 0.9,
    round_to: RoundOpt = 1,
    importance: ImportanceOpt = None,
    until: UntilOpt = 0.7,
    strength: StrengthOpt = 0.0,
    decay: DecayOpt = "none",
    teacher: TeacherOpt = None,
    distil_mode: DistilOpt = "output",
    distil_weight: DistilWeightOpt = 1.0,
    distil_fade: FadeOpt = True,
    scratch: ScratchOpt = False,
    resume: ResumeOpt = False,
    settings: SettingsOpt = None,
    seed: SeedOpt = 0,
    out: OutOpt = None,
    overwrite: OverwriteOpt = False,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Train, sparsify or fine-tune; a slim model keeps its structure."""
    from yoloprune.train.options import parse_settings

    budget = budget_of(0.5 if percent is None else percent, min_channels, max_layer_prune, round_to)
    method = sparsity or ("none" if percent is None else "auto")
    asked = {
        "data": data,
        "epochs": epochs,
        "batch": batch,
        "device": device,
        "seed": seed,
        "only": only,
        "sparsity": _sparsity(method, budget, strength, decay, importance, until),
        "distil": _teacher(teacher, distil_mode, distil_weight, distil_fade, trust),
        "resume": resume,
        "overwrite": overwrite,
        "extra": parse_settings(settings or []),
    }
    check_device(device)
    with _folder(out, resume=resume, overwrite=overwrite) as folder:
        loaded, source = load_model(model, cfg, weights, scratch=scratch, trust=trust)
        asked["preset"] = preset or _preset(loaded, source, asked, scratch=scratch)
        _carry_out(loaded, source, folder, asked, imgsz, json_file)
    if is_first():
        say(f"results in {folder}")


def _preset(model: nn.Module, source: Source, asked: Mapping[str, Any], *, scratch: bool) -> Preset:
    """What suits a network where the user leaves it open."""
    from yoloprune.models.marker import is_marked

    plan = source.model.with_name(f"{source.model.stem}-plan.json")
    slim = is_marked(getattr(model, "yaml", None)) or plan.is_file()
    if scratch or asked["sparsity"] is not None or not slim:
        return "stock"
    if is_first():
        say("--preset keep, since this network was cut; --preset stock trains as Ultralytics does")
    return "keep"


@contextmanager
def _folder(out: Path | None, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """The folder of the run, as far as can be told before anything is loaded.

    Raises:
        TrainError: there is nothing to go on with, or it is finished, or several processes
            would each choose a folder.
        YoloPruneError: it holds another run's results.
    """
    from yoloprune.train.folder import Begun, refuse_results

    if resume:
        folder = out or _newest_unfinished()
        check_writable(folder)
        begun = Begun.read(folder)
        if begun is not None and begun.finished(folder):
            _complete(folder)
            raise TrainError(
                f"--resume: {folder} is finished, its results are {', '.join(begun.files or ())} "
                "there. Leave --resume out and choose another folder to begin another run."
            )
        yield folder
        return
    if out is None and "RANK" in os.environ:
        raise TrainError("--out: is needed where several processes are started. Give -o FOLDER.")
    with new_folder(out, "train") as folder:
        if is_first() and not overwrite:
            refuse_results(folder)
        yield folder


def _complete(folder: Path) -> None:
    """Do what a run that was killed after its last checkpoint left undone."""
    from yoloprune.files import held
    from yoloprune.report.sparsity import PICTURE, write_sparsity_picture
    from yoloprune.train.log import LOG

    with held(folder, alone=True):  # which takes away what is half-written
        if (folder / LOG).is_file() and not (folder / PICTURE).is_file():
            write_sparsity_picture(folder)


def _newest_unfinished() -> Path:
    """The run that --resume alone means.

    Raises:
        TrainError: there is none.
    """
    from yoloprune.train.folder import Begun

    for folder in there(RUNS, "train"):
        begun = Begun.read(folder)
        if begun is not None and begun.files is None:
            return folder
    raise TrainError(
        f"--resume: there is no unfinished run in {RUNS / 'train'} or one numbered after it. Name "
        "its folder with -o."
    )


def _sparsity(
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


def _teacher(
    teacher: str | None, mode: str, weight: float, fade: bool, trust: bool
) -> DistillOptions | None:
    """What the flags of distillation ask for."""
    from yoloprune.train.options import DistillOptions

    if teacher is None or mode == "off":
        return None
    return DistillOptions(
        teacher=teacher,
        mode=mode,  # type: ignore[arg-type]
        weight=weight,
        fade=fade,
        trust=trust,
    )


def _carry_out(
    loaded: nn.Module,
    source: Source,
    out: Path,
    asked: dict[str, Any],
    imgsz: int | None,
    json_file: Path | None,
) -> None:
    """Train, and tell what came of it; one process of a distributed run speaks for all."""
    from yoloprune.measure.data import load_dataset
    from yoloprune.models.checkpoint import task_of
    from yoloprune.models.door import input_size_of
    from yoloprune.report.sparsity import write_sparsity_picture
    from yoloprune.train.options import TrainOptions
    from yoloprune.train.run import train as run_training

    options = TrainOptions(imgsz=max(input_size_of(loaded, imgsz)), **asked)
    if task_of(loaded) == "detect":  # other labels are for Ultralytics to read
        pictures = len(load_dataset(options.data, split="train").images)
        if is_first():
            say(f"training on {pictures} pictures")
    if is_first():
        say(f"results in {out}")
    result = run_training(loaded, out, options)
    if not result.files:  # another process of a distributed run has them
        return
    record: dict[str, Any] = {
        "model": str(source.model),
        "data": options.data,
        "files": {"model": [str(file) for file in result.files]},
    }
    if options.sparsity is not None:
        record["sparsity"] = result.sparsity
        record["files"]["sparsity"] = str(write_sparsity_picture(out))
    _show(record)
    write_json(json_file, record)


def _show(record: Mapping[str, Any]) -> None:
    """How sparse the scales are, and where the trained models are."""
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
