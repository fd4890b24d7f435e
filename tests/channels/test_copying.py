"""Copies of modules against ``copy.deepcopy``, and how much of it they still call."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune.channels.copying import copy_modules


class Odd(nn.Module):
    """Shares, refers to itself, and caches."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first = self.second = inner
        self.beside = [inner, {"deep": inner}]
        self.cache: dict[str, Any] = {}
        self.same_cache = self.cache
        self.numbers = {"a": 1, 2: [3]}
        self.register_buffer("held", torch.ones(2))
        self.alias = self.held
        vars(self)["whole"] = self


class Counted(nn.Module):
    """Has its own way to be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Counted:
        made = Counted()
        made.copied = True
        return made


class Keeping(nn.Module):
    """Leaves something out of its state, and notes that it was filled."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lost"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.filled = len(self.weights)


def test_what_is_shared_inside_is_shared_in_the_copy() -> None:
    model = nn.Sequential(Odd(nn.Linear(2, 2)), nn.ReLU())
    made: Any = copy_modules(model, {})[0]
    assert made is not model[0]
    assert made.first is made.second is made.beside[0] is made.beside[1]["deep"]
    assert made.cache is made.same_cache and made.cache is not model[0].cache
    assert made.alias is made.held and made.held is not model[0].held
    assert made.whole is made
    assert made.numbers == {"a": 1, 2: [3]} and made.numbers is not model[0].numbers
    assert made.first.weight is not model[0].first.weight
    assert torch.equal(made.first.weight, model[0].first.weight)


def test_own_ways_of_being_copied_are_taken() -> None:
    keeping = Keeping()
    keeping.lost, keeping.weights = 1, [1, 2, 3]
    odd, kept = copy_modules(nn.Sequential(Counted(), keeping), {})
    assert odd.copied is True
    assert kept.filled == 3 and not hasattr(kept, "lost")


def test_tensors_of_the_memo_stand_in_the_copy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    other = nn.Parameter(torch.zeros(4))
    memo = {id(p): p for p in model.parameters()} | {id(model[1].weight): other}
    made = copy_modules(model, memo)
    assert made[0].weight is model[0].weight and made[1].weight is other
    assert made[1].running_mean is not model[1].running_mean


def test_a_detector_is_copied_as_deepcopy_does() -> None:
    model = DetectionModel("yolov8n.yaml", verbose=False).eval()
    made, plain = copy_modules(model, {}), copy.deepcopy(model)
    for (name, one), (other_name, other) in zip(
        made.named_modules(), plain.named_modules(), strict=True
    ):
        assert name == other_name and type(one) is type(other)
        assert list(vars(one)) == list(vars(other))
        for attr, value in vars(one).items():
            assert type(value) is type(vars(other)[attr]), (name, attr)
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made(picture)[0], plain(picture)[0])


def test_deepcopy_is_called_for_what_is_not_plain_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's own layers nothing but the tuples of a convolution is left to it."""
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()) for _ in range(50)))
    memo = {id(p): p for p in model.parameters()}
    calls = []
    known = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda *given: calls.append(0) or known(*given))
    copy_modules(model, memo)
    assert len(calls) < 50 * 10
