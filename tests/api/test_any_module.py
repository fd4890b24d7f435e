"""What networks of users are made of: slimmed in one call, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import yoloprune as yp

EXAMPLE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
INPUTS = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def net(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 5, 1)
    inner = nn.Conv2d(16, 16, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), *between, nn.ReLU(), inner, nn.ReLU(), last).eval()


class OwnNorm(nn.Module):
    """A BatchNorm by the function, with tensors of other names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.register_buffer("mean", torch.rand(width))
        self.register_buffer("spread", torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.spread, self.scale, self.shift)


def batch_norm_of_the_batch() -> list[nn.Module]:
    norm = nn.BatchNorm2d(16, track_running_stats=False)
    return [nn.Conv2d(16, 16, 3, padding=1), norm]


PARTS: dict[str, Callable[[], list[nn.Module]]] = {
    "grouped transposed convolution": lambda: [nn.ConvTranspose2d(16, 16, 2, 2, groups=2)],
    "BatchNorm without statistics": batch_norm_of_the_batch,
    "a BatchNorm of one's own": lambda: [nn.Conv2d(16, 16, 3, padding=1), OwnNorm(16)],
}


@pytest.mark.parametrize("calib", [None, INPUTS], ids=["cut", "repaired"])
@pytest.mark.parametrize("name", PARTS)
def test_it_is_slimmed(name: str, calib: Tensor | None) -> None:
    model = net(*PARTS[name]())
    found = yp.slim(model, EXAMPLE, macs=0.6, calib=calib, min_channels=2, round_to=1)
    assert found.record["self_test"]["max_rel_diff"] < 1e-9
    assert 0.4 < found.metrics["after"]["macs"] / found.metrics["before"]["macs"] <= 0.6
    assert found.model(EXAMPLE).shape == model(EXAMPLE).shape


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (lambda: torch.jit.script(net()), EXAMPLE, "is TorchScript, whose modules cannot be"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), EXAMPLE, "has lazy layers without weights"),
        (lambda: nn.Embedding(9, 4), torch.randint(0, 9, (1, 5)), "example_input: got torch.int64"),
        (net, (EXAMPLE, EXAMPLE), "example_input: got tuple, expected one tensor"),
    ],
    ids=["TorchScript", "lazy", "tokens", "two inputs"],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_it_is_refused_in_a_line(
    model: Callable[[], nn.Module], example: Tensor, message: str
) -> None:
    with pytest.raises(yp.YoloPruneError, match=message):
        yp.slim(model(), example, macs=0.6)


@pytest.mark.parametrize("example", [(EXAMPLE, EXAMPLE), torch.randint(0, 9, (1, 3, 16, 16))])
def test_a_trace_takes_one_tensor_of_numbers(example: Tensor) -> None:
    with pytest.raises(yp.YoloPruneError, match="expected one tensor of floating-point numbers"):
        yp.trace(net(), example)
