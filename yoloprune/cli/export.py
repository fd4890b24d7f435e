"""``yoloprune export``: a model for another toolchain."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.folders import results_folder
from yoloprune.cli.next_steps import model_words, show_next
from yoloprune.cli.options import (
    CfgOpt,
    DataOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    ModelArg,
    OverwriteOpt,
    QuietOpt,
    SettingsOpt,
    SplitOpt,
    TrustOpt,
    VerboseOpt,
    WeightsOpt,
    check_device,
    load_model,
    named,
    say,
    write_json,
)
from yoloprune.cli.tables import show_line
from yoloprune.progress import progress, stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yoloprune.models.export import ExportOptions


PrecisionOpt = Annotated[
    str | None,
    typer.Option(
        help="fp32, fp16, or int8 by the format's own tool: ONNX Runtime's for onnx, NNCF for "
        "openvino, what Ultralytics' exporters call for others."
    ),
]
CalibOpt = Annotated[
    str | None,
    typer.Option(
        help="Pictures that int8 is calibrated on, without labels: a folder, a pattern, a .txt "
        "list or a data YAML; if not, the train split of --data."
    ),
]
CalibImagesOpt = Annotated[int, typer.Option(help="How many of them.", min=2)]
KeepFloatOpt = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        help="What int8 leaves in float: auto (first and last layers, decoding, and what is "
        "measured to harm most), none, or layers and globs with commas between.",
    ),
]
DropOpt = Annotated[
    float | None,
    typer.Option(
        metavar="AP",
        help="Keep more in float until int8 loses at most so much AP (0.005 is half a point) on "
        "--split of --data.",
    ),
]


@command
def export(
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    file_format: Annotated[
        str, typer.Option("--format", help="onnx, or any other export format of Ultralytics.")
    ] = "onnx",
    precision: PrecisionOpt = None,
    half: Annotated[bool, typer.Option("--half", help="The same as --precision fp16.")] = False,
    calib: CalibOpt = None,
    calib_images: CalibImagesOpt = 64,
    keep_float: KeepFloatOpt = "auto",
    data: DataOpt = None,
    split: SplitOpt = "val",
    max_drop: DropOpt = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the result; runs/export, export2 … if not."),
    ] = None,
    overwrite: OverwriteOpt = False,
    imgsz: ImgszOpt = None,
    batch: Annotated[int, typer.Option(help="Pictures a pass.", min=1)] = 1,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave batch, height and width open.")
    ] = False,
    settings: SettingsOpt = None,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    verbose: VerboseOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Write a model for another toolchain; ONNX is checked against ONNX Runtime."""
    with stage("loading"):
        from yoloprune.models.export import ExportOptions, export_model, file_name
        from yoloprune.train.options import parse_settings

    if half and precision not in (None, "fp16"):
        raise typer.BadParameter(f"--half: is --precision fp16, got {precision}, too.")
    extra = parse_settings(settings or [])
    check_device(device)
    kind: Any = precision or ("fp16" if half else "fp32")
    asked = ExportOptions(
        out=Path(),
        format=file_format,
        precision=kind,
        keep_float=keep_float,
        imgsz=imgsz,
        batch=batch,
        dynamic=dynamic,
        device=device,
        extra=extra,
        overwrite=overwrite,
        verbose=verbose,
    )
    _check_flags(asked, calib, data, split, max_drop)
    target = file_name(named(model, cfg).stem, file_format, kind)

    def results(folder: Path) -> list[Path]:
        return [folder / target] if (folder / target).exists() else []

    with results_folder(out, "export", results, overwrite=overwrite) as folder:
        loaded, source = load_model(model, cfg, weights, trust=trust)
        layers = progress("layers") if kind == "int8" else nullcontext()
        with _handed(loaded, replace(asked, out=folder)) as options, layers as advance:
            if advance is not None:
                pictures = _pictures(loaded, str(calib or data), options, calib_images)
                options = replace(options, calibration=pictures, advance=advance)
            if data is not None:
                measured = _accuracy(loaded, data, split, options)
                options = replace(options, accuracy=measured, max_drop=max_drop)
            result = export_model(loaded, source.model.stem, options)
    record = {"model": str(source.model), **result.to_dict()}
    _show(record)
    if (runtime := _RUNS.get(record["format"])) is not None:
        in_8 = ["--precision", "fp32,int8", "--calib", calib or data] if kind == "int8" else []
        show_next("bench", *model_words(source), "--runtimes", runtime, *in_8)
    write_json(json_file, record)
    say(f"results in {folder}")


