"""What a teacher adds to the loss: closed forms, gradients, and runs that learn from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import slims
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.nets import CONV, randomised
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import TrainError
from yoloprune.models.door import load, save
from yoloprune.train.distil import (
    DistillingCriterion,
    attention_transfer,
    check_teacher,
    darknet_output,
    detect_output,
    distil,
)
from yoloprune.train.options import DistillOptions, TrainOptions
from yoloprune.train.run import train

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

LINEAR = "[convolutional]\nfilters={}\nsize=1\nstride=1\nactivation=linear\n"
YOLO = "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses={}\nnum=2\n"
REGION = "[region]\nanchors=1,1,2,2\nclasses=2\nnum=2\nsoftmax={}\n"
GAUSSIAN = "[Gaussian_yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"


def network(widths: tuple[int, ...] = (8, 12, 16), classes: int = 2, head: str = "") -> Any:
    torch.manual_seed(sum(widths))
    entries = 2 * ((9 if "Gaussian" in head else 5) + classes)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + "".join(CONV.format(w) for w in widths)
    text += LINEAR.format(entries) + (head or YOLO.format(classes))
    return randomised(DarknetModel(parse_cfg(text)))


def raw(seed: int, entries: int = 14) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, entries, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    "head", [YOLO.format(2), REGION.format(1), REGION.format(0), GAUSSIAN, "new"]
)
def test_a_darknet_student_that_says_the_same_loses_nothing(head: str) -> None:
    if head == "new":
        head = YOLO.format(2) + "new_coords=1\n"
    layer = network(head=head).model[-1]
    said = raw(0, layer.channels)
    said = said.sigmoid() if "new_coords" in head else said
    assert float(darknet_output(layer, said, said)) == pytest.approx(0, abs=1e-9)
    other = said + 0.1 * torch.rand_like(said)
    assert float(darknet_output(layer, other, said)) > 0


def test_the_gradient_of_a_darknet_output_is_student_minus_teacher() -> None:
    layer = network().model[-1]
    ours, theirs = raw(1).requires_grad_(), raw(2)
    darknet_output(layer, ours, theirs).backward()
    s, t = (x.detach().view(3, 2, 7, 4, 4) for x in (ours, theirs))
    sure = t[:, :, 4:5].sigmoid()
    expected = torch.cat(
        (
            (s[:, :, :2].sigmoid() - t[:, :, :2].sigmoid())
            * s[:, :, :2].sigmoid() * (1 - s[:, :, :2].sigmoid()) * sure,
            (s[:, :, 2:4] - t[:, :, 2:4]) * sure,
            s[:, :, 4:5].sigmoid() - sure,
            (s[:, :, 5:].sigmoid() - t[:, :, 5:].sigmoid()) * sure,
        ),
        dim=2,
    )  # fmt: skip
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad.view_as(expected), expected / 3, rtol=1e-6, atol=1e-9)


def test_the_difference_of_detect_heads_is_that_of_their_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    preds, said = (
        {
            "scores": torch.randn(2, 3, 5, generator=generator),
            "boxes": torch.randn(2, 16, 5, generator=generator),
        }
        for _ in range(2)
    )
    p, q = said["scores"].sigmoid(), preds["scores"].sigmoid()
    classes = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    sure = p.amax(1)
    sides = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=x["boxes"].view(2, 4, 4, 5).movedim(2, 3))
          for x in (said, preds))
    ).mean(1)  # fmt: skip
    total = sure.sum()
    expected = 0.5 * classes / total + 1.5 * (sides * sure).sum() / total
    assert detect_output(preds, said, 4, 0.5, 1.5).item() == pytest.approx(
        expected.item(), rel=1e-4
    )
    assert detect_output(said, said, 4, 0.5, 1.5).item() == pytest.approx(0, abs=1e-5)
    plain = {key: value[:, :4] if key == "boxes" else value for key, value in said.items()}
    off = {"scores": plain["scores"], "boxes": plain["boxes"] + 0.25}
    assert detect_output(off, plain, 1, 0.5, 1.5).item() == pytest.approx(
        1.5 * 0.25 * sure.sum().item() / total.item(), rel=1e-4
    )


def test_cuda_autocast_takes_every_operation() -> None:
    """On tensors without data: there may be no GPU here, but the rules are the same."""

    def said() -> dict[str, torch.Tensor]:
        half: dict[str, Any] = {"device": "cuda", "dtype": torch.float16}
        return {"scores": torch.empty(2, 3, 5, **half), "boxes": torch.empty(2, 64, 5, **half)}

    with FakeTensorMode():
        torch.set_autocast_enabled("cuda", True)
        try:
            with pytest.raises(RuntimeError, match="unsafe to autocast"):  # the rules are on
                F.binary_cross_entropy(*(said()["scores"].float().sigmoid() for _ in range(2)))
            for reg_max in (1, 16):
                preds, taught = said(), said()
                if reg_max == 1:
                    preds["boxes"], taught["boxes"] = preds["boxes"][:, :4], taught["boxes"][:, :4]
                assert detect_output(preds, taught, reg_max, 0.5, 1.5).dtype == torch.float32
        finally:
            torch.set_autocast_enabled("cuda", False)


def test_attention_asks_where_and_not_how_much_or_how_wide() -> None:
    maps = raw(3, 6)
    assert attention_transfer(maps, 5 * maps).item() == pytest.approx(0, abs=1e-9)
    assert attention_transfer(maps, torch.cat((maps, maps), 1)).item() == pytest.approx(0, abs=1e-9)
    one, two = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    one[0, 0, 0, 0] = two[0, 0, 1, 1] = 1.0
    assert attention_transfer(one, two).item() == pytest.approx(500 * 2 / 4)


def test_a_criterion_is_the_students_but_for_the_teacher() -> None:
    class Base:
        updates = 3

        def __call__(self, preds: Any, batch: Any) -> Any:
            return torch.tensor([1.0, 2.0]), {"box_loss": torch.tensor(1.0)}

    teacher = nn.Identity()
    criterion = DistillingCriterion(
        Base(), teacher, lambda ours, said: (ours - said).sum(), lambda: 0.5
    )
    batch = {"img": torch.ones(4)}
    loss, items = criterion(3 * torch.ones(4), batch)
    torch.testing.assert_close(loss, torch.tensor([1.0, 2.0, 0.5 * 8 * 4]))
    assert items["dis_loss"] == 4
    with torch.no_grad():  # validation
        loss, items = criterion(3 * torch.ones(4), batch)
    assert len(loss) == 2 and "dis_loss" not in items
    assert criterion.updates == 3


@pytest.mark.parametrize("fade", [True, False])
def test_a_weight_fades_with_the_training(fade: bool, tmp_path: Path) -> None:
    (file, _) = save(network(), tmp_path / "teacher.cfg")
    student = network((8, 8, 8))
    trainer = SimpleNamespace(model=student, device="cpu", progress=0.25)
    distil(trainer, DistillOptions(teacher=str(file), weight=2.0, fade=fade))
    assert student.criterion.weight() == (1.5 if fade else 2.0)
    trainer.progress = 1.0
    assert student.criterion.weight() == (0.0 if fade else 2.0)


def test_teachers_that_say_other_things_are_refused(tmp_path: Path) -> None:
    (file, _) = save(network(classes=3), tmp_path / "three.cfg")
    with pytest.raises(TrainError, match=r"three.cfg: its heads differ.*2 anchors × 3 classes"):
        check_teacher(network(), DistillOptions(teacher=str(file)))
    student = slims.stock("yolov8n", {0: "a"})
    with pytest.raises(TrainError, match="three.cfg: has no Detect head"):
        check_teacher(student, DistillOptions(teacher=str(file)))
    (other,) = save(slims.stock("yolov10n"), tmp_path / "ten.pt")
    with pytest.raises(TrainError, match="ten.pt: its head differs"):
        check_teacher(student, DistillOptions(teacher=str(other)))
    with pytest.raises(TrainError, match="ten.pt: is no Darknet network"):
        check_teacher(network(), DistillOptions(teacher=str(other)))
    with pytest.raises(TrainError, match="--distil: unknown, got 'all'"):
        DistillOptions(teacher="x.pt", mode="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["output", "feature"])
def test_a_darknet_student_comes_nearer_to_its_teacher(mode: Any, tmp_path: Path) -> None:
    """With a heavy teacher and a slimmer student, what both say grows alike; nothing else does."""
    teacher, student = network(), network((8, 8, 8))
    (file, _) = save(teacher, tmp_path / "teacher.cfg")
    data = slims.pictures(tmp_path / "data", "detect", count=8)

    def apart(model: Any) -> float:
        files = sorted((tmp_path / "data/images/train").glob("*.jpg"))
        pictures = torch.stack([torch.from_numpy(cv2.imread(str(f))) for f in files])
        pictures = pictures.permute(0, 3, 1, 2).flip(1) / 255
        if mode == "output":
            says = [m.eval()(pictures)[1][0] for m in (model, teacher)]
            return float(darknet_output(teacher.model[-1], *says))
        return float(attention_transfer(*(m.eval().model[:3](pictures) for m in (model, teacher))))

    results = {}
    for weight in (None, 20.0):
        options = TrainOptions(
            data=str(data), epochs=12, imgsz=64, batch=4, device="cpu",
            distil=None if weight is None else DistillOptions(
                teacher=str(file), mode=mode, weight=weight, fade=False),
            extra={"plots": False, "verbose": False, "optimizer": "AdamW", "lr0": 0.01, "nbs": 4,
                   "val": False, "warmup_epochs": 0, "mosaic": 0.0, "hsv_v": 0.0},
        )  # fmt: skip
        last = train(student, tmp_path / str(weight), options).last
        with torch.no_grad():
            results[weight] = apart(last)
    assert results[20.0] < 0.7 * results[None], results
    header = (tmp_path / "20.0/results.csv").read_text().splitlines()[0]
    assert "train/dis_loss" in header and "val/dis_loss" not in header


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["output", "feature"])
def test_ultralytics_students_learn_from_both(mode: Any, tmp_path: Path) -> None:
    names = {0: "class 0", 1: "class 1"}
    teacher = slims.stock("yolov8n")
    from yoloprune.train.classes import fit_classes

    (file,) = save(fit_classes(teacher, names), tmp_path / "teacher.pt")
    data = slims.pictures(tmp_path / "data", "detect")
    student = slims.slim("yolov8n")
    options = TrainOptions(
        data=str(data), epochs=2, imgsz=64, batch=4, device="cpu",
        distil=DistillOptions(teacher=str(file), mode=mode, fade=False),
        extra={"plots": False, "verbose": False, "workers": 0},
    )  # fmt: skip
    result = train(student, tmp_path / "run", options)
    shapes = [p.shape for p in fit_classes(student, names).parameters()]
    assert [p.shape for p in result.last.parameters()] == shapes
    table = (tmp_path / "run/results.csv").read_text().splitlines()
    column = table[0].split(",").index("train/dis_loss")
    assert all(float(row.split(",")[column]) > 0 for row in table[1:])
    again, _ = load(tmp_path / "run/weights/last.pt")  # no trace of the teacher
    assert type(again) is type(student)
