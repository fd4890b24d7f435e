"""Where repair looks more closely: where a detector sees something."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yoloprune.prune.interest import find_interest, mass
from yoloprune.prune.patches import spread


class Sees(nn.Module):
    """One sure box in each picture, and one that is not sure: ``[B, 4 + 2, 2]``."""

    names = ("a", "b")

    def __init__(self, unit: float = 1.0) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.tensor(unit))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        sure = [width / 4, height / 2, width / 4, height / 4, 0.9, 0.2]
        vague = [width * 0.9, height * 0.9, width / 8, height / 8, 0.05, 0.05]
        found = torch.tensor([sure, vague]).T.repeat(len(x), 1, 1)
        if self.unit != 1:
            found[:, :4] /= torch.tensor([width, height, width, height])[:, None]
        return found


@pytest.mark.parametrize("unit", [1.0, 0.0])  # pixels, and shares as RT-DETR gives them
@pytest.mark.parametrize("size", [(160, 320), (320, 640)])  # the second is looked at smaller
def test_a_map_is_high_where_a_box_is(unit: float, size: tuple[int, int]) -> None:
    maps = find_interest(Sees(unit), torch.rand(3, 3, *size))
    assert maps is not None and maps.shape == (3, 40, 40)
    wanted = torch.zeros(40, 40)
    wanted[15:25, 5:15] = 0.9
    torch.testing.assert_close(maps, wanted.repeat(3, 1, 1))


def test_what_gives_no_boxes_is_looked_at_evenly() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    classifier.names = tuple("abcde")  # type: ignore[assignment]
    assert find_interest(classifier, torch.rand(2, 3, 2, 2)) is None
    assert find_interest(nn.Sequential(nn.Flatten()), torch.rand(2, 3, 2, 2)) is None


def test_half_of_the_mass_is_even() -> None:
    maps = torch.zeros(2, 40, 40)
    maps[0, :10, :10] = 0.8
    for side in (20, 40, 80):
        found = mass(maps, torch.Size((side, side))).view(2, side, side)
        assert float(found.sum()) == pytest.approx(1)
        assert float(found[1].sum()) == pytest.approx(0.25)
        corner = found[0, : side // 4, : side // 4]
        assert float(corner.sum()) == pytest.approx(0.5 + 0.5 / 32)
    assert mass(maps * 0, torch.Size((20, 20))).unique().numel() == 1


def test_positions_follow_the_mass() -> None:
    weights = torch.full((1000,), 0.5 / 900, dtype=torch.double)
    weights[:100] = 0.5 / 100
    at = spread(1000, 100, 3, weights)
    assert torch.equal(at, spread(1000, 100, 3, weights))
    assert (at.diff() > 0).all() and int(at[0]) >= 0 and int(at[-1]) < 1000
    assert 35 <= int((at < 100).sum()) <= 50  # 50 stretches, of which two may share a position
    assert 45 <= int((at >= 100).sum()) <= 51
    assert torch.equal(spread(10, 10, 0, torch.rand(10).double()), torch.arange(10))
    single = torch.zeros(50, dtype=torch.double)
    single[7] = 1
    assert spread(50, 20, 0, single).tolist() == [7]
