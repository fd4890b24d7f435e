"""Random networks put together from the ways in which real ones handle channels.

Decisions (which operation, which width, whether it fits) are taken once, while the network is
built, so that a network whose channels were cut still takes the same path.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import nets
import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")
Step = Callable[["RandomNet", Tensor], Tensor]


class Gain(nn.Module):
    """A parameter, one number a channel."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.linspace(0.5, 1.5, n))


class RandomNet(nn.Module):
    """A first convolution, some random steps, a last convolution.

    Args:
        seed: of every decision.
        steps: to choose from; without them, all of :data:`STEPS`.
    """

    def __init__(self, seed: int, steps: Sequence[Step] = ()) -> None:
        super().__init__()
        self.seed, self.steps = seed, tuple(steps) or STEPS
        self.made = nn.ModuleList()
        self.decided: list[Any] = []
        self.path: list[str] = []
        self.seen: list[Tensor] = []
        self.building = True
        self(torch.rand(1, 3, 16, 16))
        self.building = False

    def layer(self, make: Callable[[], nn.Module]) -> Any:
        """A module, made while building and found again later."""
        if self.building:
            self.made.append(make())
        self.next_layer += 1
        return self.made[self.next_layer - 1]

    def decide(self, ask: Callable[[random.Random], T]) -> T:
        """A decision, taken while building and kept."""
        if self.building:
            self.decided.append(ask(self.random))
        self.next_decision += 1
        found: T = self.decided[self.next_decision - 1]
        return found

    def divides(self, n: int, x: Tensor) -> bool:
        """Whether ``n`` parts of the channels are equal, and each holds more than one."""
        return self.decide(lambda _: x.shape[1] % n == 0 and x.shape[1] > n)

    def narrow(self, x: Tensor, limit: int = 40) -> bool:
        """Whether there is room for more channels."""
        return self.decide(lambda _: x.shape[1] <= limit)

    def forward(self, x: Tensor) -> Tensor:
        self.next_layer = self.next_decision = 0
        self.random = random.Random(self.seed)
        x = self.layer(lambda: nets.conv(3, 12))(x)
        self.seen = [x]
        for _ in range(self.decide(lambda r: r.randint(1, 7))):
            step = self.steps[self.decide(lambda r: r.randrange(len(self.steps)))]
            if self.building:
                self.path.append(step.__name__)
            x = step(self, x)
            self.seen.append(x)
        self.seen, seen = [], x
        return self.layer(lambda: nn.Conv2d(int(seen.shape[1]), 5, 1))(seen)


def block(net: RandomNet, x: Tensor, c_out: int = 0, groups: int = 1) -> Tensor:
    c = int(x.shape[1])
    return net.layer(lambda: nets.conv(c, c_out or c, groups=groups))(x)


def dense(net: RandomNet, x: Tensor) -> Tensor:
    return block(net, x, net.decide(lambda r: r.choice((4, 8, 12))))


def residual(net: RandomNet, x: Tensor) -> Tensor:
    return x + block(net, x)


def skip(net: RandomNet, x: Tensor) -> Tensor:
    fits = [i for i, y in enumerate(net.seen) if y.shape == x.shape]
    return x + net.seen[net.decide(lambda r: r.choice(fits))]


def skip_cat(net: RandomNet, x: Tensor) -> Tensor:
    i = net.decide(lambda r: r.randrange(len(net.seen)))
    return torch.cat((net.seen[i], x), 1) if net.narrow(x) else x


def halves(net: RandomNet, x: Tensor) -> Tensor:
    if not net.divides(2, x):
        return x
    a, b = x.chunk(2, 1)
    return torch.cat((b, a, a + block(net, b)), 1)


def gated_halves(net: RandomNet, x: Tensor) -> Tensor:
    if not net.divides(2, x):
        return x
    a, b = x.chunk(2, 1)
    return a * b.sigmoid()


def one_half(net: RandomNet, x: Tensor) -> Tensor:
    if not net.divides(2, x):
        return x
    return torch.cat((x.chunk(2, 1)[net.decide(lambda r: r.randrange(2))], x), 1)


