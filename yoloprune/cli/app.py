"""The command line: flags → one library call → print. Heavy modules are imported on use."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from yoloprune.errors import TrainError, YoloPruneError

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source
    from yoloprune.prune.plan import Budget

app = typer.Typer(
    name="yoloprune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Slim trained YOLO detectors, Darknet or Ultralytics: really smaller, really faster, "
    "still stock.",
)

ModelArg = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="A .cfg (with --weights), .pt or Ultralytics .yaml."),
]
CfgOpt = Annotated[str | None, typer.Option("--cfg", help="The same as MODEL.")]
WeightsOpt = Annotated[
    str | None,
    typer.Option(help="Darknet weights; weights/NAME.weights is looked up, then fetched, if not."),
]
DataOpt = Annotated[str | None, typer.Option(help="Data YAML, or Darknet .data, to measure AP on.")]
SplitOpt = Annotated[str, typer.Option(help="Split of the data: train, val or test.")]
DeviceOpt = Annotated[str, typer.Option(help="cpu, 0, cuda:0 …; a GPU if there is one.")]
ImgszOpt = Annotated[int | None, typer.Option(help="Side of the input in pixels.", min=32)]
JsonOpt = Annotated[Path | None, typer.Option("--json", help="Write the result here as JSON.")]
DebugOpt = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
PercentOpt = Annotated[float, typer.Option(help="Share of prunable channels to remove.")]
MinChannelsOpt = Annotated[int, typer.Option(help="Every layer keeps at least so many.")]
MaxLayerOpt = Annotated[float, typer.Option(help="Most that one layer may lose.")]
RoundOpt = Annotated[int, typer.Option(help="Keep multiples of this, rounded up.")]
TrustOpt = Annotated[
    bool, typer.Option("--trust", help="Unpickle a .pt of unknown classes. That can run any code.")
]

Command = TypeVar("Command", bound=Callable[..., None])


def command(function: Command) -> Command:
    """Register a command that reports yoloprune's own errors as one line and exits with 1."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        debug = options.get("debug", False)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
        logging.getLogger("yoloprune").setLevel(logging.DEBUG if debug else logging.INFO)
        try:
            function(*args, **options)
        except YoloPruneError as exc:
            if debug:
                raise
            message = " ".join(str(exc).split())
            print(f"yoloprune: {message}", file=sys.stderr)
            raise typer.Exit(1) from exc

    app.command()(run)
    return function


def _load(
    model: str | None, cfg: str | None, weights: str | None, *, scratch: bool = False, trust: bool
) -> tuple[nn.Module, Source]:
    if (model is None) == (cfg is None):
        raise typer.BadParameter("name one model: either MODEL or --cfg FILE.")
    from yoloprune.models.door import load

    return load(model or cfg or "", weights, scratch=scratch, trust=trust)


def _budget(percent: float, min_channels: int, max_layer_prune: float, round_to: int) -> Budget:
    from yoloprune.prune.plan import Budget

    return Budget(
        percent=percent,
        min_channels=min_channels,
        max_layer_prune=max_layer_prune,
        round_to=round_to,
    )


def _device(name: str) -> str:
    """Spell a device as torch does."""
    from yoloprune.models.door import torch_device

    return torch_device(name)


def _write_json(path: Path | None, record: dict[str, Any]) -> None:
    if path is not None:
        from yoloprune.files import write_bytes

        write_bytes(path, (json.dumps(record, indent=2) + "\n").encode())


