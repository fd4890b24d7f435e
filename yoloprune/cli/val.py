"""``yoloprune val``: how good a model of its task is."""

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
    QuietOpt,
    SplitOpt,
    TrustOpt,
    WeightsOpt,
    load_model,
    torch_name,
    write_json,
)
from yoloprune.cli.tables import Column, show_line, show_table, size_of
from yoloprune.progress import stage


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
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Measure average precision, or what else tells how good a model of its task is."""
    with stage("loading"):
        from yoloprune.measure.tasks import look, measure

        look(data, split)
    loaded, source = load_model(model, cfg, weights, trust=trust)
    from yoloprune.measure.detect import DetectOptions
    from yoloprune.models.door import input_size_of

    size = input_size_of(loaded, imgsz)
    options = DetectOptions(
        imgsz=size, conf=conf, iou=iou, max_det=max_det, batch=batch, device=torch_name(device)
    )
    found = measure(loaded, data, options, split=split)
    record = {"model": str(source.model), "data": data, "split": split, **found}
    _show(record)
    after_measuring(loaded, source, data)
    write_json(json_file, record)


def _show(record: Mapping[str, Any]) -> None:
    """Every number, and whose it is."""
    from yoloprune.measure.tasks import SHOWN

    metrics = record["metrics"]
    pictures = f", {record['images']} pictures" if "images" in record else ""
    show_table(
        f"{record['model']} on {record['data']} ({record['split']}{pictures}) at "
        f"{size_of(record['imgsz'])}",
        [
            Column({"AP": "AP50:95"}.get(name, name), optional=0 if name in SHOWN else 1)
            for name in metrics
        ],
        [["–" if v is None else f"{v:.4f}" for v in metrics.values()]],
    )
    for by in dict.fromkeys(record["by"].values()):
        names = [name for name, whose in record["by"].items() if whose == by]
        show_line(f"{'AP of boxes' if 'AP' in names else ', '.join(names)}: by {by}")
