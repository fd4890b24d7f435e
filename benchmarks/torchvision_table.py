"""All of torchvision's networks of pictures, and a YOLOX-like one, slimmed by one call.

``yp.slim(model, example_input, macs=0.5, calib=pictures)`` on every classification, segmentation
and detection network that the installed torchvision lists. Weights are random, norms have random
scales and shifts, and BatchNorms the statistics of random pictures; the pictures are sums of
smooth random fields. Each network is a process of its own that may take so much memory and no
more; rows are written as they come, and a second run goes on with what is missing or failed.

A detector's own forward pass ends in lists of boxes, as many as it finds. What is slimmed is a
module around it that gives the tensors before that (:class:`Raw`, :class:`RawTwoStage`); the slim
detector stands in it, whole, and the row is only written if it detects.

* ``macs_asked``: half, or the least of :data:`SHARES` that what is not frozen can reach;
* ``frozen``: share of the output channels that must stay, those of the network itself aside;
  ``why``: all that stay, by reason;
* ``self_test``: float64, the cut network against the full one in which what was removed is
  silenced, largest difference of any output relative to that output's scale;
* ``layers``: that were solved anew, of those that were off; ``before`` and ``after``: their mean
  error on pictures held out; ``outputs_before`` and ``…_after``: mean square difference of what
  the network gives, as a share of its variance, on four pictures that repair never saw: of the bare
  cut, and of what ``yp.slim`` gave;
* ``cpu_s``: of processor time, of the call; ``peak_gib``: of memory, of the whole process.

    python benchmarks/torchvision_table.py
    python benchmarks/torchvision_table.py --only resnet --memory 8
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import resource
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from repair_all import LEAST, output_error
from repair_tables import RESULTS
from shared_data import smooth_pictures, write_table
from ultralytics_table import awake, frozen_reasons
from yolox_like import YoloxLike

import yoloprune as yp
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.table import tensors_in
from yoloprune.errors import PlanError

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the multiply-adds that may stay: the first that the network can be cut to."""
PICTURES, FRESH = 16, 4
MEMORY_GB = 8.0
SIDE = 64
"""Of pictures, where nothing else is said."""
SIDES = {
    "inception_v3": 299,  # its other classifier reads a map of 17 x 17
    "maxvit": 224,  # windows of 7 on a map of a 32nd
    "deeplabv3": 96,
    "lraspp": 96,
    "fcn": 96,
    "rcnn": 128,
    "retinanet": 128,
    "fcos": 128,
    "ssd300": 300,  # the last of its maps is 1 x 1 there
    "ssdlite": 160,
    "vit_": 64,
    "vit_h_14": 56,
    "yolox": 128,
}
"""Of pictures, by the longest part of a name that is listed."""
FIRST = (
    "resnet18", "mobilenet_v2", "vgg11", "densenet121", "efficientnet_b0", "regnet_y_400mf",
    "shufflenet_v2_x1_0", "squeezenet1_1", "mnasnet1_0", "mobilenet_v3_large", "googlenet",
    "inception_v3", "alexnet", "resnext50_32x4d", "wide_resnet50_2", "convnext_tiny", "swin_t",
    "vit_b_16", "yolox_like_s", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large", "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn", "fcn_resnet50", "deeplabv3_resnet50",
    "lraspp_mobilenet_v3_large", "maxvit_t", "efficientnet_v2_s", "regnet_x_400mf",
)  # fmt: skip
"""One of each family."""
LAST = (
    "vgg", "wide_resnet101", "resnext101", "convnext_b", "convnext_l", "efficientnet_v2_l",
    "efficientnet_b7", "swin_b", "swin_v2_b", "regnet_x_16", "regnet_y_16", "regnet_x_32",
    "regnet_y_32", "vit_l", "vit_h", "regnet_y_128",
)  # fmt: skip
"""The biggest, by the beginnings of their names; these come last, in this order."""


class Raw(nn.Module):
    """A detector of one stage up to what its heads give."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Any:
        """``[B, 3, H, W]`` → the heads' tensors, by name."""
        return self.detector.head(list(self.detector.backbone(x).values()))


