"""A trial repairs what its cut can have changed, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.nets import conv, randomised
from yoloprune.channels.graph import IntArray
from yoloprune.channels.trace import trace
from yoloprune.prune import trials
from yoloprune.prune.budget import Budget
from yoloprune.prune.mend import LayerRepair, Mending, RepairOptions
from yoloprune.prune.score import score
from yoloprune.prune.trials import Candidate, Trials

BUDGET = Budget(percent=0.5)


class Again(nn.Module):
    """``twice`` is called before ``b`` and ``c``, and after them."""

    input_shape = (1, 3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 12), conv(12, 8)
        self.twice, self.out = conv(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.twice(self.c(self.b(self.twice(self.a(x))))))


def trials_of(part: str) -> tuple[Trials, IntArray]:
    """Trials of that network, and the first three channels of a layer."""
    torch.manual_seed(0)
    model = randomised(Again()).eval()
    graph = trace(model)
    scores = score(model, graph, criterion="l2")
    pictures = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    ready = Trials(model, graph, scores, BUDGET, pictures, RepairOptions(rows=512))
    widest = next(axis for axis in graph.axes if axis.tensor == f"{part}.0.weight")
    return ready, np.unique(widest.units.ravel()[:3])


class Watched(Mending):
    """Keeps what it repaired."""

    done: list[LayerRepair]

    def carry_out(self) -> list[LayerRepair]:
        Watched.done = super().carry_out()
        return Watched.done


@pytest.mark.parametrize(
    ("part", "left"),
    [("b", {"b.0", "c.0", "twice.0", "out"}), ("a", {"a.0", "b.0", "c.0", "twice.0", "out"})],
)
def test_layers_before_all_that_is_cut_are_left_alone(
    part: str, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, remove = trials_of(part)
    cut = Candidate(ready.even.scores, BUDGET, remove)
    monkeypatch.setattr(trials, "Mending", Watched)
    found = ready.repaired(cut)
    assert {layer.path for layer in Watched.done} == left
    monkeypatch.setattr(Trials, "_from_the_cut_on", lambda self, thin: self._layers)
    ready._near = None
    whole = ready.repaired(cut)
    assert {layer.path for layer in Watched.done} == {"a.0", "b.0", "c.0", "twice.0", "out"}
    assert all(layer.pull is None for layer in Watched.done if layer.path not in left)
    for mine, other in zip(found.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(("part", "read"), [("a", {"twice.0"}), ("b", {"c.0"})])
def test_only_what_reads_the_cut_is_mended_in_a_hurry(
    part: str, read: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, remove = trials_of(part)
    monkeypatch.setattr(trials, "Mending", Watched)
    ready.mended(remove)
    assert {layer.path for layer in Watched.done} == read
    assert all(layer.after < layer.before for layer in Watched.done)
