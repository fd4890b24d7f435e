"""``yoloprune val``: COCO average precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.options import (
    CfgOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    ModelArg,
    SplitOpt,
    TrustOpt,
    WeightsOpt,
    load_model,
    torch_name,
    write_json,
)
from yoloprune.cli.tables import Column, show_table, size_of


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
    from yoloprune.measure.data import load_dataset

    dataset = load_dataset(data, split=split)
    loaded, source = load_model(model, cfg, weights, trust=trust)
    from yoloprune.measure.accuracy import evaluate
    from yoloprune.measure.detect import DetectOptions
    from yoloprune.models.door import input_size_of

    size = input_size_of(loaded, imgsz)
    options = DetectOptions(
        imgsz=size, conf=conf, iou=iou, max_det=max_det, batch=batch, device=torch_name(device)
    )
    accuracy = evaluate(loaded, dataset, options)
    record = {"model": str(source.model), "data": data, "split": split, **accuracy.to_dict()}
    _show(record)
    write_json(json_file, record)


_ALWAYS = ("AP", "AP50")


def _show(record: Mapping[str, Any]) -> None:
    """The COCO summary."""
    metrics = record["metrics"]
    show_table(
        f"{record['model']} on {record['data']} ({record['split']}, {record['images']} "
        f"pictures) at {size_of(record['imgsz'])}",
        [
            Column({"AP": "AP50:95"}.get(name, name), optional=0 if name in _ALWAYS else 1)
            for name in metrics
        ],
        [["–" if v is None else f"{v:.4f}" for v in metrics.values()]],
    )
