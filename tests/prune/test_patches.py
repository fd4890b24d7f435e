"""The product of what a layer reads and its matrix is what the layer gives, whatever its kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yoloprune.prune.patches import matrix, positions, read, spread, weight_of, written

CASES = [
    (nn.Conv2d(6, 8, 3, padding=1), (2, 6, 9, 7)),
    (nn.Conv2d(6, 8, 1, bias=False), (2, 6, 5, 5)),
    (nn.Conv2d(6, 8, (5, 3), stride=(2, 1), padding=(2, 0), dilation=(1, 2)), (2, 6, 11, 9)),
    (nn.Conv2d(6, 9, 3, padding="same", groups=3, dilation=2), (2, 6, 9, 7)),
    (nn.Conv2d(6, 6, 3, padding="valid", groups=6), (2, 6, 9, 7)),
    (nn.Conv2d(6, 8, 3, padding=2, padding_mode="reflect"), (2, 6, 9, 7)),
    (nn.Conv2d(6, 8, 4, padding="same"), (2, 6, 9, 7)),
    (nn.Conv1d(4, 6, 3, padding=1, groups=2), (3, 4, 12)),
    (nn.Conv3d(4, 6, 3, padding=1, stride=2), (2, 4, 6, 5, 7)),
    (nn.ConvTranspose2d(6, 8, 2, stride=2), (2, 6, 5, 4)),
    (nn.ConvTranspose2d(6, 9, 3, stride=2, padding=1, output_padding=1, groups=3), (2, 6, 5, 4)),
    (nn.ConvTranspose2d(6, 4, (4, 3), stride=(2, 1), dilation=(1, 2), padding=1), (2, 6, 5, 7)),
    (nn.ConvTranspose1d(4, 6, 3, stride=3, output_padding=2), (2, 4, 6)),
    (nn.Linear(5, 7), (2, 3, 5)),
    (nn.Linear(5, 7, bias=False), (4, 5)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("layer", "shape"), CASES, ids=[str(layer) for layer, _ in CASES])
def test_rows_times_matrix_is_the_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = layer.double(), torch.randn(shape, dtype=torch.double)
    with torch.no_grad():
        y = layer(x)
    total = positions(layer, y.shape)
    for at in (torch.arange(total), spread(total, 5, 1)):
        product = torch.bmm(read(layer, x, y.shape, at).double(), matrix(layer, layer.weight))
        given = product.permute(1, 0, 2).flatten(1)
        bias = layer.bias if layer.bias is not None else 0
        expected = written(layer, y, at)
        torch.testing.assert_close((given + bias).float(), expected, rtol=1e-5, atol=1e-5)
    again = weight_of(layer, matrix(layer, layer.weight), layer.weight.shape)
    assert torch.equal(again, layer.weight)


@pytest.mark.parametrize(("total", "wanted"), [(10, 20), (10, 10), (1000, 7), (1001, 1000)])
def test_positions_are_spread_and_repeatable(total: int, wanted: int) -> None:
    at = spread(total, wanted, 3)
    assert len(at.unique()) == len(at) == min(total, wanted)
    assert torch.equal(at, spread(total, wanted, 3))
    if wanted < total:
        assert int(at.diff().max()) <= 2 * -(-total // wanted)
