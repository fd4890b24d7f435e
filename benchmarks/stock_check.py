"""Slim stock models, and put them to work in an environment that has never heard of yoloprune.

The slimming half runs here. The checking half is this same file, run by the Python of a fresh
virtual environment with everything that is installed here but yoloprune: stock Ultralytics
loads each file, counts its parameters, repeats what the model gave before it was saved,
validates, fuses, exports to ONNX and compares ONNX Runtime with itself; and its own training
must stop. Weights are random, with random BatchNorms, for nothing can be downloaded here.

    python benchmarks/stock_check.py            # cut only
    python benchmarks/stock_check.py --repair
"""

from __future__ import annotations

import argparse
import json
import site
import subprocess
import sys
import tempfile
import time
import venv
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import nn

ROOT = Path(__file__).parent.parent
SIZE = 64  # RT-DETR then lists all its queries: which of two equal ones goes is no difference
PICTURES = 12
"""To repair on."""
MODELS = (
    "yolov8n", "yolo11n", "yolo12n", "yolo26n", "yolov9t", "yolov10n", "yolov5n", "yolov6n",
    "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "rtdetr-l",
)  # fmt: skip
BCCD = {0: "RBC", 1: "WBC", 2: "Platelets"}
PAIR = {0: "circle", 1: "square"}


# ---------------------------------------------------------------------------------- slimming


def stock(name: str) -> nn.Module:
    """A model of stock Ultralytics with random weights and BatchNorms, and named classes."""
    from ultralytics.nn import tasks

    kinds: dict[str, Any] = {
        "seg": tasks.SegmentationModel, "pose": tasks.PoseModel, "obb": tasks.OBBModel,
        "cls": tasks.ClassificationModel, "l": tasks.RTDETRDetectionModel,
    }  # fmt: skip
    kind = kinds.get(name.rpartition("-")[2], tasks.DetectionModel)
    names = BCCD if kind in (tasks.DetectionModel, tasks.RTDETRDetectionModel) else PAIR
    torch.manual_seed(0)
    model = kind(f"{name}.yaml", nc=len(names), verbose=False).eval()
    model.names = names
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def make(name: str, folder: Path, percent: float, repaired: bool) -> dict[str, Any]:
    """Slim one model by gamma, and save it beside an input and what it makes of that.

    Args:
        name: of the stock model.
        folder: for the files.
        percent: of the channels that go.
        repaired: fit every layer anew on random pictures.
    """
    from shared_data import smooth_pictures

    from yoloprune.channels.trace import trace
    from yoloprune.models.door import save
    from yoloprune.prune.budget import Budget
    from yoloprune.prune.cut import cut_units, kept_units, self_test
    from yoloprune.prune.plan import Origin
    from yoloprune.prune.planner import Planner
    from yoloprune.prune.repair import repair
    from yoloprune.prune.score import score

    model = stock(name)
    graph = trace(model)
    scores = score(model, graph, criterion="gamma", reduce="mean")
    plan = Planner(graph).plan(scores, Budget(percent=percent), Origin(path=name, sha256="0" * 64))
    remove = plan.remove(graph)
    slim: Any = cut_units(model, graph, remove)
    test = self_test(model, graph, remove, slim, compensated=True)
    layers = 0
    if repaired:
        seen = smooth_pictures(PICTURES, 3, SIZE)
        done = repair(model, slim, graph, kept_units(graph, remove), seen)
        slim, layers = done.model, sum(layer.pull is not None for layer in done.record.layers)
    (file,) = save(slim, folder / f"{name}-slim.pt")
    x = torch.rand(2, 3, SIZE, SIZE)
    half = deepcopy(slim).half().float()  # before anything is cached in full precision
    with torch.no_grad():
        exact, stored = outputs(slim(x)), outputs(half(x))
    torch.save({"x": x, "exact": exact, "stored": stored}, folder / f"{name}.answers")
    return {
        "model": name,
        "params_before": sum(p.numel() for p in model.parameters()),
        "params_after": sum(p.numel() for p in slim.parameters()),
        "self_test": test.max_rel_diff,
        **({"layers_repaired": layers} if repaired else {}),
        "file": str(file),
    }


