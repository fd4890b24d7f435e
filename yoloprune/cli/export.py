"""``yoloprune export``: a model for another toolchain."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.folders import results_folder
from yoloprune.cli.options import (
    CfgOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    ModelArg,
    OverwriteOpt,
    QuietOpt,
    SettingsOpt,
    TrustOpt,
    WeightsOpt,
    check_device,
    load_model,
    named,
    say,
    write_json,
)
from yoloprune.cli.tables import show_line

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.export import ExportOptions


@command
def export(
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    file_format: Annotated[
        str, typer.Option("--format", help="onnx, or any other export format of Ultralytics.")
    ] = "onnx",
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
    half: Annotated[bool, typer.Option("--half", help="Weights in half precision.")] = False,
    settings: SettingsOpt = None,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Write a model for another toolchain; ONNX is checked against ONNX Runtime."""
    from yoloprune.models.export import ExportOptions, export_model
    from yoloprune.models.formats import check_format
    from yoloprune.train.options import parse_settings

    extra = parse_settings(settings or [])
    check_device(device)
    target = f"{named(model, cfg).stem}{check_format(file_format)}"

    def results(folder: Path) -> list[Path]:
        return [folder / target] if (folder / target).exists() else []

    with results_folder(out, "export", results, overwrite=overwrite) as folder:
        loaded, source = load_model(model, cfg, weights, trust=trust)
        options = ExportOptions(
            out=folder,
            format=file_format,
            imgsz=imgsz,
            batch=batch,
            dynamic=dynamic,
            half=half,
            device=device,
            extra=extra,
            overwrite=overwrite,
        )
        with _handed(loaded, options) as options:
            result = export_model(loaded, source.model.stem, options)
    record = {"model": str(source.model), **result.to_dict()}
    _show(record)
    write_json(json_file, record)
    say(f"results in {folder}")


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
    if check is None:
        show_line(f"{record['format']}: not run here, so not compared with the model")
        return
    shapes = " and ".join("×".join(str(n) for n in shape) for shape in check["inputs"])
    show_line(
        f"{check['runtime']} on {shapes}: differs by {check['max_rel_diff']:.1e} of the output's "
        f"scale (at most {check['tolerance']:g} is allowed)"
    )
