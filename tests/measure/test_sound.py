"""Models whose numbers are none, by the name of the tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.nets import Chain, random_units, randomised, traced
from yoloprune.errors import MeasureError
from yoloprune.measure.detect import DetectOptions, detect
from yoloprune.measure.sound import check_finite
from yoloprune.models.door import Source
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, self_test
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.selftest import relative_difference
from yoloprune.prune.slim import slim


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a.0.weight", float("nan"), r"^a\.0\.weight: 1 of 216 values .* got nan"),
        ("b.1.weight", float("inf"), r"^b\.1\.weight: 1 of 6 values .* got inf"),
        ("out.bias", float("-inf"), r"^out\.bias: 1 of 4 values .* got -inf"),
        ("b.1.running_mean", float("nan"), r"^b\.1\.running_mean: 1 of 6 values"),
        ("b.1.running_var", float("nan"), r"^b\.1\.running_var: 1 of 6 values"),
        ("a.1.running_var", -0.5, r"^a\.1\.running_var: 1 of 8 variances .* got -0\.5, expected"),
    ],
)
def test_what_is_no_number_is_refused_by_tensor(
    name: str, value: float, message: str, tmp_path: Path
) -> None:
    model = randomised(Chain())
    check_finite(model)
    model.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(MeasureError, match=message):
        check_finite(model)
    with pytest.raises(MeasureError, match=message):
        next(detect(model, [tmp_path / "missing.png"], DetectOptions(imgsz=64)))
    options = SlimOptions(budget=Budget(percent=0.3), out=tmp_path / "slim")
    with pytest.raises(MeasureError, match=message):
        slim(model, Source(tmp_path / "missing.pt"), options)
    assert not (tmp_path / "slim").exists()


def test_counters_and_empty_tensors_are_no_numbers_to_check() -> None:
    model = nn.Module()
    model.register_buffer("steps", torch.tensor(-3))
    model.register_buffer("none", torch.zeros(0))
    check_finite(model)


def test_a_self_test_without_numbers_fails() -> None:
    model = randomised(Chain())
    graph = traced(model)
    remove = random_units(graph)
    thin = cut_units(model, graph, remove, compensate=False)
    assert self_test(model, graph, remove, thin).passed
    model.out.bias.data[0] = float("nan")  # type: ignore[union-attr, operator]
    thin = cut_units(model, graph, remove, compensate=False)
    found = self_test(model, graph, remove, thin)
    assert found.max_rel_diff == float("inf")
    assert not found.passed


def test_only_the_same_infinities_are_alike() -> None:
    inf, nan = float("inf"), float("nan")
    assert relative_difference(torch.tensor([inf, 2.0]), torch.tensor([inf, 1.0])) == 0.5
    for a, b in (([nan], [nan]), ([inf], [-inf]), ([inf, 1.0], [2.0, 1.0]), ([1.0], [inf])):
        assert relative_difference(torch.tensor(a), torch.tensor(b)) == inf
