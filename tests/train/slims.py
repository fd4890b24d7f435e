"""Slim stock models, and small data sets of every task that they train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import nets
import numpy as np
import torch
import yaml
from torch import nn
from ultralytics import RTDETR, YOLO

from yoloprune.channels import trace
from yoloprune.prune.cut import cut_units


def stock(name: str, classes: dict[int, str] | None = None) -> nn.Module:
    """A stock model with random weights, trained BatchNorms and names for its classes."""
    torch.manual_seed(0)
    opened: Any = (
        RTDETR(f"{name}.yaml") if "rtdetr" in name else YOLO(f"{name}.yaml", verbose=False)
    )
    model: Any = opened.model
    model.names = classes or {i: f"thing {i}" for i in range(len(model.names))}
    return nets.randomised(model)


def slim(name: str, share: float = 0.3) -> nn.Module:
    """The same with this share of its prunable channels cut out."""
    model = stock(name)
    graph = trace(model)
    return cut_units(model, graph, nets.random_units(graph, share))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def open_stock(path: Path) -> Any:
    """As a user of stock Ultralytics opens a file."""
    return (RTDETR if "rtdetr" in path.name else YOLO)(str(path))


def pictures(folder: Path, task: str, count: int = 4, classes: int = 2) -> Path:
    """Random pictures with one object each, in the form of a task; gives the data's path."""
    rng = np.random.default_rng(0)
    names = {i: f"class {i}" for i in range(classes)}
    for split in ("train", "val"):
        for i in range(count):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            kind = i % classes
            if task == "classify":
                _write(folder / split / names[kind] / f"{i}.jpg", image)
                continue
            _write(folder / "images" / split / f"{i}.jpg", image)
            label = folder / "labels" / split / f"{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{kind} {_LABELS[task]}\n")
    if task == "classify":
        return folder
    data: dict[str, Any] = {"path": str(folder), "train": "images/train", "val": "images/val"}
    if task == "pose":
        data["kpt_shape"] = [17, 3]
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({**data, "names": names}))
    return file


_LABELS = {
    "detect": "0.5 0.5 0.5 0.5",
    "segment": "0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8",
    "obb": "0.2 0.3 0.7 0.2 0.8 0.7 0.3 0.8",
    "pose": "0.5 0.5 0.5 0.5 " + " ".join(["0.4 0.6 2"] * 17),
}


def _write(file: Path, image: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), image)


def link_bccd(shared: Path, target: Path) -> Path:
    """BCCD through links, for Ultralytics writes a cache beside the labels; gives its YAML."""
    source = shared / "data" / "bccd"
    for file in source.rglob("*.*"):
        if file.suffix in (".jpg", ".txt"):
            link = target / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    data = yaml.safe_load((source / "bccd.yaml").read_text())
    (target / "data.yaml").write_text(yaml.safe_dump({**data, "path": str(target)}))
    return target / "data.yaml"


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """What keeps a training run short, quiet and in one folder."""
    return {
        "epochs": 1, "imgsz": 64, "batch": 4, "plots": False, "workers": 0, "device": "cpu",
        "project": str(folder), "name": "run", "exist_ok": True, "verbose": False, **more,
    }  # fmt: skip
