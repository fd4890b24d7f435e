"""Histograms of a network's numbers, by hand."""

from __future__ import annotations

import torch
from torch import nn

from yoloprune.measure.spread import BINS, spreads


def net(*scales: float, weight: float = 1.0) -> nn.Module:
    norm = nn.BatchNorm2d(len(scales))
    norm.weight.data = torch.tensor(scales)
    conv = nn.Conv2d(1, len(scales), 1, bias=False)
    nn.init.constant_(conv.weight, weight)
    return nn.Sequential(conv, norm)


def test_values_stand_in_their_bins_and_signs_count_for_weights_only() -> None:
    found = spreads({"before": net(0.0, -1.0, 0.5, 1.0), "after": net(1.0, weight=-1.0)})
    gamma, weights = found["gamma"], found["weights"]
    assert (gamma["low"], round(gamma["high"], 6)) == (0.0, 1.0)
    before = gamma["counts"]["before"]
    assert (before[0], before[BINS // 2], before[-1], sum(before)) == (1, 1, 2, 4)
    assert gamma["counts"]["after"] == [0] * (BINS - 1) + [1]
    assert weights["low"] == -weights["high"]
    assert weights["counts"]["before"] == [0] * (BINS - 1) + [4]
    assert weights["counts"]["after"] == [1] + [0] * (BINS - 1)


def test_what_is_far_off_is_counted_in_the_last_bin() -> None:
    many = net(*[1.0] * 2000, 1e6)
    found = spreads({"only": many})["gamma"]
    assert found["high"] == 1.0
    assert found["counts"]["only"][-1] == 2001


def test_numbers_that_are_none_are_left_out() -> None:
    found = spreads({"only": net(1.0, float("nan"), float("inf"))})["gamma"]
    assert sum(found["counts"]["only"]) == 1


def test_a_network_without_norms_has_no_histogram_of_them() -> None:
    assert "gamma" not in spreads({"only": nn.Sequential(nn.Conv2d(1, 1, 1))})
    assert spreads({"only": nn.ReLU()}) == {}
