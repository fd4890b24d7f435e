"""Beside Torch-Pruning at equal MACs: what is left of AP, at once and after the same training.

Torch-Pruning gets what its YOLOv8 example gives it: C2f blocks rewritten so that the split is two
convolutions, the head left out, one step, every layer the same ratio. Three importances: scales
of BatchNorms, the norm of groups, and Taylor, with the loss's gradients on all train pictures with
their labels. Beyond its example it is also run with the head's own layers open to it (``…-head``),
all but the last of each branch. Its ratio is bisected to the MACs, as our percent is.

Ours is ``recon`` with even shares and repair, 64 train pictures without labels.

All are trained by one trainer, by either schedule: ``keep`` (yoloprune's preset: small steps, no
spike) and ``moving`` (larger ones, a warm-up and a cosine, as from random weights). AP is
pycocotools' on the validation split. A finished row is not run again.

    pip install torch-pruning==1.6.1
    python benchmarks/torch_pruning_ap.py              # without training
    python benchmarks/torch_pruning_ap.py --epochs 5 40 --jobs 4 --device 0
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from against_torch_pruning import TwoConvC2f, rewritten
from repair_tables import (
    FRESH,
    NETS,
    RESULTS,
    ROOT,
    SETTINGS,
    SHARED,
    SIZE,
    Table,
    at_macs,
    cut_and_repaired,
    data_of,
    opened,
    work,
    worth,
)
from shared_data import link_data

from yoloprune.channels.trace import to_training
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train

WAYS = (
    "ours",
    *(f"tp-{way}{head}" for head in ("", "-head") for way in ("bn-scale", "group-norm", "taylor")),
)
SHARES = (0.5, 0.25)
LABELLED = 16
"""Pictures a pass, where the loss is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row to be."""

    network: str
    share: float
    way: str
    schedule: str = "none"
    epochs: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join(str(getattr(self, field.name)) for field in fields(Cell))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Cell):
    """What came of it; ``ratio`` is our percent, or Torch-Pruning's ratio."""

    ratio: float
    macs: float
    params: float
    AP: float
    AP50: float
    seconds: float
    device: str


def ours(cell: Cell, device: str) -> tuple[nn.Module, float]:
    """Cut and repaired."""
    net = opened(cell.network)
    percent, remove = at_macs(net, "recon", cell.share, device)
    return cut_and_repaired(net, remove, device)[1], percent


def torch_pruned(
    model: nn.Module, way: str, ratio: float, folder: Path, data: str, round_to: int | None = None
) -> nn.Module:
    """One step of Torch-Pruning.

    Args:
        model: is rewritten and pruned.
        way: of :data:`WAYS`.
        ratio: of channels that go.
        folder: for links to the pictures with labels.
        data: the data set.
        round_to: what kept counts are multiples of.
    """
    import torch_pruning as tp

    rewritten(model)
    head: Any = list(model.model)[-1]  # type: ignore[arg-type]
    left_out = [head]
    if way.endswith("-head"):
        left_out = [branch[-1] for branches in (head.cv2, head.cv3) for branch in branches]
        left_out.append(head.dfl)
    importance = {
        "bn-scale": tp.importance.BNScaleImportance,
        "group-norm": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }[way.removeprefix("tp-").removesuffix("-head")]()
    kind = tp.pruner.BNScalePruner if "bn-scale" in way else tp.pruner.GroupNormPruner
    pruner = kind(
        model, torch.randn(1, 3, 64, 64), importance=importance, iterative_steps=1,
        pruning_ratio=ratio, ignored_layers=left_out, unwrapped_parameters=[],
        round_to=round_to,
    )  # fmt: skip
    if "taylor" in way:
        gradients(model, folder, data)
    pruner.step()
    model.zero_grad(set_to_none=True)
    return restored(model).eval()


