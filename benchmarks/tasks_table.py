"""A row per task through every command, with stock Ultralytics' number beside ours.

For each task the script draws eight pictures of 64 pixels a split, lets stock Ultralytics train
its own yolov8n for some epochs on them (a cfg is trained by yoloprune, for stock reads none), and
runs ``info``, ``slim``, ``val``, ``predict`` and ``train --epochs 1`` on the file. What ``val``
says of the dense model stands beside what stock ``YOLO(file).val()`` says of the same file and
pictures. The two ways of measuring boxes differ by little: COCO's 101 points of recall against
Ultralytics' interpolation of its own.

    python benchmarks/tasks_table.py
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
SIZE, PICTURES = 64, 8
NAMES = {0: "disc", 1: "square"}
CFG = """[net]
width=64
height=64
channels=3
batch=8
learning_rate=0.01
"""
CONV = (
    "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n"
)
HEAD = (
    "[convolutional]\nfilters=21\nsize=1\nstride=1\npad=1\nactivation=linear\n"
    "[yolo]\nmask=0,1,2\nanchors=14,14,22,22,30,30\nclasses=2\nnum=3\n"
)
TASKS = {
    "detect": ("yolov8n.yaml", "AP", "metrics/mAP50-95(B)"),
    "darknet": ("net.cfg", "AP", None),
    "segment": ("yolov8n-seg.yaml", "mask_AP", "metrics/mAP50-95(M)"),
    "pose": ("yolov8n-pose.yaml", "keypoint_AP", "metrics/mAP50-95(P)"),
    "obb": ("yolov8n-obb.yaml", "rotated_AP", "metrics/mAP50-95(B)"),
    "classify": ("yolov8n-cls.yaml", "top1", "metrics/accuracy_top1"),
}
"""Task → model, our number, stock Ultralytics' name of it."""