class RawTwoStage(nn.Module):
    """Faster, Mask or Keypoint R-CNN: proposals' scores and offsets, and all heads on two boxes."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Any:
        """``[B, 3, H, W]`` → tensors of the proposals' head, then of each head behind it."""
        maps = self.detector.backbone(x)
        size = (x.shape[2], x.shape[3])
        boxes = torch.tensor([[0.1, 0.2, 0.7, 0.8], [0.3, 0.1, 0.5, 0.3]]).to(x) * min(size)
        heads = self.detector.roi_heads
        made = [self.detector.rpn.head(list(maps.values()))]
        for kind in ("box", "mask", "keypoint"):
            pool = getattr(heads, f"{kind}_roi_pool", None)
            if pool is not None:
                read = pool(maps, [boxes] * len(x), [size] * len(x))
                inner, predict = (getattr(heads, f"{kind}_{n}") for n in ("head", "predictor"))
                made.append(predict(inner(read)))
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network to slim.

    Attributes:
        name: as torchvision lists it.
        kind: classification, segmentation, detection.
        build: makes it, with random weights.
        side: of its pictures.
        note: what a reader should know.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    side: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What slimming did to one network."""

    network: str
    kind: str
    side: int
    params: int
    params_left: float
    macs: int
    macs_left: float
    macs_asked: float
    frozen: float
    why: str
    self_test: float
    outputs: int
    off: int
    layers: int
    before: float
    after: float
    outputs_before: float
    outputs_after: float
    cpu_s: float
    peak_gib: float
    note: str = ""


def networks() -> list[Network]:
    """All of them: one of each family, the rest, the biggest."""
    from torchvision import models

    kinds = {
        "classification": models,
        "segmentation": models.segmentation,
        "detection": models.detection,
    }
    found = [
        _listed(name, kind) for kind, part in kinds.items() for name in models.list_models(part)
    ]
    for size, width in (("nano", 16), ("s", 32)):
        found.append(
            Network(
                name=f"yolox_like_{size}",
                kind="detection",
                build=lambda width=width: YoloxLike(width),
                side=SIDES["yolox"],
                note="of this benchmark; decoded boxes, and scores",
            )
        )
    return sorted(found, key=_turn)


def _turn(network: Network) -> tuple[int, int, str]:
    name = network.name
    if name in FIRST:
        return 0, FIRST.index(name), name
    late = [place for place, start in enumerate(LAST) if name.startswith(start)]
    return (2, max(late), name) if late else (1, 0, name)


def _listed(name: str, kind: str) -> Network:
    """A network that torchvision lists."""
    parts = [part for part in SIDES if part in name]
    side = SIDES[max(parts, key=len)] if parts else SIDE
    options: dict[str, Any] = {"weights": None}
    note = ""
    if kind != "classification":
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    if name.startswith("vit_"):
        options["image_size"] = side
    if kind == "detection":
        note = "up to the heads' tensors; the whole slim detector detects"
        if "rcnn" in name:
            note = "proposals' head, and heads on two given boxes; the whole slim detector detects"

    def build() -> nn.Module:
        from torchvision import models

        made: nn.Module = models.get_model(name, **options)
        if kind == "detection":
            return RawTwoStage(made) if "rcnn" in name else Raw(made)
        return made

    return Network(name=name, kind=kind, build=build, side=side, note=note)


def alive(network: Network, seed: int = 0) -> nn.Module:
    """The network with random weights through which pictures reach every output.

    BatchNorms as in :func:`~ultralytics_table.awake`; other norms get random scales and shifts,
    and so do the scales of blocks that ConvNeXt starts at a millionth.
    """
    torch.manual_seed(seed)
    model = awake(network.build(), seed, smooth_pictures(8, 3, network.side, seed=1))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-1, 1)
            if isinstance(getattr(module, "layer_scale", None), nn.Parameter):
                module.layer_scale.uniform_(0.5, 1.5)
    return model


def frozen_share(graph: ChannelGraph) -> float:
    """Share of the output channels that must stay, though they are no outputs of the network."""
    units = [unit for axis in graph.out_axes for unit in axis.units.ravel().tolist()]
    why = [graph.frozen.get(unit, "") for unit in units]
    return sum(bool(w) and not w.startswith("output of the model") for w in why) / len(units)


def slimmed(model: nn.Module, example: Tensor, seen: Tensor) -> tuple[yp.Slimmed, float]:
    """The network at the least of :data:`SHARES` that it can be cut to, and that share."""
    for share in SHARES:
        if _reached(yp.slim(model, example, macs=share, repair=False)) <= share:
            return yp.slim(model, example, macs=share, calib=seen), share
    raise PlanError(f"more than {SHARES[-1]} of the multiply-adds are held.")


def _reached(result: yp.Slimmed) -> float:
    """Share of the multiply-adds that is left; ``slim`` warns where a limit cannot be held."""
    sizes = result.metrics
    return float(sizes["after"]["macs"] / sizes["before"]["macs"])


def row_of(network: Network) -> Row:
    """Slim one network.

    Raises:
        YoloPruneError: it cannot be.
        AssertionError: what came out does not work.
    """
    model = alive(network)
    pictures = smooth_pictures(PICTURES + FRESH, 3, network.side)
    seen, fresh = pictures[:PICTURES], pictures[PICTURES:]
    start = time.process_time()
    result, share = slimmed(model, fresh[:1], seen)
    seconds = time.process_time() - start
    assert result.repair is not None
    off = [layer for layer in result.repair.layers if layer.before > LEAST]
    before, after = (sum(getattr(la, k) for la in off) / len(off) for k in ("before", "after"))
    cut = yp.cut(model, result.graph, result.plan)
    errors = [output_error(model, m, result.graph, fresh) for m in (cut, result.model)]
    if hasattr(result.model, "detector"):
        _detects(result.model.detector, fresh[0])
    sizes = result.metrics
    return Row(
        network=network.name,
        kind=network.kind,
        side=network.side,
        params=int(sizes["before"]["params"]),
        params_left=round(sizes["after"]["params"] / sizes["before"]["params"], 4),
        macs=int(sizes["before"]["macs"]),
        macs_left=round(sizes["after"]["macs"] / sizes["before"]["macs"], 4),
        macs_asked=share,
        frozen=round(frozen_share(result.graph), 4),
        why=frozen_reasons(result.graph),
        self_test=float(f"{result.record['self_test']['max_rel_diff']:.1e}"),
        outputs=len(_outputs(model, fresh[:1])),
        off=len(off),
        layers=sum(layer.pull is not None for layer in off),
        before=float(f"{before:.4g}"),
        after=float(f"{after:.4g}"),
        outputs_before=float(f"{errors[0]:.4g}"),
        outputs_after=float(f"{errors[1]:.4g}"),
        cpu_s=round(seconds, 1),
        peak_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        note=network.note,
    )


def _outputs(model: nn.Module, given: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return tensors_in(model.eval()(given))


def _detects(detector: nn.Module, image: Tensor) -> None:
    """Check that a whole slim detector runs, to its boxes."""
    with torch.no_grad():
        found = detector.eval()([image])
    assert found[0]["boxes"].shape[1:] == (4,), found


def alone(network: Network, memory_gb: float) -> dict[str, Any]:
    """The row of one network, from a process of its own; a note where it fails."""
    command = [sys.executable, __file__, "--one", network.name, "--memory", str(memory_gb)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    failed = lines[-1] if lines else f"the process ended with {done.returncode}"
    empty = dict.fromkeys((field.name for field in fields(Row)), "")
    return {**empty, "network": network.name, "kind": network.kind, "note": f"failed: {failed}"}


def one(network: Network, memory_gb: float) -> None:
    """Print one row as JSON, or what went wrong."""
    limit = int(memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    try:
        print(json.dumps(asdict(row_of(network))))
    except Exception as exc:
        traceback.print_exc()
        told = f"{type(exc).__name__}: {exc}".replace("\n", " ")
        if "can't allocate memory" in told or isinstance(exc, MemoryError):
            told = f"needs more than {memory_gb:g} GB of memory"
        print(told[:300])
        raise SystemExit(1) from exc


def done_before(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run, by network."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["network"]: dict(row) for row in csv.DictReader(file)}


def fill(wanted: Iterable[Network], path: Path, memory_gb: float) -> None:
    """Fill the table: what is missing, and what failed; another run may fill it, too."""
    for network in wanted:
        before = done_before(path).get(network.name)
        if before is not None and not before["note"].startswith("failed"):
            continue
        row = alone(network, memory_gb)
        print(row, flush=True)
        rows = {**done_before(path), network.name: row}
        write_table(path, sorted(rows.values(), key=lambda row: (row["kind"], row["network"])))


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a name, or a kind")
    parser.add_argument("--memory", type=float, default=MEMORY_GB, help="GB that each may take")
    parser.add_argument("--out", type=Path, default=RESULTS / "torchvision.csv")
    parser.add_argument("--one", metavar="NETWORK", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(next(n for n in networks() if n.name == args.one), args.memory)
    else:
        wanted = [n for n in networks() if args.only == n.kind or args.only in n.name]
        fill(wanted, args.out, args.memory)


if __name__ == "__main__":
    main()