def _is_first() -> bool:
    """Whether this is the only process, or the one of a distributed run that speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def _say(text: str) -> None:
    print(text, flush=True)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


@command
def slim(
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    percent: PercentOpt = 0.5,
    min_channels: MinChannelsOpt = 8,
    max_layer_prune: MaxLayerOpt = 0.9,
    round_to: RoundOpt = 1,
    criterion: Annotated[str, typer.Option(help="What ranks the channels.")] = "gamma",
    reduce: Annotated[str, typer.Option(help="Score of tied channels: mean, max, sum.")] = "mean",
    compensate: Annotated[
        bool, typer.Option(help="Fold the constants of removed channels into what reads them.")
    ] = True,
    split_routes: Annotated[
        bool, typer.Option("--split-routes", help="Write grouped routes as convs of their own.")
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")] = Path(
        "slim"
    ),
    data: DataOpt = None,
    split: SplitOpt = "val",
    imgsz: ImgszOpt = None,
    batch: Annotated[int, typer.Option(help="Pictures a pass in latency.", min=1)] = 1,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Remove channels physically; save, test and measure the result."""
    budget = _budget(percent, min_channels, max_layer_prune, round_to)
    from yoloprune.cli import show
    from yoloprune.files import check_writable

    check_writable(out)
    loaded, source = _load(model, cfg, weights, trust=trust)
    from yoloprune.prune.score import parse_reduce
    from yoloprune.prune.slim import SlimOptions
    from yoloprune.prune.slim import slim as run_slim
    from yoloprune.report.slim import write_slim_report

    options = SlimOptions(
        budget=budget,
        out=out,
        criterion=criterion,
        reduce=parse_reduce(reduce),
        compensate=compensate,
        split_routes=split_routes,
        data=data,
        split=split,
        imgsz=imgsz,
        batch=batch,
        device=_device(device),
    )
    result = run_slim(loaded, source, options)
    report = write_slim_report(out, result.summary, result.plan, result.graph, result.scores)
    result.summary["files"]["report"] = str(report)
    show.slim(result)
    _write_json(json_file, result.summary)