def shape(rng: np.random.Generator, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """One object: a picture of it, and its outline ``[n, 2]`` in pixels."""
    picture = rng.integers(90, 110, (SIZE, SIZE, 3), dtype=np.uint8)
    radius = int(rng.integers(9, 15))
    middle = rng.integers(radius + 6, SIZE - radius - 6, 2)
    turns = np.linspace(0, 2 * np.pi, 4 if kind else 24, endpoint=False)
    turns = turns + (rng.uniform(0, np.pi / 2) if kind else 0)
    outline = middle + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    colour = (230, 60, 40) if kind else (40, 90, 240)
    cv2.fillPoly(picture, [outline.round().astype(np.int32)], colour)
    return picture, outline


def label(task: str, kind: int, outline: np.ndarray) -> str:
    """The line of a label file."""
    low, high = outline.min(0) / SIZE, outline.max(0) / SIZE
    box = [*(low + high) / 2, *(high - low)]
    if task == "segment":
        numbers = (outline / SIZE).ravel()
    elif task == "obb":
        corners = cv2.boxPoints(cv2.minAreaRect(outline.astype(np.float32)))
        numbers = (corners / SIZE).clip(0, 1).ravel()
    elif task == "pose":
        numbers = np.array([*box, low[0], box[1], high[0], box[1]])
    else:
        numbers = np.array(box)
    return f"{kind} {' '.join(f'{v:.6f}' for v in numbers)}\n"


def draw(task: str, folder: Path) -> Path:
    """A data set of one object a picture; what commands take as ``--data``."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(PICTURES):
            kind = i % 2
            picture, outline = shape(rng, kind)
            if task == "classify":
                place = folder / split / NAMES[kind]
            else:
                place = folder / split / "images"
                labels = folder / split / "labels"
                labels.mkdir(parents=True, exist_ok=True)
                (labels / f"{i}.txt").write_text(label(task, kind, outline))
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f"{i}.png"), picture)
    if task == "classify":
        return folder
    content: dict[str, Any] = {"train": "train/images", "val": "val/images", "names": NAMES}
    if task == "pose":
        content |= {"kpt_shape": [2, 2], "flip_idx": [1, 0]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def yoloprune(*args: object, cwd: Path) -> str:
    """Run a command: ``ok``, or what it says on stderr."""
    command = [sys.executable, "-m", "yoloprune", *map(str, args), "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return "ok"
    return (done.stderr.strip().splitlines() or ["failed"])[-1]


def trained(task: str, data: Path, folder: Path, epochs: int) -> Path:
    """A model of the task, trained on the data."""
    if task == "darknet":
        text = CFG + "".join(CONV.format(f, s) for f, s in ((16, 2), (32, 2), (64, 2), (64, 1)))
        (folder / "net.cfg").write_text(text + HEAD)
        out = folder / "dense"
        said = yoloprune(
            "train", "net.cfg", "--scratch", "--data", data, "--epochs", epochs, "--imgsz", SIZE,
            "--batch", 4, "-o", out, *settings(), cwd=folder,
        )  # fmt: skip
        if said != "ok":
            raise SystemExit(f"darknet: {said}")
        return out / "weights" / "last.cfg"
    from ultralytics import YOLO

    model = YOLO(TASKS[task][0], verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):
        model.train(
            data=str(data), epochs=epochs, imgsz=SIZE, batch=4, device="cpu", workers=0,
            plots=False, verbose=False, project=str(folder), name="dense", amp=False,
            patience=0, val=False, nbs=4, mosaic=0.0, warmup_epochs=1.0,
            optimizer="AdamW", lr0=0.002,
        )  # fmt: skip
    return folder / "dense" / "weights" / "last.pt"


def settings() -> list[str]:
    """What the trainings of yoloprune are told."""
    values = (
        "workers=0",
        "plots=false",
        "amp=false",
        "mosaic=0",
        "optimizer=AdamW",
        "lr0=0.002",
        "nbs=4",
    )
    return [word for value in values for word in ("--set", value)]


def stock_number(task: str, model: Path, data: Path) -> float | None:
    """What stock Ultralytics says of the same file."""
    theirs = TASKS[task][2]
    if theirs is None:
        return None
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        found = YOLO(model).val(
            data=str(data), imgsz=SIZE, batch=16, device="cpu", workers=0, plots=False,
            verbose=False, project=folder, rect=False,
        )  # fmt: skip
    return float(found.results_dict[theirs])


def box_number(task: str, model: Path, data: Path) -> float | None:
    """Box AP of a segment or pose model as stock Ultralytics says it."""
    if task not in ("segment", "pose"):
        return None
    stock = TASKS[task]
    TASKS[task] = (stock[0], stock[1], "metrics/mAP50-95(B)")
    try:
        return stock_number(task, model, data)
    finally:
        TASKS[task] = stock


def row(task: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Everything about one task."""
    data = draw(task, folder / "data")
    model = trained(task, data, folder, epochs)
    number = TASKS[task][1]
    picture = next((folder / "data").rglob("*.png"))
    found: dict[str, Any] = {"task": task, "model": TASKS[task][0]}
    found["info"] = yoloprune("info", model, cwd=folder)
    slim = ("slim", model, "--percent", 0.3, "--data", data, "--imgsz", SIZE, "-o", "slim")
    found["slim"] = yoloprune(*slim, "--json", "slim.json", cwd=folder)
    val = ("val", model, "--data", data, "--imgsz", SIZE, "--json", "val.json")
    found["val"] = yoloprune(*val, cwd=folder)
    found["predict"] = yoloprune("predict", model, picture, "--imgsz", SIZE, cwd=folder)
    train = ("train", model, "--data", data, "--epochs", 1, "--imgsz", SIZE, "--batch", 4)
    found["train"] = yoloprune(*train, "-o", "tuned", *settings(), cwd=folder)
    record = json.loads((folder / "val.json").read_text())
    after = json.loads((folder / "slim.json").read_text())["after"]
    found |= {
        "number": number,
        "by": record["by"][number],
        "ours": round(record["metrics"][number], 5),
        "stock": stock_number(task, model, data),
        "slim_30pct": round(after[number], 5),
        "box_AP": record["metrics"].get("AP"),
        "stock_box_AP": box_number(task, model, data),
    }
    return found


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tasks.csv")
    args = parser.parse_args()
    rows = []
    for task in args.tasks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(task, Path(folder), args.epochs))
        print(json.dumps(rows[-1]), flush=True)
    for found in rows:
        for name, value in found.items():
            found[name] = f"{value:.5g}" if isinstance(value, float) else value
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
