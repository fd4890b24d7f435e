"""Masks against slimming: every method of torch.nn.utils.prune, 20 to 95 %, and real cuts beside.

    python benchmarks/masks.py table         # AP and sizes; a finished row is not made again
    python benchmarks/masks.py time          # fills in the latencies: on a machine that is idle
    python benchmarks/masks.py picture       # AP over the share that went
    python benchmarks/masks.py detections    # of the shipped network, in one drawn picture

One Ultralytics network and one Darknet network at 320 px, nothing trained. ``amount`` is the share
of the weights (structured: of the slices of each layer) that a mask sets to zero; of ``slim`` it is
the share of the multiply-adds that a repaired cut takes away, as ``slim --macs`` makes it (even
shares, criterion ``recon``, repaired on train pictures, no search). Random methods have one seed.
``custom`` is a file of the masks that ``l1_unstructured`` left. AP is pycocotools', on the
validation split. ``bytes`` are those of the saved files, ``zipped`` the same behind gzip.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from repair_tables import (
    NETS,
    RESULTS,
    ROOT,
    SHARED,
    SIZE,
    Table,
    ap_of,
    at_macs,
    cut_and_repaired,
    device_name,
    here,
    one_thread,
    opened,
    shares_of,
    work,
)
from torch import nn

from yoloprune.api.slim import slim as slimmed
from yoloprune.mask.files import write_masks
from yoloprune.mask.masking import made_permanent, mask_model, masks_of
from yoloprune.mask.run import zipped_bytes
from yoloprune.mask.sparsity import sparsity
from yoloprune.mask.spec import MaskSpec
from yoloprune.measure.data import load_dataset
from yoloprune.measure.latency import LatencyOptions, measure_latency
from yoloprune.measure.size import file_bytes
from yoloprune.models.door import load, save

NETWORKS = ("yolov8n-bccd", "yolo-fastest-1.1-xl")
AMOUNTS = (0.4, 0.2, 0.6, 0.8, 0.95)
WAYS: dict[str, dict[str, Any]] = {
    "l1_unstructured": {"method": "l1_unstructured"},
    "ln_structured": {"method": "ln_structured", "n": 2},
    "global_unstructured": {"method": "global_unstructured"},
    "random_structured": {"method": "random_structured"},
    "random_unstructured": {"method": "random_unstructured"},
    "ln_structured-inputs": {"method": "ln_structured", "n": 2, "dim": 1},
    "percentile": {"method": "percentile"},
    "global_unstructured-bn": {"method": "global_unstructured", "kind": "bn"},
    "ln_structured-n1": {"method": "ln_structured", "n": 1},
    "random_structured-inputs": {"method": "random_structured", "dim": 1},
}
"""What is masked at each amount."""
SLIM = (0.5, 0.75, 0.25, 0.1)
"""Shares of the multiply-adds that cuts take away, the most telling first."""
NAME = f"masks-{SIZE}px"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One network to be."""

    network: str
    way: str
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Cell):
    """What came of it; ``macs`` and ``params`` as shares of the dense network's."""

    sparsity: float
    macs: float
    params: float
    bytes: int
    zipped: int
    AP: float
    AP50: float
    seconds: float
    device: str
    latency_ms: str = ""
    latency_iqr_ms: str = ""


def cells() -> Iterator[Cell]:
    """What tells most, first."""
    first, rest = list(WAYS)[:3], list(WAYS)[3:]
    for network in NETWORKS:
        yield Cell(network=network, way="dense", amount=0.0)
        yield Cell(network=network, way="slim", amount=SLIM[0])
    for amounts in (AMOUNTS[:3], AMOUNTS[3:]):
        for ways in (first, rest):
            for amount in amounts:
                for network in NETWORKS:
                    for way in ways:
                        yield Cell(network=network, way=way, amount=amount)
    for network in NETWORKS:
        yield Cell(network=network, way="slim", amount=SLIM[1])
        yield Cell(network=network, way="n_m", amount=0.5)
    for network in NETWORKS:
        yield Cell(network=network, way="custom", amount=0.4)
        for amount in SLIM[2:]:
            yield Cell(network=network, way="slim", amount=amount)


def made(cell: Cell, device: str) -> nn.Module:
    """The network of a row."""
    if cell.way == "slim":
        net = opened(cell.network)
        remove = at_macs(net, "recon", round(1 - cell.amount, 4), device)[1]
        return cut_and_repaired(net, remove, device)[1]
    model = load(str(SHARED / NETS[cell.network][0]))[0]
    if cell.way == "dense":
        return model
    if cell.way == "n_m":
        spec = MaskSpec(method="n_m", pattern=(2, 4))
    elif cell.way == "custom":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "masks.npz"
            write_masks(file, masks_of(masked(model, MaskSpec(method="l1_unstructured",
                                                              amount=cell.amount))))  # fmt: skip
            return masked(model, MaskSpec(method="custom", mask=file))
    else:
        spec = MaskSpec(amount=cell.amount, **WAYS[cell.way])
    return masked(model, spec)


def masked(model: nn.Module, spec: MaskSpec) -> nn.Module:
    """As ``yoloprune mask`` saves it."""
    return made_permanent(mask_model(model, spec))


def rows(cell: Cell, device: str) -> list[Row]:
    """Made, saved and measured."""
    start = time.perf_counter()
    model = made(cell, device)
    with tempfile.TemporaryDirectory() as folder:
        files = save(model, Path(folder) / "model")
        sizes = file_bytes(files), zipped_bytes(files)
    found = ap_of(model, cell.network, device)
    return [
        Row(
            **asdict(cell),
            sparsity=round(sparsity(model).share(), 4),
            **shares_of(model, cell.network),
            bytes=sizes[0],
            zipped=sizes[1],
            AP=round(found.AP, 4),
            AP50=round(found.AP50, 4),
            seconds=round(time.perf_counter() - start, 1),
            device=device_name(device),
        )
    ]


