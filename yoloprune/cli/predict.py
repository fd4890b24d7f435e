"""``yoloprune predict``: boxes on pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.options import (
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    OverwriteOpt,
    TrustOpt,
    WeightsOpt,
    check_device,
    load_model,
    say,
    torch_name,
    write_json,
)
from yoloprune.cli.tables import show_line


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
    overwrite: OverwriteOpt = False,
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    debug: DebugOpt = False,
) -> None:
    """Find objects in pictures."""
    from yoloprune.files import check_writable
    from yoloprune.measure.predict import predict_images
    from yoloprune.report.predictions import prediction_files, write_predictions

    check_device(device)
    files = {}
    if out is not None:
        check_writable(out)
        files = prediction_files(out, images, overwrite=overwrite)
    loaded, _ = load_model(model, None, weights, trust=trust)
    from yoloprune.measure.detect import DetectOptions, is_darknet
    from yoloprune.models.door import input_size_of

    options = DetectOptions(
        imgsz=input_size_of(loaded, imgsz),
        conf=conf,
        iou=iou,
        device=torch_name(device),
        clip=True,
        resize="darknet" if is_darknet(loaded) else "opencv",
    )
    record = predict_images(loaded, images, options)
    if out is not None:
        write_predictions(files, record)
    _show(record)
    write_json(json_file, record)
    if out is not None:
        say(f"results in {out}")


def _show(record: Mapping[str, Any]) -> None:
    """A line a box."""
    for image in record["images"]:
        show_line(f"{image['file']}: {len(image['boxes'])} objects")
        for box in image["boxes"]:
            corners = ", ".join(f"{v:.0f}" for v in box["xyxy"])
            show_line(f"  {box['name']} {box['confidence']:.1%}  [{corners}]")