# ---------------------------------------------------------------------------------- checking


def outputs(result: Any) -> list[torch.Tensor]:
    """What a model is asked for, without what heads return beside it for their loss."""
    first = result[0] if isinstance(result, (tuple, list)) else result
    return [first] if isinstance(first, torch.Tensor) else list(first)


def difference(a: Any, b: Any) -> float:
    """Largest difference relative to the largest value of boxes, or of all else (at least .01)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    if a.ndim == 3 and a.shape[2] == 6:  # RT-DETR's list: a set, for equal scores have no order
        scale = np.array([np.abs(a[..., :4]).max()] * 4 + [max(a[..., 4].max(), 0.01), 0.5])
        return float((np.abs(a[:, :, None] - b[:, None]) / scale).max(3).min(2).max())
    if a.ndim != 3:
        return float(np.abs(a - b).max() / max(np.abs(a).max(), 0.01))
    parts = ((a[:, :4], b[:, :4], 0.0), (a[:, 4:], b[:, 4:], 0.01))
    return max(float(np.abs(p - q).max() / max(np.abs(p).max(), low)) for p, q, low in parts)


def worst(a: list[Any], b: list[Any]) -> float:
    """The same over several outputs."""
    return max(difference(p, q) for p, q in zip(a, b, strict=True))


def check(record: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
    """Put one saved model to every use that stock Ultralytics has for it."""
    from ultralytics import RTDETR, YOLO

    opener: Any = RTDETR if "rtdetr" in record["model"] else YOLO
    file = Path(record["file"])
    answers = torch.load(file.with_name(f"{record['model']}.answers"))
    opened = opener(str(file))
    net = opened.model.eval()
    with torch.no_grad():
        found = outputs(net(answers["x"]))
    row = {key: value for key, value in record.items() if key != "file"}
    row["params_loaded"] = sum(p.numel() for p in net.parameters())
    row["diff_stored"] = worst(answers["stored"], found)
    row["diff_half_rounding"] = worst(answers["exact"], found)
    quiet = {"device": "cpu", "verbose": False}
    picture = next(Path(data[opened.task]).parent.rglob("*.jpg"))
    row["predicts"] = len(opened.predict(str(picture), imgsz=SIZE, **quiet)) == 1
    metrics = opener(str(file)).val(
        data=data[opened.task], imgsz=SIZE, plots=False, workers=0, batch=8,
        project=str(file.parent), name="val", exist_ok=True, **quiet,
    )  # fmt: skip
    row["validates"] = all(np.isfinite(float(v)) for v in metrics.results_dict.values())
    fused = opener(str(file))
    fused.fuse()
    with torch.no_grad():
        row["diff_fused"] = worst(found, outputs(fused.model.eval()(answers["x"])))
    row["diff_onnx"] = onnx_difference(opener, file, answers["x"][:1])
    row["stock_train"] = stock_training(opener, file, data)
    return row


def onnx_difference(opener: Any, file: Path, x: torch.Tensor) -> float:
    """Export by stock Ultralytics, and compare ONNX Runtime with the model as it was loaded."""
    import onnxruntime

    made = opener(str(file)).export(format="onnx", imgsz=SIZE, device="cpu")
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    net = opener(str(file)).model.eval()
    if hasattr(net, "end2end"):
        net.end2end = False  # as the exporter has it by default
    with torch.no_grad():
        return worst(outputs(net(x)), found)


def stock_training(opener: Any, file: Path, data: dict[str, str]) -> str:
    """What stock training does with the file."""
    opened = opener(str(file))
    try:
        opened.train(
            data=data[opened.task], epochs=1, imgsz=SIZE, batch=4, workers=0, plots=False,
            device="cpu", project=str(file.parent), name="train", exist_ok=True,
        )  # fmt: skip
    except KeyError as exc:
        return "stops with our message" if "slimmed by yoloprune" in str(exc) else repr(exc)
    return "grew back"


def check_all(folder: Path) -> None:
    """The checking half: read the list, check every model, write the rows."""
    torch.set_num_threads(1)
    try:
        import yoloprune  # noqa: F401
    except ImportError:
        pass
    else:
        raise SystemExit("yoloprune can be imported here, so this proves nothing")
    job = json.loads((folder / "job.json").read_text())
    rows = []
    for record in job["models"]:
        start = time.perf_counter()
        row = check(record, job["data"])
        row["seconds"] = round(time.perf_counter() - start, 1)
        rows.append(row)
        (folder / "rows.json").write_text(json.dumps(rows))


# ------------------------------------------------------------------------------ data, and all


def pictures(folder: Path, task: str) -> str:
    """Four random pictures with labels of a task; gives what its ``data`` setting takes."""
    rng = np.random.default_rng(0)
    label = {
        "detect": "0.5 0.5 0.5 0.5",
        "segment": "0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8",
        "obb": "0.2 0.3 0.7 0.2 0.8 0.7 0.3 0.8",
        "pose": "0.5 0.5 0.5 0.5 " + " ".join(["0.4 0.6 2"] * 17),
    }
    for split in ("train", "val"):
        for i in range(4):
            image = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
            kind = i % 2
            place = split + f"/{PAIR[kind]}" if task == "classify" else f"images/{split}"
            file = folder / place / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image)
            if task != "classify":
                text = folder / "labels" / split / f"{i}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text(f"{kind} {label[task]}\n")
    if task == "classify":
        return str(folder)
    names = BCCD if task == "detect" else PAIR
    data = {"path": str(folder), "train": "images/train", "val": "images/val", "names": names}
    if task == "pose":
        data["kpt_shape"] = [17, 3]
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    return str(folder / "data.yaml")


def fresh_python(folder: Path) -> Path:
    """The Python of a new environment that sees what is installed here, but not yoloprune.

    Everything installed is linked into it but what bears our name, the ``.pth`` file by which a
    checkout is installed included.
    """
    venv.create(folder, with_pip=False)
    packages = next(folder.glob("lib*/python*/site-packages"))
    for installed in map(Path, site.getsitepackages()):
        for entry in installed.iterdir():
            # an editable install leaves the files that it cannot link as a package of its own
            if "yoloprune" not in entry.name and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def main() -> None:
    """Slim here, check there, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--percent", type=float, default=0.3)
    parser.add_argument("--repair", action="store_true", help="repair what was cut")
    parser.add_argument("--bccd", type=Path, default=ROOT.parent / "shared/data/bccd")
    parser.add_argument("--out", type=Path, help="CSV; benchmarks/results/… without it")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        check_all(args.check)
        return
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    from shared_data import link_data, write_table

    with tempfile.TemporaryDirectory(prefix="stock-check-") as name:
        folder = Path(name)
        data = {
            task: pictures(folder / task, task)
            for task in ("detect", "segment", "pose", "obb", "classify")
        }
        if args.bccd.is_dir():
            data["detect"] = str(link_data(args.bccd, folder / "bccd"))
        models = [make(model, folder, args.percent, args.repair) for model in args.models]
        (folder / "job.json").write_text(json.dumps({"models": models, "data": data}))
        python = fresh_python(folder / "venv")
        subprocess.run([python, "-E", __file__, "--check", folder], check=True, cwd=folder)
        rows = json.loads((folder / "rows.json").read_text())
    kind = f"{round(args.percent * 100)}pct" + "-repaired" * args.repair
    write_table(args.out or ROOT / f"benchmarks/results/stock-check-{kind}.csv", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