def restored(model: nn.Module) -> nn.Module:
    """Make a pruned model stock again: the two convolutions of each C2f are one."""
    from ultralytics.nn.modules import C2f, Conv

    for parent in list(model.modules()):
        for name, block in list(parent.named_children()):
            if isinstance(block, TwoConvC2f):
                first, second = block.halves
                width = first.conv.out_channels
                if second.conv.out_channels != width:
                    raise ValueError(f"{name}: halves of {width} and {second.conv.out_channels}")
                made = C2f(first.conv.in_channels, block.cv2.conv.out_channels)
                made.c, made.cv2, made.m = width, block.cv2, block.m
                made.f, made.i, made.type = block.f, block.i, block.type
                made.cv1 = Conv(first.conv.in_channels, 2 * width)
                made.cv1.bn.eps, made.cv1.bn.momentum = first.bn.eps, first.bn.momentum
                halves = first.state_dict(), second.state_dict()
                made.cv1.load_state_dict(
                    {k: torch.cat([h[k] for h in halves]) if v.ndim else v
                     for k, v in halves[0].items()}
                )  # fmt: skip
                setattr(parent, name, made)
    return model


def gradients(model: Any, folder: Path, data: str) -> None:
    """Leave the loss's gradients on all train pictures in a model."""
    from torch.utils.data import DataLoader
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    yaml = link_data(Path(data).parent, folder / "labelled")
    info, settings = check_det_dataset(str(yaml)), get_cfg(overrides={"imgsz": SIZE})
    dataset = build_yolo_dataset(settings, info["train"], LABELLED, info, mode="val", stride=32)
    model.args = settings
    to_training(model)  # gradients as in training, BatchNorms as they are
    for batch in DataLoader(dataset, LABELLED, collate_fn=dataset.collate_fn):
        model.loss({**batch, "img": batch["img"].float() / 255})[0].sum().backward()
    model.criterion = None


def at_ratio(cell: Cell, folder: Path) -> tuple[nn.Module, float]:
    """What Torch-Pruning leaves at these MACs.

    Every layer loses the same ratio: how many channels go does not depend on which, and so the
    ratio is looked for by the quickest importance.
    """
    file, data = str(SHARED / NETS[cell.network][0]), data_of(cell.network)
    dense = count(load(file)[0], SIZE).macs

    def pruned(way: str, ratio: float) -> nn.Module:
        return torch_pruned(load(file)[0].float(), way, ratio, folder, data)

    quick = "tp-group-norm-head" if cell.way.endswith("-head") else "tp-group-norm"
    low, high = 0.0, 0.99
    gaps = {}
    for _ in range(12):
        ratio = (low + high) / 2
        gap = count(pruned(quick, ratio), SIZE).macs / dense - cell.share
        gaps[ratio] = abs(gap)
        if abs(gap) < 0.0005:
            break
        low, high = (ratio, high) if gap > 0 else (low, ratio)
    ratio = min(gaps, key=lambda r: gaps[r])
    return pruned(cell.way, ratio), ratio


def rows_of(cell: Cell, device: str, out: Path) -> list[Row]:
    """Cut, train where that is asked for, measure."""
    start = time.perf_counter()
    torch.manual_seed(cell.seed)
    data, folder = data_of(cell.network), out / cell.name
    model, ratio = ours(cell, device) if cell.way == "ours" else at_ratio(cell, folder)
    if cell.epochs:
        own = FRESH if cell.schedule == "moving" else {}
        options = TrainOptions(
            data=data, epochs=cell.epochs, imgsz=SIZE, device=device, seed=cell.seed,
            preset="stock" if own else "keep", resume=True, extra={**SETTINGS, **own},
        )  # fmt: skip
        model = train(model, folder, options).last
    found = worth(model, cell.network, device)
    seconds = round(time.perf_counter() - start, 1)
    return [Row(**asdict(cell), ratio=round(ratio, 4), seconds=seconds, **found)]


def cells(epochs: list[int], ways: list[str]) -> Iterator[Cell]:
    """What decides first."""
    for number in epochs:
        for share in reversed(SHARES):
            for schedule in ("keep", "moving") if number else ("none",):
                for way in ways:
                    yield Cell(
                        network="yolov8n-bccd", share=share, way=way,
                        schedule=schedule, epochs=number,
                    )  # fmt: skip


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path, default=RESULTS / f"torch-pruning-ap-{SIZE}px.csv")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/torch-pruning-ap")
    args = parser.parse_args()
    table = Table(args.out, Row)
    todo: list[Any] = [
        (rows_of, (cell, args.device, args.work.resolve()))
        for cell in cells(args.epochs, args.ways)
        if not table.has(**asdict(cell))
    ]
    work(table, todo, args)


if __name__ == "__main__":
    main()
