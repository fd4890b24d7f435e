"""A teacher alone: closed forms, runs that come nearer to it, and labels that nobody opens."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import slims
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from ultralytics.cfg import get_cfg
from ultralytics.utils.dist import find_free_network_port

from tests.nets import CONV, randomised
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import DataError, TrainError, YoloPruneError
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load, save
from yoloprune.prune.budget import Budget
from yoloprune.train import exact
from yoloprune.train.classes import fit_classes
from yoloprune.train.distil import outputs_apart
from yoloprune.train.features import HeadInputs, unexplained
from yoloprune.train.options import DistillOptions, SparsityOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.unlabelled import TeacherCriterion, check_unlabelled, chosen_pictures

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)
NAMES = {0: "class 0", 1: "class 1"}
QUIET = {"plots": False, "verbose": False, "workers": 0, "optimizer": "AdamW", "lr0": 0.005,
         "nbs": 4, "warmup_epochs": 0}  # fmt: skip


def darknet(widths: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(sum(widths))
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + "".join(CONV.format(w) for w in widths)
    return randomised(DarknetModel(parse_cfg(text + HEAD)))


def dense(family: str) -> nn.Module:
    if family == "darknet":
        return darknet((8, 12, 16))
    return fit_classes(slims.stock("yolov8n"), NAMES)


def thin(family: str) -> nn.Module:
    if family == "darknet":
        return darknet((8, 8, 8))
    return fit_classes(slims.slim("yolov8n"), NAMES)


def teacher_of(family: str, folder: Path) -> tuple[nn.Module, DistillOptions]:
    model = dense(family)
    files = save(model, folder / ("teacher.cfg" if family == "darknet" else "teacher.pt"))
    return model, DistillOptions(teacher=str(files[0]))


def options(pictures: Path, distil: DistillOptions, **more: Any) -> TrainOptions:
    extra = {**QUIET, **more.pop("extra", {})}
    return TrainOptions(
        **{"pictures": str(pictures), "distil": distil, "epochs": 2, "imgsz": 64, "batch": 4,
           "device": "cpu", "preset": "keep", **more}, extra=extra,
    )  # fmt: skip


def loss_of(student: nn.Module, teacher: nn.Module, pictures: torch.Tensor) -> dict[str, float]:
    """Both parts, in evaluation mode."""
    student, teacher = deepcopy(student).float().eval(), deepcopy(teacher).float().eval()
    if not isinstance(student, DarknetModel):
        student.args = get_cfg()
    apart = outputs_apart(student, teacher, DistillOptions(teacher="it.cfg"))
    criterion = TeacherCriterion(student, teacher, apart)
    _, items = criterion(student(pictures)[1], {"img": pictures})
    return {name: float(value) for name, value in items.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures in a folder of their own, and nothing else."""
    folder = tmp_path_factory.mktemp("pictures")
    write_shapes(folder / "made", ShapesSpec(images=11, val=1, size=64))
    shutil.copytree(folder / "made/images/train", folder / "shots")
    return folder / "shots"


def tensor_of(folder: Path) -> torch.Tensor:
    read = [torch.from_numpy(cv2.imread(str(file))) for file in sorted(folder.glob("*.jpg"))]
    return torch.stack(read).permute(0, 3, 1, 2).flip(1) / 255


def test_what_is_unexplained_is_what_least_squares_leave() -> None:
    rng = np.random.default_rng(0)
    ours = rng.normal(size=(3, 4, 8, 8)) + 5
    theirs = np.einsum("oc,bchw->bohw", rng.normal(size=(6, 4)), ours) + 2
    theirs += rng.normal(size=theirs.shape)
    x, y = (f.transpose(0, 2, 3, 1).reshape(-1, f.shape[1]) for f in (ours, theirs))
    biased = np.hstack((x, np.ones((len(x), 1))))
    left = y - biased @ np.linalg.lstsq(biased, y, rcond=None)[0]
    expected = (left**2).sum() / ((y - y.mean(0)) ** 2).sum()
    found = unexplained(torch.from_numpy(ours), torch.from_numpy(theirs)).item()
    assert found == pytest.approx(expected, rel=1e-4)
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    mixed = torch.from_numpy(np.einsum("oc,bchw->bohw", 2 * turned, ours) - 3)
    assert unexplained(mixed, torch.from_numpy(theirs)).item() == pytest.approx(found, rel=1e-4)
    flat = torch.ones(3, 4, 8, 8, dtype=torch.float64)
    assert unexplained(flat, torch.from_numpy(theirs)).item() == pytest.approx(1)
    assert unexplained(torch.from_numpy(ours), flat).item() == pytest.approx(0)


