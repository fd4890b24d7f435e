"""A model is looked at on one thread, and torch has its threads back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.measure.size import count


class Asking(nn.Module):
    """Notes in its class, which copies share, on how many threads it ran."""

    seen: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(torch.get_num_threads())
        return self.conv(x)


@pytest.fixture
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_three_threads")
def test_traces_and_counts_run_on_one_thread() -> None:
    trace(Asking())
    count(Asking(), 32)
    assert Asking.seen == {1}
    assert torch.get_num_threads() == 3