def write_times(table: Table, device: str, repeats: int) -> None:
    """Time all finished rows of a network in turn, in one process, and fill the table in."""
    one_thread()
    for network in NETWORKS:
        mine = [row for row in table.rows if row["network"] == network]
        models = {
            f"{row['way']} {row['amount']}": made(
                Cell(network=network, way=row["way"], amount=float(row["amount"])), device
            )
            for row in mine
        }
        if not models:
            continue
        how = LatencyOptions(imgsz=SIZE, device=device, threads=1, repeats=repeats)
        times = measure_latency(models, how)
        for row, sample in zip(mine, times.values(), strict=True):
            row["latency_ms"] = f"{sample.median_ms:.2f}"
            row["latency_iqr_ms"] = f"{sample.iqr_ms:.2f}"
        table.add([])


LINES = (
    ("slim", "slim: cut and repaired", "#0072b2", "o", "-"),
    ("global_unstructured", "mask: smallest weights of all layers", "#009e73", "s", "-"),
    ("l1_unstructured", "mask: smallest weights of each layer", "#56b4e9", "s", "-"),
    ("random_unstructured", "mask: random weights", "#8a97a4", "s", "--"),
    ("ln_structured", "structured mask: channels of least norm", "#d55e00", "^", "-"),
    ("ln_structured-inputs", "structured mask: input channels of least norm", "#e69f00", "^", "-"),
    ("random_structured", "structured mask: random channels", "#cc79a7", "^", "--"),
    ("global_unstructured-bn", "mask: smallest γ", "#1c2530", "v", ":"),
)
"""Way, name, colour, marker and dash of each line."""


def write_picture(out: Path) -> None:
    """AP over the share that went, a panel a network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    found = Table(out / f"{NAME}.csv", Row).rows
    figure = Figure(figsize=(13.2, 4.8), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(NETWORKS))
    for axes, network in zip(panels, NETWORKS, strict=True):
        mine = [row for row in found if row["network"] == network]
        dense = [(0.0, float(row["AP"])) for row in mine if row["way"] == "dense"]
        for way, name, colour, marker, dash in LINES:
            points = sorted(
                (float(row["amount"]), float(row["AP"])) for row in mine if row["way"] == way
            )
            if points:
                x, y = zip(*(dense + points), strict=True)
                wide = 2.6 if way == "slim" else 1.6
                axes.plot(
                    x, y, dash, color=colour, marker=marker, ms=6 if way == "slim" else 4.5,
                    lw=wide, label=name, zorder=4 if way == "slim" else 3,
                )  # fmt: skip
        for _, value in dense:
            axes.axhline(value, color="#b9c3cd", lw=1, ls=(0, (4, 3)), zorder=1)
        axes.set_title(network, loc="left")
        axes.set_xlabel("gone: of the weights (masks), of the multiply-adds (slim)")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AP50:95 on val, nothing trained")
    named = {}
    for axes in panels:
        named |= {name: line for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        named.values(), named.keys(), frameon=False, loc="outside right center",
        title="masks make nothing smaller",
    )  # fmt: skip
    figure.savefig(out / f"{NAME}.png", metadata={"Software": None})


def write_detections(target: Path) -> None:
    """What each finds in a drawn picture: the shipped network, masked, and cut and repaired.

    Pictures of data sets are not ours to copy; of the drawn ones that is taken in which the dense
    network finds most.
    """
    import cv2

    from yoloprune.measure.demo_data import ShapesSpec, write_shapes
    from yoloprune.measure.detect import DetectOptions
    from yoloprune.measure.predict import predict_images
    from yoloprune.report.plots import Panel, detections_picture

    dense = load("yoloprune-demo.cfg", ROOT / "weights/yoloprune-demo-dense.weights")[0]
    with tempfile.TemporaryDirectory() as folder:
        data = write_shapes(Path(folder), ShapesSpec(images=64, val=24, seed=2))
        slim = slimmed(dense, macs=0.5, calib=str(data))
        models = {
            "dense": dense,
            "structured mask, 40 %": masked(dense, MaskSpec(method="ln_structured", amount=0.4)),
            "slim, half of the MACs": slim.model,
        }
        how = DetectOptions(imgsz=(160, 160), conf=0.25, progress=False, clip=True)
        pictures = [Path(p) for p in load_dataset(str(data)).images]
        found = [image["boxes"] for image in predict_images(dense, pictures, how)["images"]]
        best = max(range(len(found)), key=lambda i: len(found[i]))
        panels = []
        for name, model in models.items():
            boxes = predict_images(model, [pictures[best]], how)["images"][0]["boxes"]
            title = f"{name}: {len(boxes)} found"
            panels.append(Panel(image=cv2.imread(str(pictures[best])), boxes=boxes, title=title))
    made = cv2.imdecode(np.frombuffer(detections_picture(*panels), np.uint8), cv2.IMREAD_COLOR)
    cv2.imwrite(str(target), cv2.resize(made, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def main() -> None:
    """Fill the table, time it, or draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["table", "time", "picture", "detections"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = Table(args.out / f"{NAME}.csv", Row)
    if args.what == "picture":
        write_picture(args.out)
    elif args.what == "detections":
        write_detections(ROOT / "docs/pictures/masks.jpg")
    elif args.what == "time":
        write_times(table, args.device, args.repeats)
    else:
        todo: list[Any] = [
            (rows, (cell, args.device))
            for cell in cells()
            if here(cell.network) and not table.has(**asdict(cell))
        ]
        work(table, todo, args)


if __name__ == "__main__":
    main()
