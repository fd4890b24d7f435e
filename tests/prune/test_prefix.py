"""What lies before a cut is not computed again, and nothing that comes out of it changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels.table import tensors_in
from yoloprune.channels.trace import trace
from yoloprune.measure.copies import structural_copy
from yoloprune.models.door import load
from yoloprune.prune.cut import cut_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.prefix import Prefix
from yoloprune.prune.score import score
from yoloprune.prune.selftest import silenced
from yoloprune.prune.sensitivity import alone, parts

SIDE = 64
BATCHES = [torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]


def outputs(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [tensor for batch in BATCHES for tensor in tensors_in(model(batch))]


def taken_down(model: nn.Module, room: int = 2**30) -> Prefix:
    prefix = Prefix(model, SIDE, room)
    noted = structural_copy(model)
    prefix.take_down(noted)
    outputs(noted)
    return prefix


def held_against(prefix: Prefix, model: nn.Module) -> list[str]:
    """What is spared, once what comes out of it is seen to be the same."""
    wanted = outputs(structural_copy(model))
    quick = structural_copy(model)
    spared = prefix.give_again(quick)
    ran: list[str] = []
    for path in spared:  # what stands in them, as their own forward is not theirs any more
        for name, module in quick.get_submodule(path).named_modules():
            if name and isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda *args, path=path: ran.append(path))
    found = outputs(quick)
    assert len(found) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not ran
    return spared


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml", "yoloprune-demo.cfg"])
def test_a_network_runs_from_the_cut_on(name: str) -> None:
    model = load(name)[0].float().eval()
    graph = trace(model)
    prefix = taken_down(model)
    planner, scores, found = Planner(graph), score(model, graph, criterion="l2"), parts(graph)
    many = []
    for part in found[0], found[len(found) // 2], found[-1]:
        remove = alone(planner, part, scores, 0.5)
        spared = held_against(prefix, silenced(model, graph, remove).eval())
        assert held_against(prefix, cut_units(model, graph, remove).eval()) == spared
        many.append(len(spared))
    assert many[0] == 0 and many == sorted(set(many))


def test_the_full_network_runs_not_at_all() -> None:
    model = load("yolov8n.yaml")[0].float().eval()
    assert len(held_against(taken_down(model), model)) == 22  # all but the head, which gives a list


def test_any_tensor_that_differs_ends_it() -> None:
    model = load("yolov8n.yaml")[0].float().eval()
    prefix = taken_down(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        norms = [m for m in other.model[5].modules() if isinstance(m, nn.BatchNorm2d)]
        norms[0].running_mean[0] += 1
    assert held_against(prefix, other) == [f"model.{i}" for i in range(5)]


def test_what_takes_too_much_room_runs_again() -> None:
    model = load("yolov8n.yaml")[0].float().eval()
    prefix = taken_down(model, room=1_000_000)
    spared = held_against(prefix, model)
    assert 0 < len(spared) < 22
    assert "model.10" not in spared  # scales a map up: much to keep, nothing to compute


class InPlace(nn.Module):
    """A later layer writes into what an earlier one gave, and both are read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.LeakyReLU(0.1, inplace=True)])
        self.out = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        return self.out(self.layers[1](x)) + x


def test_where_layers_write_into_others_all_run() -> None:
    model = InPlace().eval()
    assert held_against(taken_down(model), model) == []


class Chooses(nn.Module):
    """Picks its best channel; what comes after that may not be left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 1), nn.Conv2d(1, 4, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        best = x.mean((2, 3)).topk(1).indices
        return self.layers[1](x.gather(1, best[:, :, None, None].expand(-1, -1, *x.shape[2:])))


def test_what_comes_after_a_choice_runs() -> None:
    model = Chooses().eval()
    assert held_against(taken_down(model), model) == ["layers.0"]


class Twice(nn.Module):
    """One layer runs twice, another gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Identity(), nn.Conv2d(3, 4, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](self.layers[0](x))
        a, b = self.layers[1]((x, x + 1))
        return self.layers[2](a * b)


def test_layers_that_run_twice_or_give_more_run() -> None:
    model = Twice().eval()
    assert held_against(taken_down(model), model) == ["layers.2"]