def thirds(net: RandomNet, x: Tensor) -> Tensor:
    if not net.divides(3, x):
        return x
    a, b, c = x.chunk(3, 1)
    return torch.cat((a + b, c), 1)


def sliced_halves(net: RandomNet, x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return torch.cat((x[:, half:], x[:, :half]), 1) if net.divides(2, x) else x


def split_halves(net: RandomNet, x: Tensor) -> Tensor:
    if not net.divides(2, x):
        return x
    a, b = x.split(x.shape[1] // 2, 1)
    return torch.cat((a * 2, b), 1)


def depthwise(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    return block(net, x, c * net.decide(lambda r: r.choice((1, 1, 2))), c)


def grouped(net: RandomNet, x: Tensor) -> Tensor:
    g, m = net.decide(lambda r: (r.choice((2, 4)), r.choice((2, 3))))
    return block(net, x, g * m, g) if net.divides(g, x) else x


def shuffle(net: RandomNet, x: Tensor) -> Tensor:
    g, inner = net.decide(lambda r: (r.choice((2, 4)), r.random() < 0.5))
    b, c, h, w = x.shape
    if not net.divides(g, x):
        return x
    table = x.view(b, c // g, g, h, w) if inner else x.view(b, g, c // g, h, w)
    return table.transpose(1, 2).reshape(b, c, h, w)


def rows(net: RandomNet, x: Tensor) -> Tensor:
    g = net.decide(lambda r: r.choice((2, 4)))
    if not net.divides(g, x):
        return x
    table = x.unflatten(1, (g, -1))
    return (table * table.mean((3, 4), keepdim=True)).flatten(1, 2)


def swapped_rows(net: RandomNet, x: Tensor) -> Tensor:
    if not net.divides(2, x):
        return x
    table = x.unflatten(1, (2, -1))
    return torch.cat((table[:, 1], table[:, 0]), 1)


def flipped_rows(net: RandomNet, x: Tensor) -> Tensor:
    return x.unflatten(1, (2, -1)).flip(1).flatten(1, 2) if net.divides(2, x) else x


def summed_rows(net: RandomNet, x: Tensor) -> Tensor:
    return x.unflatten(1, (2, -1)).sum(1) if net.divides(2, x) else x


def squeeze_excite(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    return x * net.layer(lambda: nn.Conv2d(c, c, 1))(x.mean((2, 3), keepdim=True)).sigmoid()


def pooled(net: RandomNet, x: Tensor) -> Tensor:
    return torch.cat((x, F.max_pool2d(x, 3, 1, 1)), 1) if net.narrow(x) else x


def linear(net: RandomNet, x: Tensor) -> Tensor:
    c, n = int(x.shape[1]), net.decide(lambda r: r.choice((6, 8)))
    return net.layer(lambda: nn.Linear(c, n))(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def gain(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    return x * net.layer(lambda: Gain(c)).values.view(1, -1, 1, 1)


def mask(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    return x * net.layer(lambda: nn.Conv2d(c, 1, 1))(x).sigmoid()


def attention(net: RandomNet, x: Tensor) -> Tensor:
    """Heads of packed q, k, v; written in two of the usual ways."""
    if not net.divides(2, x):
        return x
    b, c, h, w = x.shape
    n = int(c)
    packed = net.layer(lambda: nets.conv(n, 3 * n, 1, act=False))(x)
    if net.decide(lambda r: r.random() < 0.5):
        q, k, v = packed.view(b, 2, -1, h * w).chunk(3, 2)
    else:
        q, k, v = packed.view(b, 3, 2, c // 2, h * w).unbind(1)
    weights = ((q * 0.3).transpose(-2, -1) @ k).softmax(-1)
    return (v @ weights.transpose(-2, -1)).reshape(b, c, h, w) + x


def pixel_shuffle(net: RandomNet, x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pixel_shuffle(x, 2), 2) if net.divides(4, x) else x


def reorg(net: RandomNet, x: Tensor) -> Tensor:
    if not net.narrow(x, 16):
        return x
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return F.interpolate(x.reshape(b, c * 4, h // 2, w // 2), scale_factor=2)


def transposed(net: RandomNet, x: Tensor) -> Tensor:
    c, n = int(x.shape[1]), net.decide(lambda r: r.choice((4, 8)))
    return F.max_pool2d(net.layer(lambda: nn.ConvTranspose2d(c, n, 2, 2))(x), 2)


def in_place(net: RandomNet, x: Tensor) -> Tensor:
    y = x.clone()
    y += 1
    return F.relu_(y.mul_(x))


def assigned(net: RandomNet, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, ::2] = x[:, :, 1::2]
    return y


def stacked(net: RandomNet, x: Tensor) -> Tensor:
    """Two tensors stacked on either side of the channels, then flattened or folded."""
    dim = net.decide(lambda r: r.choice((0, 1, 2)))
    both = torch.stack([x, block(net, x)], dim)
    return both.mean(0) if dim == 0 else both.flatten(1, 2)


def shared(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    layer = net.layer(lambda: nets.conv(c, c))
    return layer(layer(x))


def repeated(net: RandomNet, x: Tensor) -> Tensor:
    return x.repeat(1, 2, 1, 1) if net.narrow(x, 16) else x


def expanded(net: RandomNet, x: Tensor) -> Tensor:
    return x + x.mean((2, 3), keepdim=True).expand(-1, -1, x.shape[2], x.shape[3])


def expanded_as(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    scale = net.layer(lambda: nn.Conv2d(c, c, 1))(x.mean((2, 3), keepdim=True))
    return torch.cat((x, scale.expand_as(x)), 1) if net.narrow(x) else scale.expand_as(x)


def where(net: RandomNet, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * 0.1)


def prelu(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    return net.layer(lambda: nn.PReLU(c))(x)


def batch_norm(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    return net.layer(lambda: nn.BatchNorm2d(c))(x)


def layer_norm(net: RandomNet, x: Tensor) -> Tensor:
    c = int(x.shape[1])
    return net.layer(lambda: nn.LayerNorm(c))(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def fixed_slice(net: RandomNet, x: Tensor) -> Tensor:
    return torch.cat((x[:, 2:], x[:, :2]), 1)


def fixed_vector(net: RandomNet, x: Tensor) -> Tensor:
    return x * torch.linspace(0.5, 1, x.shape[1]).view(1, -1, 1, 1).to(x)


def rolled(net: RandomNet, x: Tensor) -> Tensor:
    return x + x.roll(1, net.decide(lambda r: r.choice((1, 2))))


def max_of_pairs(net: RandomNet, x: Tensor) -> Tensor:
    return x.unflatten(1, (-1, 2)).amax(2) if net.divides(2, x) else x


def gram(net: RandomNet, x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return ((flat @ flat.transpose(1, 2)).softmax(-1) @ flat).view(x.shape)


def padded_channels(net: RandomNet, x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 1, 1))


def interleaved(net: RandomNet, x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1) if net.narrow(x, 16) else x


EXACT: tuple[Step, ...] = (
    dense, residual, skip, skip_cat, halves, gated_halves, one_half, thirds, sliced_halves,
    split_halves, depthwise, grouped, shuffle, rows, swapped_rows, flipped_rows, summed_rows,
    squeeze_excite, pooled, linear, gain, mask, attention, pixel_shuffle, reorg, transposed,
    in_place, assigned, stacked, shared, repeated, expanded, expanded_as, where, prelu, batch_norm,
)  # fmt: skip
"""Steps that keep channels prunable."""

FREEZING: tuple[Step, ...] = (
    layer_norm, fixed_slice, fixed_vector, rolled, max_of_pairs, gram, padded_channels, interleaved,
)  # fmt: skip
"""Steps that may make channels stay."""

STEPS = (*EXACT * 4, *FREEZING)
