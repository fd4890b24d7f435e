"""How far what two networks see is apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yoloprune.models.door import load
from yoloprune.prune.apart import Seen


class Says(nn.Module):
    """Gives what it is told to."""

    def __init__(self, output: Tensor, classes: int = 2) -> None:
        super().__init__()
        self.output = output
        self.names = dict(enumerate("abc"[:classes]))

    def forward(self, x: Tensor) -> Tensor:
        return self.output[: len(x)]


def detections(scores: list[list[float]], boxes: list[list[float]]) -> Tensor:
    """``[1, 4 + classes, places]`` of boxes (centre, sides) and scores, a row a place."""
    return torch.cat((torch.tensor(boxes), torch.tensor(scores)), 1).T[None]


ONE = [[10.0, 10, 4, 4], [30, 30, 8, 8], [50, 50, 8, 8]] * 3
SURE = [[0.9, 0.0], [0.0, 0.8], [0.01, 0.0]] * 3
PICTURE = torch.zeros(1, 3, 8, 8)


def apart(scores: list[list[float]], boxes: list[list[float]]) -> float:
    return Seen(Says(detections(SURE, ONE)), PICTURE).apart(Says(detections(scores, boxes)))


def test_the_same_is_not_apart() -> None:
    assert apart(SURE, ONE) == 0


def test_boxes_where_nothing_is_seen_hardly_count() -> None:
    boxes = [[x + 99 if y == 50 else x, y, w, h] for x, y, w, h in ONE]
    assert 0 < apart(SURE, boxes) < 1e-3


def test_a_lost_class_costs_the_same_however_rare_it_is() -> None:
    many = [[0.9, 0.0]] * 8 + [[0.0, 0.9]]
    boxes = [[10.0 * i, 10, 4, 4] for i in range(9)]
    seen = Seen(Says(detections(many, boxes)), PICTURE)
    without_rare = [[a, 0.0] for a, _ in many]
    without_common = [[0.0, b] for _, b in many]
    rare, common = (
        seen.apart(Says(detections(rows, boxes))) for rows in (without_rare, without_common)
    )
    assert rare == pytest.approx(common, rel=0.1)


def test_boxes_that_move_are_told_by_their_overlap() -> None:
    def moved(by: float) -> float:
        return apart(SURE, [[x + by * w, y, w, h] for x, y, w, h in ONE])

    assert 0 < moved(0.05) < moved(0.1) < moved(0.3) < moved(0.5)
    assert moved(0.5) == pytest.approx(moved(3.0))  # another box either way


def test_something_that_is_not_there_costs() -> None:
    assert apart([[a, b] if a + b > 0.1 else [0.9, 0.0] for a, b in SURE], ONE) > 0.3


def test_rows_of_detections_are_read_as_columns_are() -> None:
    columns = detections([*SURE, *SURE], [*ONE, *ONE])
    other = detections([[0.5 * a, b] for a, b in [*SURE, *SURE]], [*ONE, *ONE])
    expected = Seen(Says(columns), PICTURE).apart(Says(other))
    rows = Seen(Says(columns.mT.contiguous()), PICTURE).apart(Says(other.mT.contiguous()))
    assert rows == pytest.approx(expected) and expected > 0


def test_as_many_outputs_as_were_found_cannot_be_told() -> None:
    class Bright(nn.Module):
        def __init__(self, least: float) -> None:
            super().__init__()
            self.least = least

        def forward(self, x: Tensor) -> Tensor:
            return x[x > self.least]

    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = Seen(Bright(0.5), x)
    assert seen.errors(Bright(0.6)).isnan().all()


def test_errors_are_told_picture_by_picture() -> None:
    full = Says(torch.tensor([[0.0, 2.0], [1.0, 5.0]]), classes=0)
    other = Says(torch.tensor([[0.0, 2.0], [1.0, 7.0]]), classes=0)
    seen = Seen(full, torch.zeros(2, 3, 8, 8))
    assert seen.errors(other).tolist() == [0, (2 * 2) / 2 / 4]  # of a variance of 4
    assert seen.errors(Says(torch.zeros(2, 3), classes=0)).isnan().all()


def test_more_outputs_than_before_cannot_be_told() -> None:
    class Lists(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: Tensor) -> dict[int, Tensor]:
            return dict.fromkeys(range(self.number), x.mean((1, 2, 3)))

    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = Seen(Lists(1), x)
    assert seen.errors(Lists(2)).isnan().all()


def test_other_outputs_are_told_by_their_variance() -> None:
    output = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    seen = Seen(Says(output), PICTURE)
    assert seen.apart(Says(output.clone())) == 0
    flat = seen.apart(Says(output.mean().expand_as(output)))
    assert flat == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov10n.yaml", "rtdetr-l.yaml"])
def test_real_networks_are_not_apart_from_themselves_but_from_others(name: str) -> None:
    model = load(name)[0].float().eval()
    pictures = torch.rand(2, 3, 64, 64)
    seen = Seen(model, pictures)
    assert seen.apart(model) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert seen.apart(model) > 1e-3