def test_the_gradient_is_that_of_the_best_fit() -> None:
    """Against one through the solution itself."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(2, 5, 6, 6, generator=generator, dtype=torch.float64)
    unexplained(ours, theirs).backward()
    assert ours.grad is not None
    short, ours.grad = ours.grad.clone(), None
    x, y = (f.movedim(1, -1).flatten(0, -2) for f in (ours, theirs))
    x, y = x - x.mean(0), y - y.mean(0)
    left = y - x @ torch.linalg.solve(x.T @ x, x.T @ y)
    (left.square().sum() / y.square().sum()).backward()
    torch.testing.assert_close(short, ours.grad, rtol=0, atol=2e-3 * float(ours.grad.abs().max()))


def test_cuda_autocast_takes_every_operation() -> None:
    """On tensors without data: there may be no GPU here, but the rules are the same."""
    half: dict[str, Any] = {"device": "cuda", "dtype": torch.float16}
    with FakeTensorMode():
        torch.set_autocast_enabled("cuda", True)
        try:
            found = unexplained(torch.empty(2, 3, 4, 4, **half), torch.empty(2, 5, 4, 4, **half))
            assert found.dtype == torch.float32
        finally:
            torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("family", ["darknet", "ultralytics"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(family: str, pictures: Path) -> None:
    model, images = dense(family), tensor_of(pictures)
    same = loss_of(model, model, images)
    assert same["out_loss"] == pytest.approx(0, abs=1e-4)
    other = loss_of(thin(family), model, images)
    assert other["out_loss"] > 0.01
    assert same["feat_loss"] < 0.2 * other["feat_loss"]  # what the ridge leaves


@pytest.mark.parametrize("family", ["darknet", "ultralytics"])
def test_what_enters_the_heads_is_taken_once(family: str, pictures: Path) -> None:
    model = dense(family).eval()
    inputs = HeadInputs(model)
    model(tensor_of(pictures)[:2])
    widths = [16] if family == "darknet" else [64, 128, 256]
    assert [level.shape[1] for level in inputs.take()] == widths
    assert inputs.take() == []


@pytest.mark.parametrize("family", ["darknet", pytest.param("ultralytics", marks=pytest.mark.slow)])
def test_a_student_comes_nearer_to_its_teacher(family: str, pictures: Path, tmp_path: Path) -> None:
    teacher, distil = teacher_of(family, tmp_path)
    start, images = thin(family), tensor_of(pictures)
    wish = options(
        pictures, distil, epochs=8, extra={"mosaic": 0.0, "hsv_v": 0.0, "scale": 0.0, "hsv_s": 0.0}
    )
    result = train(start, tmp_path / "run", wish)
    before, after = (loss_of(model, teacher, images) for model in (start, result.last))
    assert after["out_loss"] < 0.7 * before["out_loss"], (before, after)
    assert after["feat_loss"] < 0.9 * before["feat_loss"], (before, after)
    table = list(csv.DictReader((tmp_path / "run/results.csv").read_text().splitlines()))
    assert {name for name in table[0] if "loss" in name} == {"train/out_loss", "train/feat_loss"}
    assert not any("mAP" in name for name in table[0])
    for name, value in result.best.state_dict().items():  # nothing is measured
        assert torch.equal(value, result.last.state_dict()[name]), name
    assert [p.shape for p in result.last.parameters()] == [p.shape for p in start.parameters()]


_OPENED: list[str] = []


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(args[0], str | os.PathLike):
        _OPENED.append(os.fspath(args[0]))


@pytest.mark.parametrize("family", ["darknet", pytest.param("ultralytics", marks=pytest.mark.slow)])
def test_labels_are_never_opened(family: str, pictures: Path, tmp_path: Path) -> None:
    """With labels that cannot be read beside the pictures, all comes out as without any."""
    poisoned = tmp_path / "images"
    shutil.copytree(pictures, poisoned)
    for file in sorted(poisoned.glob("*.jpg")):
        file.with_suffix(".txt").mkdir()  # opening it fails
        label = tmp_path / "labels" / f"{file.stem}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("99 7 7 -1 poison\n")
    (tmp_path / "labels.cache").write_bytes(b"poison")
    _, distil = teacher_of(family, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    sys.addaudithook(_note)
    _OPENED.clear()
    train(thin(family), tmp_path / "run", options(poisoned, distil))
    opened = [path for path in _OPENED if str(tmp_path) in path]
    assert any(path.endswith(".jpg") for path in opened)  # the hook is at work
    labels = ("/labels", str(poisoned))
    assert not [p for p in opened if any(part in p for part in labels) and not p.endswith(".jpg")]
    outside = [p for p in tmp_path.rglob("*") if tmp_path / "run" not in (p, *p.parents)]
    assert sorted(outside) == before
    train(thin(family), tmp_path / "clean", options(pictures, distil))
    file = "weights/last.weights" if family == "darknet" else "results.csv"
    ours, theirs = (tmp_path / run / file for run in ("run", "clean"))
    if family == "darknet":
        assert ours.read_bytes() == theirs.read_bytes()
    else:
        tables = [list(csv.DictReader(path.read_text().splitlines())) for path in (ours, theirs)]
        for one, other in zip(*tables, strict=True):
            assert {k: v for k, v in one.items() if k != "time"} == {
                k: v for k, v in other.items() if k != "time"
            }


def test_data_is_for_measuring_only(tmp_path: Path) -> None:
    """Its train labels are poison, its train pictures are not looked at."""
    data = slims.pictures(tmp_path / "data", "detect", count=5)
    for label in (tmp_path / "data/labels/train").glob("*.txt"):
        label.write_text("poison\n")
    _, distil = teacher_of("darknet", tmp_path)
    wish = options(data, distil, data=str(data))
    result = train(thin("darknet"), tmp_path / "run", wish)
    table = list(csv.DictReader((tmp_path / "run/results.csv").read_text().splitlines()))
    assert len(table) == 2 and "metrics/mAP50-95(B)" in table[0]
    assert not any(name.startswith("val/") for name in table[0])
    assert result.files[0].name == "best.cfg"
    other = slims.pictures(tmp_path / "three", "detect", classes=3)
    with pytest.raises(DataError, match=r"expected the model's 2 classes, got 3 classes\. Without"):
        train(thin("darknet"), tmp_path / "no", replace(wish, data=str(other)))


class KilledError(Exception):
    """The power went."""


@pytest.mark.parametrize("family", ["darknet", pytest.param("ultralytics", marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_undisturbed_one(
    family: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, distil = teacher_of(family, tmp_path)
    wish = options(pictures, distil, epochs=3, resume=True, extra={"nbs": 8})
    train(thin(family), tmp_path / "whole", wish)
    real = exact.write_state

    def write(trainer: Any) -> None:
        real(trainer)
        if trainer.epoch == 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(exact, "write_state", write)
        with pytest.raises(KilledError):
            train(thin(family), tmp_path / "killed", wish)
    with pytest.raises(TrainError, match=r"was begun otherwise, changed since: .*steps: None → 5"):
        train(thin(family), tmp_path / "killed", replace(wish, steps=5))
    ours, theirs = (
        train(thin(family), tmp_path / name, wish).last.state_dict() if name == "killed"
        else load(next((tmp_path / name / "weights").glob("last.pt")))[0].state_dict()
        for name in ("killed", "whole")
    )  # fmt: skip
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key].float(), value.float()) for key, value in theirs.items())


def test_steps_are_whole_passes_over_as_few_pictures_as_they_need(
    pictures: Path, tmp_path: Path
) -> None:
    distil = DistillOptions(teacher="it.cfg")

    def chosen(steps: int | None, **more: Any) -> tuple[int, int]:
        found, epochs = chosen_pictures(options(pictures, distil, steps=steps, **more))
        return len(found), epochs

    assert chosen(None) == (11, 2)
    assert chosen(2) == (8, 1)
    assert chosen(3) == (11, 1)
    assert chosen(4) == (8, 2)
    assert chosen(7) == (11, 3)
    one, again, other = (
        chosen_pictures(options(pictures, distil, steps=1, seed=seed))[0] for seed in (0, 0, 1)
    )
    assert one == again != other
    _, distil = teacher_of("darknet", tmp_path)
    train(thin("darknet"), tmp_path / "run", options(pictures, distil, steps=4))
    assert len((tmp_path / "run/results.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.parametrize("family", ["darknet", "ultralytics"])
def test_half_precision_gives_nearly_the_same_loss(family: str, pictures: Path) -> None:
    student, teacher, images = thin(family), dense(family), tensor_of(pictures)
    whole = loss_of(student, teacher, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss_of(student, teacher, images)
    assert half["out_loss"] == pytest.approx(whole["out_loss"], rel=0.05)
    assert half["feat_loss"] == pytest.approx(whole["feat_loss"], abs=0.01)


def test_what_cannot_be_learnt_from_is_said_in_one_line(pictures: Path, tmp_path: Path) -> None:
    distil = DistillOptions(teacher="it.cfg")
    common: dict[str, Any] = {"imgsz": 64}
    sparse = SparsityOptions(budget=Budget(percent=0.5))
    for wrong, message in (
        ({}, r"--data: is missing\. Give a data YAML; or, without labels, --pictures"),
        ({"pictures": "p"}, r"--pictures: needs --teacher"),
        ({"data": "d.yaml", "steps": 3}, r"--steps: needs --pictures"),
        ({"pictures": "p", "distil": distil, "steps": 0}, r"--steps: must be at least 1, got 0"),
        ({"pictures": "p", "distil": distil, "sparsity": sparse}, r"--percent, --sparsity: need"),
    ):
        with pytest.raises(TrainError, match=message):
            TrainOptions(**common, **wrong)
    with pytest.raises(TrainError, match=r"is for detection, got a model for 'segment'"):
        check_unlabelled(slims.stock("yolov8n-seg"), distil)
    (file, _) = save(darknet((8, 8)), tmp_path / "wrong.cfg")
    student = slims.stock("yolov8n", NAMES)
    with pytest.raises(TrainError, match=r"wrong\.cfg: has no Detect head"):
        check_unlabelled(student, DistillOptions(teacher=str(file)))
    _, good = teacher_of("darknet", tmp_path)
    for place in (tmp_path / "nowhere", tmp_path / "shots/*.jpg"):
        with pytest.raises(YoloPruneError, match=r"no such folder|no picture fits") as caught:
            train(thin("darknet"), tmp_path / "run", options(place, good))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_two_processes_learn_without_labels(pictures: Path, tmp_path: Path) -> None:
    _, distil = teacher_of("darknet", tmp_path)
    student, _ = save(thin("darknet"), tmp_path / "thin.cfg")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
        "--master_port", str(find_free_network_port()),
        "-m", "yoloprune", "train", str(student), "--pictures", str(pictures), "--epochs", "2",
        "--teacher", distil.teacher, "--imgsz", "64", "--batch", "4", "--device", "cpu",
        "--set", "plots=False", "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("no label is read") == 1  # one process speaks
    assert (tmp_path / "run/weights/last.cfg").is_file()
