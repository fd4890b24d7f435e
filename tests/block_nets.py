"""Networks with residual blocks, and what tells whether one that went is missed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.channels.table import tensors_in
from yoloprune.darknet.cfg import Cfg, parse_cfg, read_cfg
from yoloprune.darknet.network import DarknetModel

SIDE = 64


def randomize(model: nn.Module) -> nn.Module:
    """Scales such as training leaves them, in evaluation mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        gamma = getattr(module, "gamma", None)
        if isinstance(gamma, nn.Parameter):
            nn.init.uniform_(gamma, 0.1, 1.0)
    return model.eval()


def stock(name: str) -> nn.Module:
    """A stock Ultralytics detector with random weights."""
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    torch.manual_seed(0)
    kind = RTDETRDetectionModel if name.startswith("rtdetr") else DetectionModel
    return randomize(kind(f"{name}.yaml", verbose=False))


def darknet(path: Path, *, divide: int = 8) -> DarknetModel:
    """A cfg with a share of its filters, and random weights."""
    torch.manual_seed(0)
    model = DarknetModel(thinner(read_cfg(path), divide))
    randomize(model)
    return model


def thinner(cfg: Cfg, divide: int) -> Cfg:
    """A cfg with ``1 / divide`` of the filters of every layer but those before a head."""
    layers = []
    for section, after in zip(cfg.layers, [*cfg.layers[1:], None], strict=True):
        head = after is not None and after.kind in ("yolo", "Gaussian_yolo", "region")
        if section.kind == "convolutional" and not head:
            filters = max(section.get_int("filters", 1) // divide, 4)
            section = section.with_options({"filters": filters})
        layers.append(section)
    text = "".join((*cfg.head, *cfg.net.lines, *(line for s in layers for line in s.lines)))
    return parse_cfg(text, cfg.source)


def double(model: nn.Module) -> list[Tensor]:
    """What a network gives for a random picture."""
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        return [t for t in tensors_in(model(picture)) if t.is_floating_point()]


def difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Largest difference of any output, relative to that output's largest value."""
    pairs = list(zip(ours, theirs, strict=True))
    assert pairs and all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


_OPEN = """
import sys
sys.modules["yoloprune"] = None  # an import of it fails
import numpy as np, torch
from ultralytics import YOLO
picture = torch.rand(1, 3, {side}, {side}, generator=torch.Generator().manual_seed(1))
found = {{}}
for file in sys.argv[2:]:
    model = YOLO(file)
    with torch.no_grad():
        found[file] = model.model.float().eval()(picture)[0]
    grey = np.zeros(({side}, {side}, 3), np.uint8)
    model.predict(grey, imgsz={side}, verbose=False, device="cpu")
torch.save(found, sys.argv[1])
"""


def opened_by_stock(files: Sequence[Path], out: Path) -> dict[str, Tensor]:
    """What stock Ultralytics, without yoloprune, makes of a picture with each file."""
    command = [sys.executable, "-c", _OPEN.format(side=SIDE), str(out), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Tensor] = torch.load(out, weights_only=True)
    return found