_RUNS = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "torchscript": "torchscript",
}
"""Format → the runtime of `bench` that it is for."""


def _check_flags(
    options: ExportOptions,
    calib: str | None,
    data: str | None,
    split: str,
    max_drop: float | None,
) -> None:
    """Refuse flags that mean nothing together, before any work."""
    from yoloprune.measure.pictures import find_pictures
    from yoloprune.measure.tasks import look
    from yoloprune.models.int8 import as_pictures, check_int8

    if options.precision == "int8":
        check_int8(options.format, options.quantised)
    given = {"--calib": calib, "--data": data, "--max-drop": max_drop}
    for name, value in given.items():
        if value is not None and options.precision != "int8":
            raise typer.BadParameter(f"{name}: is of --precision int8. Give that too.")
    if max_drop is not None and (data is None or max_drop < 0):
        raise typer.BadParameter("--max-drop: wants --data to measure on, and at least 0.")
    if options.precision == "int8":
        if calib is None and data is None:
            as_pictures(None)
        find_pictures(str(calib or data))
    if data is not None:
        look(data, split)


def _pictures(model: nn.Module, source: str, options: ExportOptions, count: int) -> Tensor:
    """What is calibrated on, as the network is given pictures."""
    from yoloprune.measure.pictures import load_pictures
    from yoloprune.models.door import input_size_of

    size = input_size_of(model, options.imgsz)
    return load_pictures(model, source, size, count=count).images


def _accuracy(
    model: nn.Module, data: str, split: str, options: ExportOptions
) -> Callable[[Path], float]:
    """What measures a file."""
    from yoloprune.measure.data import load_dataset
    from yoloprune.measure.detect import DetectOptions
    from yoloprune.measure.exported import file_accuracy
    from yoloprune.models.door import input_size_of

    how = DetectOptions(imgsz=input_size_of(model, options.imgsz), batch=options.batch)
    return file_accuracy(model, load_dataset(data, split=split), how)


@contextmanager
def _handed(model: nn.Module, options: ExportOptions) -> Iterator[ExportOptions]:
    """Let Ultralytics calibrate on pictures that were read here, and fetch none."""
    from yoloprune.measure.handover import handed_over, only_what_was_handed
    from yoloprune.measure.sound import check_finite
    from yoloprune.models.checkpoint import task_of

    check_finite(model)
    with tempfile.TemporaryDirectory(prefix="yoloprune-") as folder, only_what_was_handed():
        extra = dict(options.extra)
        if extra.get("data"):
            extra["data"] = str(handed_over(extra["data"], Path(folder), task=task_of(model)))
        yield replace(options, extra=extra)


def _show(record: Mapping[str, Any]) -> None:
    """Where the exported model is, and how it compares."""
    show_line(f"wrote {record['file']}")
    check = record["check"]
    if check is not None:
        shapes = " and ".join("×".join(str(n) for n in shape) for shape in check["inputs"])
        whose = " in float32" if record["int8"] is not None else ""
        show_line(
            f"{check['runtime']}{whose} on {shapes}: differs by {check['max_rel_diff']:.1e} of the "
            f"output's scale (at most {check['tolerance']:g} is allowed)"
        )
    elif record["int8"] is None or record["int8"]["error"] is None:
        show_line(f"{record['format']}: not run here, so not compared with the model")
    if record["int8"] is not None:
        _show_int8(record)


def _show_int8(record: Mapping[str, Any]) -> None:
    """What 8 bits cost, and what they were kept from."""
    how = record["int8"]
    differs = ""
    if how["error"] is not None:
        differs = (
            f"; detections differ from float32's by {how['error']:.3f}, outputs by at most "
            f"{how['agreement']:.2g} of their scale"
        )
    size = f"{record['bytes'] / 1e6:.2f} MB"
    show_line(f"int8 by {how['tool']} on {how['pictures']} pictures: {size}{differs}")
    reasons: dict[str, list[str]] = {}
    for path, why in record["kept_float"].items():
        reasons.setdefault(why, []).append(path)
    for why, paths in reasons.items():
        show_line(f"in float: {', '.join(paths)}: {why}")
    if how["ap_fp32"] is not None:
        held = {None: "", True: ", as asked for", False: ", more than --max-drop"}[how["held"]]
        show_line(
            f"AP {how['ap']:.4f}, of the float32 file {how['ap_fp32']:.4f}: "
            f"{how['ap_fp32'] - how['ap']:+.4f} lost{held}"
        )
    elif how["ap"] is not None:
        show_line(f"AP {how['ap']:.4f}")
