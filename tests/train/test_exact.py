"""A killed run goes on as if nothing had happened."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import slims
import torch
from torch import nn

from tests.nets import CONV, randomised
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import CheckpointError, TrainError
from yoloprune.prune.budget import Budget
from yoloprune.train import exact
from yoloprune.train.keeping import student_of
from yoloprune.train.log import read_log
from yoloprune.train.options import DistillOptions, SparsityOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.trainer import KeepingDetectionTrainer

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)
EPOCHS = 4


def network() -> nn.Module:
    torch.manual_seed(0)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + CONV.format(16) + CONV.format(24)
    return randomised(DarknetModel(parse_cfg(text + CONV.format(32) + HEAD)))


def options(data: Path, **more: Any) -> TrainOptions:
    """Three batches an epoch, two of them a step: gradients wait over the end of an epoch."""
    extra = {
        "plots": False, "verbose": False, "optimizer": "AdamW", "lr0": 0.01, "nbs": 8,
        "warmup_epochs": 1, "close_mosaic": 1, **more.pop("extra", {}),
    }  # fmt: skip
    return TrainOptions(
        data=str(data),
        epochs=EPOCHS,
        imgsz=64,
        batch=4,
        device="cpu",
        resume=True,
        sparsity=SparsityOptions(budget=Budget(percent=0.5, min_channels=2), criterion="taylor"),
        extra=extra,
        **more,
    )


class KilledError(Exception):
    """The power went."""


def kill_in(event: str, epoch: int, batch: int = 0) -> Any:
    """A method that raises in a place of a trainer's life."""

    def run_callbacks(self: Any, name: str) -> None:
        real(self, name)
        if name == event and self.epoch == epoch and self._batches >= 3 * epoch + batch:
            raise KilledError

    real = KeepingDetectionTrainer.run_callbacks
    return run_callbacks


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    loaded: Any = torch.load(folder / "weights/last.pt", weights_only=False)["model"]
    return {k: v.clone() for k, v in loaded.state_dict().items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slims.pictures(tmp_path_factory.mktemp("data"), "detect", count=11)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(network(), folder, options(data))
    return folder


@pytest.mark.parametrize(
    ("event", "epoch", "batch"),
    [
        ("on_train_batch_end", 0, 2),  # before there is a checkpoint
        pytest.param("on_train_epoch_start", 1, 0, marks=pytest.mark.slow),
        ("on_train_batch_end", 2, 2),
        ("on_model_save", 2, 0),
        ("on_model_save", EPOCHS - 1, 0),  # all is trained, nothing is tidied
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    event: str,
    epoch: int,
    batch: int,
    data: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", kill_in(event, epoch, batch))
        with pytest.raises(KilledError):
            train(network(), tmp_path, options(data))
    start = network()
    torch.manual_seed(123)  # another process has another past
    result = train(start, tmp_path, options(data))
    ours, theirs = tensors(tmp_path), tensors(undisturbed)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    for name in ("best", "last"):
        for suffix in ("cfg", "weights"):
            file = f"weights/{name}.{suffix}"
            assert (tmp_path / file).read_bytes() == (undisturbed / file).read_bytes(), file
    assert result.sparsity is not None and result.sparsity["zero_share"] > 0.4
    assert (tmp_path / "sparsity.jsonl").read_text() == (undisturbed / "sparsity.jsonl").read_text()
    epochs = [
        row["epoch"] for row in csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    ]
    assert epochs == [str(n + 1) for n in range(EPOCHS)]
    assert not list(tmp_path.rglob("*state.pt")) and not list(tmp_path.rglob(".*.pt"))


@pytest.mark.parametrize("epoch", [0, pytest.param(1, marks=pytest.mark.slow), EPOCHS - 1])
def test_a_kill_between_checkpoint_and_state(
    epoch: int, data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exact.write_state

    def write(trainer: Any) -> None:
        if trainer.epoch == epoch:
            raise KilledError
        real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(exact, "write_state", write)
        with pytest.raises(KilledError):
            train(network(), tmp_path, options(data))
    train(network(), tmp_path, options(data))
    for name in ("best", "last"):
        file = f"weights/{name}.weights"
        assert (tmp_path / file).read_bytes() == (undisturbed / file).read_bytes(), file


def test_a_moved_run_goes_on_where_it_lies(
    data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", kill_in("on_model_save", 1))
        with pytest.raises(KilledError):
            train(network(), tmp_path / "old", options(data))
    (tmp_path / "old").rename(tmp_path / "new")
    train(network(), tmp_path / "new", options(data))
    assert not (tmp_path / "old").exists()
    file = "weights/last.weights"
    assert (tmp_path / "new" / file).read_bytes() == (undisturbed / file).read_bytes()


def test_a_run_does_not_go_on_with_other_wishes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", kill_in("on_model_save", 1))
        with pytest.raises(KilledError):
            train(network(), tmp_path, options(data))
    with pytest.raises(TrainError, match="was begun otherwise, changed since: sparsity: .* → None"):
        train(network(), tmp_path, replace(options(data), sparsity=None))
    begun = options(data)
    for other, change in (
        (replace(begun, epochs=5), "epochs: 4 → 5"),
        (replace(begun, imgsz=96), "imgsz: 64 → 96"),
        (replace(begun, batch=2), "batch: 4 → 2"),
        (replace(begun, seed=1), "seed: 0 → 1"),
        (options(data, extra={"lr0": 0.02}), "--set lr0: 0.01 → 0.02"),
        (replace(begun, data="other.yaml"), r"data: \S+ → other\.yaml"),
        (replace(begun, distil=DistillOptions(teacher="t.pt")), r"teacher: None → t\.pt"),
    ):
        with pytest.raises(TrainError, match=f"was begun otherwise, changed since: .*{change}"):
            train(network(), tmp_path, other)


def test_a_new_run_is_not_taken_for_an_old_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(network(), tmp_path, options(data))
    before = (tmp_path / "weights/last.weights").read_bytes()
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainError, match=r"holds a run already, such as weights/best\.pt\. Choose"):
        train(network(), tmp_path, replace(options(data, seed=5), resume=False))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    (tmp_path / "weights/mine.txt").write_text("the user's")
    wish = replace(options(data, seed=5), resume=False, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", kill_in("on_train_batch_end", 0, 2))
        with pytest.raises(KilledError):
            train(network(), tmp_path, wish)
    train(network(), tmp_path, replace(wish, resume=True))
    assert (tmp_path / "weights/last.weights").read_bytes() != before
    assert (tmp_path / "weights/mine.txt").read_text() == "the user's"


@pytest.mark.parametrize("until", [0.75, 1.0])
def test_zeros_stand_though_the_last_step_of_an_epoch_is_early(
    until: float, data: Path, tmp_path: Path
) -> None:
    """Three batches an epoch, two a step: the step at the end of an epoch comes too soon."""
    sparsity = SparsityOptions(budget=Budget(percent=0.5, min_channels=2), until=until)
    result = train(network(), tmp_path, replace(options(data), sparsity=sparsity))
    for model in (result.best, result.last):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert sum(int((m.weight == 0).sum()) for m in norms) == 36


def test_the_run_that_is_compared_did_learn(undisturbed: Path) -> None:
    before = student_of(network()).state_dict()
    after = tensors(undisturbed)
    assert (after["model.0.conv.weight"] - before["model.0.conv.weight"]).abs().max() > 0.01


def test_another_seed_is_another_run(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    train(network(), tmp_path, options(data, seed=1))
    key = "model.0.conv.weight"
    assert not torch.equal(tensors(tmp_path)[key], tensors(undisturbed)[key])


def test_the_average_stands_at_zero_and_the_best_epoch_too(undisturbed: Path) -> None:
    from yoloprune.models.door import load

    rows = read_log(undisturbed / "sparsity.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["zero_units"] == 0 < rows[-1]["zero_units"]
    assert sum(rows[-1]["histogram"]) == 72
    for name in ("best", "last"):
        model, _ = load(undisturbed / f"weights/{name}.cfg")
        zeros = sum(int((m.weight == 0).sum()) for m in model.modules() if hasattr(m, "eps"))
        assert zeros == 36, name


def test_a_teacher_comes_back_after_a_kill(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoloprune.models.door import save

    files = save(network(), tmp_path / "teacher.cfg")
    wish = options(data, distil=DistillOptions(teacher=str(files[0]), mode="output"))
    train(network(), tmp_path / "whole", wish)
    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", kill_in("on_train_batch_end", 2, 2))
        with pytest.raises(KilledError):
            train(network(), tmp_path / "killed", wish)
    train(network(), tmp_path / "killed", wish)
    ours, theirs = tensors(tmp_path / "killed"), tensors(tmp_path / "whole")
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "moment"),
    [
        (None, ("on_train_batch_end", 2, 2)),
        pytest.param("feature", ("on_train_batch_end", 2, 2), marks=pytest.mark.slow),
        ("feature", ("on_model_save", EPOCHS - 1, 0)),
    ],
)
def test_an_ultralytics_model_goes_on_exactly_too(
    mode: Any, moment: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoloprune.models.door import save

    start = slims.stock("yolov8n", {0: "class 0", 1: "class 1"})
    distil = None
    if mode:
        from yoloprune.train.classes import fit_classes

        (file,) = save(fit_classes(start, {0: "class 0", 1: "class 1"}), tmp_path / "teacher.pt")
        distil = DistillOptions(teacher=str(file), mode=mode)
    wish = options(data, distil=distil)
    train(start, tmp_path / "whole", wish)
    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", kill_in("on_train_batch_end", 2, 2))
        with pytest.raises(KilledError):
            train(start, tmp_path / "killed", wish)
    train(start, tmp_path / "killed", wish)
    ours, theirs = tensors(tmp_path / "killed"), tensors(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    assert exact.read_state(tmp_path) is None
    (tmp_path / exact.FILE).write_bytes(b"PK\x03\x04 half")
    with pytest.raises(CheckpointError, match=r"state\.pt: is damaged"):
        exact.read_state(tmp_path)