@command
def info(
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    imgsz: ImgszOpt = None,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Show every layer: shapes, cost, scales, and what is prunable or why not."""
    from yoloprune.cli import show
    from yoloprune.measure.inspection import inspect_model
    from yoloprune.models.door import lacks_weights

    scratch = weights is None and lacks_weights(model or cfg or "")
    loaded, source = _load(model, cfg, weights, scratch=scratch, trust=trust)
    record = {"model": str(source.model), **inspect_model(loaded.to(_device(device)), imgsz)}
    if scratch:
        _warn("no weights at hand: the scales shown are those of a fresh network.")
    show.info(record)
    _write_json(json_file, record)


@command
def val(
    model: ModelArg = None,
    data: Annotated[str, typer.Option(help="Data YAML, or Darknet .data.")] = ...,  # type: ignore[assignment]
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    split: SplitOpt = "val",
    imgsz: ImgszOpt = None,
    conf: Annotated[float, typer.Option(help="Least confidence that counts.")] = 0.001,
    iou: Annotated[float | None, typer.Option(help="NMS threshold.")] = None,
    max_det: Annotated[int, typer.Option(help="Most boxes a picture.")] = 300,
    batch: Annotated[int, typer.Option(help="Pictures a pass.", min=1)] = 16,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Measure COCO average precision."""
    from yoloprune.cli import show
    from yoloprune.measure.data import load_dataset

    dataset = load_dataset(data, split=split)
    loaded, source = _load(model, cfg, weights, trust=trust)
    from yoloprune.measure.accuracy import evaluate
    from yoloprune.measure.detect import DetectOptions
    from yoloprune.models.door import input_size_of

    size = input_size_of(loaded, imgsz)
    options = DetectOptions(
        imgsz=size, conf=conf, iou=iou, max_det=max_det, batch=batch, device=_device(device)
    )
    accuracy = evaluate(loaded, dataset, options)
    record = {"model": str(source.model), "data": data, "split": split, **accuracy.to_dict()}
    show.val(record)
    _write_json(json_file, record)


@command
def predict(
    model: str = typer.Argument(help="A .cfg (with --weights), .pt or Ultralytics .yaml."),
    images: list[Path] = typer.Argument(help="Pictures."),  # noqa: B008
    weights: WeightsOpt = None,
    conf: Annotated[float, typer.Option(help="Least confidence shown.")] = 0.25,
    iou: Annotated[float | None, typer.Option(help="NMS threshold.")] = None,
    imgsz: ImgszOpt = None,
    device: DeviceOpt = "",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the pictures with boxes here.")
    ] = None,
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Find objects in pictures."""
    from yoloprune.cli import show
    from yoloprune.measure.predict import predict_images

    loaded, _ = _load(model, None, weights, trust=trust)
    from yoloprune.measure.detect import DetectOptions, is_darknet
    from yoloprune.models.door import input_size_of

    options = DetectOptions(
        imgsz=input_size_of(loaded, imgsz),
        conf=conf,
        iou=iou,
        device=_device(device),
        clip=True,
        resize="darknet" if is_darknet(loaded) else "opencv",
    )
    record = predict_images(loaded, images, options)
    if out is not None:
        from yoloprune.report.predictions import write_predictions

        write_predictions(out, record)
    show.predict(record)
    _write_json(json_file, record)


@command
def train(
    model: ModelArg = None,
    data: Annotated[str, typer.Option(help="Ultralytics data YAML.")] = ...,  # type: ignore[assignment]
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training split.", min=1)] = 100,
    imgsz: ImgszOpt = None,
    batch: Annotated[int, typer.Option(help="Pictures a step.", min=1)] = 16,
    sparsity: Annotated[
        str | None,
        typer.Option(
            help="auto: bring the channels that a cut of --percent would remove to zero, with "
            "nothing to tune (the default where --percent is given); l1, prox, group: a penalty "
            "of --strength on the BatchNorm scales; none."
        ),
    ] = None,
    percent: Annotated[
        float | None, typer.Option(help="Share of prunable channels that the cut will remove.")
    ] = None,
    min_channels: MinChannelsOpt = 8,
    max_layer_prune: MaxLayerOpt = 0.9,
    round_to: RoundOpt = 1,
    importance: Annotated[
        str,
        typer.Option(
            "--criterion",
            help="By what auto chooses: gamma, the scales; taylor, how much the loss needs them.",
        ),
    ] = "gamma",
    until: Annotated[
        float, typer.Option(help="Share of the epochs after which auto's channels stand at zero.")
    ] = 0.7,
    strength: Annotated[
        float, typer.Option(help="Of l1, prox and group; times the learning rate in each step.")
    ] = 0.0,
    decay: Annotated[
        str,
        typer.Option(help="Of the strength after half of the epochs: none, half (all), or kept."),
    ] = "none",
    teacher: Annotated[
        str | None, typer.Option(help="Trained network to learn from, too: .pt or .cfg.")
    ] = None,
    distil_mode: Annotated[
        str,
        typer.Option(
            "--distil", help="What to learn from it: output of the heads, feature before them, off."
        ),
    ] = "output",
    distil_weight: Annotated[float, typer.Option(help="Of its loss beside the labels'.")] = 1.0,
    distil_fade: Annotated[
        bool, typer.Option(help="Let that weight fall to zero over the training.")
    ] = True,
    scratch: Annotated[bool, typer.Option("--scratch", help="Start from random weights.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Ultralytics setting, key=value; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the run.")] = Path(
        "runs/train"
    ),
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Train, sparsify or fine-tune; a slim model keeps its structure."""
    from yoloprune.cli import show
    from yoloprune.files import check_writable
    from yoloprune.measure.data import load_dataset
    from yoloprune.train.options import (
        DistillOptions,
        SparsityOptions,
        TrainOptions,
        parse_settings,
    )

    method = sparsity or ("none" if percent is None else "auto")
    sparse = distil = None
    if method == "none" and (strength or decay != "none"):
        raise TrainError("--strength, --decay: need --sparsity l1, prox or group.")
    if method == "none" and importance != "gamma":
        raise TrainError(f"--criterion {importance}: needs --percent, for --sparsity auto.")
    if method != "none":
        budget = _budget(
            0.5 if percent is None else percent, min_channels, max_layer_prune, round_to
        )
        sparse = SparsityOptions(
            budget=budget,
            method=method,  # type: ignore[arg-type]
            strength=strength,
            decay=decay,  # type: ignore[arg-type]
            criterion=importance,  # type: ignore[arg-type]
            until=until,
        )
    if teacher is not None and distil_mode != "off":
        distil = DistillOptions(
            teacher=teacher,
            mode=distil_mode,  # type: ignore[arg-type]
            weight=distil_weight,
            fade=distil_fade,
            trust=trust,
        )
    check_writable(out)
    loaded, source = _load(model, cfg, weights, scratch=scratch, trust=trust)
    from yoloprune.models.checkpoint import task_of
    from yoloprune.models.door import input_size_of
    from yoloprune.report.sparsity import write_sparsity_picture
    from yoloprune.train.run import train as run_training

    options = TrainOptions(
        data=data,
        epochs=epochs,
        imgsz=max(input_size_of(loaded, imgsz)),
        batch=batch,
        device=device,
        seed=seed,
        sparsity=sparse,
        distil=distil,
        resume=resume,
        extra=parse_settings(settings or []),
    )
    if task_of(loaded) == "detect":  # other labels are for Ultralytics to read
        pictures = len(load_dataset(data, split="train").images)
        if _is_first():
            _say(f"training on {pictures} pictures")
    if _is_first():
        _say(f"results in {out}")
    result = run_training(loaded, out, options)
    if not result.files:  # another process of a distributed run has them
        return
    record: dict[str, Any] = {
        "model": str(source.model),
        "data": data,
        "files": {"model": [str(file) for file in result.files]},
    }
    if sparse is not None:
        record["sparsity"] = result.sparsity
        record["files"]["sparsity"] = str(write_sparsity_picture(out))
    show.train(record)
    _write_json(json_file, record)


@command
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for everything; runs/NAME if not.")
    ] = None,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Carry out a recipe, round by round; after a kill the same command goes on."""
    from yoloprune.rounds.recipe import read_recipe

    checked = read_recipe(recipe)
    folder = out or Path("runs") / recipe.stem
    from yoloprune.cli import show
    from yoloprune.rounds.run import run_recipe

    _say(f"results in {folder}")
    result = run_recipe(checked, folder)
    show.rounds(result.record)
    _write_json(json_file, result.record)


@command
def export(
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    file_format: Annotated[
        str, typer.Option("--format", help="onnx, or any other export format of Ultralytics.")
    ] = "onnx",
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the result.")] = Path(
        "export"
    ),
    imgsz: ImgszOpt = None,
    batch: Annotated[int, typer.Option(help="Pictures a pass.", min=1)] = 1,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave batch, height and width open.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Weights in half precision.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Ultralytics setting, key=value; repeatable.")
    ] = None,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Write a model for another toolchain; ONNX is checked against ONNX Runtime."""
    from yoloprune.cli import show
    from yoloprune.files import check_writable

    check_writable(out)
    loaded, source = _load(model, cfg, weights, trust=trust)
    from yoloprune.models.export import ExportOptions, export_model
    from yoloprune.train.options import parse_settings

    options = ExportOptions(
        out=out,
        format=file_format,
        imgsz=imgsz,
        batch=batch,
        dynamic=dynamic,
        half=half,
        device=device,
        extra=parse_settings(settings or []),
    )
    result = export_model(loaded, source.model.stem, options)
    record = {"model": str(source.model), **result.to_dict()}
    show.export(record)
    _write_json(json_file, record)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except KeyboardInterrupt:
        print("yoloprune: stopped.", file=sys.stderr)
        sys.exit(130)
