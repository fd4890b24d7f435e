"""Blocks written to break a tracer: each is cut exactly, or kept with the reason. Never wrong.

The oracle is masking, at the traced size and at others: what holds by accident at one size (a
reshape that happens to keep channels apart) must not pass.
"""

from __future__ import annotations

import logging

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.prune.cut import cut_units, self_test
from yoloprune.prune.selftest import relative_difference

SIZES = ((16, 16), (16, 20), (24, 32))


class Block(nn.Module):
    """``before`` → ``a`` (8 channels, under test) → a function → ``out``."""

    def __init__(self, c_out: int = 8) -> None:
        super().__init__()
        self.before, self.a = nets.conv(3, 6), nets.conv(6, 8)
        self.out = nn.Conv2d(c_out, 4, 1)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self.a(self.before(x))))


def inside(net: type[nn.Module]) -> type[nn.Module]:
    """A net behind another layer, so that something can go even where ``a`` is kept."""

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.net = nets.conv(3, 6), net()
            for name in ("a", "b"):
                if name in dict(self.net.named_children()):
                    width = getattr(self.net, name)[0].out_channels
                    setattr(self.net, name, nets.conv(6, width))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.before(x))

    Inside.__name__ = net.__name__
    return Inside


class UpAndDown(nets.Wrapped):
    """Pooled, and brought back by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__(13)
        self.up = nn.ConvTranspose2d(8, 5, 2, 2)

    def between(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.up(F.max_pool2d(x, 2))), 1)


class SplitByAttributes(Block):
    """Uneven sections whose sizes are attributes: those follow the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [3, 5]

    def between(self, x: Tensor) -> Tensor:
        left, right = x.split(self.sizes, 1)
        return torch.cat((right, left), 1)


class Checked(Block):
    """Asserts the width that it was made for, which is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 8

    def between(self, x: Tensor) -> Tensor:
        _, c, _, _ = x.shape
        assert c == self.dim, f"got {c} channels, expected {self.dim}"
        return x


class CheckedInDigits(Block):
    def between(self, x: Tensor) -> Tensor:
        if x.shape[1] != 8:
            raise ValueError("expected 8 channels")
        return x


class ShortcutWhereWidthsAgree(Block):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.width = nets.conv(8, 8), 8

    def between(self, x: Tensor) -> Tensor:
        y = self.b(x)
        return x + y if x.shape[1] == self.width and x.shape == y.shape else y


class PixelUnshuffled(Block):
    def __init__(self) -> None:
        super().__init__(32)

    def between(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, 2)


class FocusSlices(Block):
    """YOLOv5's Focus: positions before channels."""

    def __init__(self) -> None:
        super().__init__(32)

    def between(self, x: Tensor) -> Tensor:
        parts = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        return torch.cat(tuple(parts), 1)


class BlurPool(Block):
    """A depthwise kernel that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.rand(8, 1, 3, 3))

    def between(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])


class CoordConv(Block):
    """Two channels that no layer made are joined to eight that one did."""

    def __init__(self) -> None:
        super().__init__(10)

    def between(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        ys = torch.linspace(-1, 1, h, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
        xs = torch.linspace(-1, 1, w, dtype=x.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
        return torch.cat((x, ys, xs), 1)


class Cbam(Block):
    """A gate from the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 3, padding=1)

    def between(self, x: Tensor) -> Tensor:
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * self.gate(pooled).sigmoid()


class ResponseNorm(Block):
    """ConvNeXt's GRN: each channel by the mean of all their norms."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(1, 8, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        size = x.norm(dim=(2, 3), keepdim=True)
        return x + self.gain * x * size / size.mean(1, keepdim=True)


class UnitLength(Block):
    def between(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


class ScaledByWidth(Block):
    """The number of channels enters the arithmetic."""

    def between(self, x: Tensor) -> Tensor:
        return x * x.shape[1] ** -0.5


class FixedIndices(Block):
    def between(self, x: Tensor) -> Tensor:
        return x[:, torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])]


class RolledChannels(Block):
    def between(self, x: Tensor) -> Tensor:
        return x + x.roll(1, 1)


class ReversedChannels(Block):
    """Each channel meets its mirror image: pairs go together."""

    def between(self, x: Tensor) -> Tensor:
        return x * x.flip(1)


class StandardisedWeights(Block):
    """The weights that are used are computed from those that are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(8, 8, 1, bias=False)

    def between(self, x: Tensor) -> Tensor:
        weight = self.mix.weight
        return F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True))


class DynamicKernel(Block):
    """Two kernels, mixed by what the picture is like."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.rand(2, 8, 8, 1, 1))
        self.choose = nn.Linear(8, 2)

    def between(self, x: Tensor) -> Tensor:
        share = self.choose(x.mean((0, 2, 3))).softmax(-1)
        return F.conv2d(x, (share.view(2, 1, 1, 1, 1) * self.kernels).sum(0))


class GramMatrix(Block):
    """Channel attention: every channel is a mixture of all."""

    def between(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return ((flat @ flat.transpose(1, 2)).softmax(-1) @ flat).view(x.shape)


class WrittenThroughView(Block):
    """Half of the channels is changed in place, through a slice."""

    def between(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :4] *= 2
        return x


class FoldedIntoBatch(Block):
    """BasicStem-like regrouping: channels go through the axis of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Conv2d(1, 1, 3, padding=1)

    def between(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return self.each(x.reshape(b * c, 1, h, w)).reshape(b, c, h, w)


class OwnOp(Block):
    """A kernel that torch knows nothing of: deformable convolution."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.ops import DeformConv2d

        self.where = nn.Conv2d(8, 18, 3, padding=1)
        self.deform = DeformConv2d(8, 8, 3, padding=1)

    def between(self, x: Tensor) -> Tensor:
        return self.deform(x, self.where(x))


# Of the list, what can go and what stays with which reason. Where ``None`` stands, some
# of the 8 channels of ``a`` can go.
FIFTEEN: tuple[tuple[type[nn.Module], str | None], ...] = (
    (inside(nets.Shuffled), None),
    (inside(nets.SqueezeExcite), None),
    (inside(nets.EfficientChannelAttention), "the layer net.mix works along an axis of channels"),
    (inside(nets.UnevenSplit), "split in net"),
    (inside(nets.StridedSlice), "fixed slice of channels in net"),
    (inside(nets.Einsum), None),
    (inside(nets.Shared), None),
    (inside(nets.MultiHead), "nn.MultiheadAttention in net.attention"),
    (inside(nets.GroupNormed), "GroupNorm over channels is not exact after a cut in net.norm"),
    (inside(nets.PixelShuffled), None),
    (inside(nets.ChunkThree), None),
    (inside(nets.InPlace), None),
    (inside(nets.ReusedPool), None),
    (inside(UpAndDown), None),
    (inside(nets.UnknownOp), "fft_r2c has no rule in net"),
)
MORE: tuple[tuple[type[nn.Module], str | None], ...] = (
    (SplitByAttributes, None),
    (PixelUnshuffled, None),
    (Checked, None),
    (CheckedInDigits, "their number is compared in the model"),
    (ShortcutWhereWidthsAgree, None),
    (FocusSlices, None),
    (BlurPool, None),
    (CoordConv, None),
    (Cbam, "mean over channels"),
    (ResponseNorm, "mean over channels"),
    (UnitLength, "over channels"),
    (ScaledByWidth, "their number enters the arithmetic"),
    (FixedIndices, "index along channels"),
    (RolledChannels, "roll along channels"),
    (ReversedChannels, None),
    (StandardisedWeights, "convolution with computed weights"),
    (DynamicKernel, "convolution with computed weights"),
    (GramMatrix, "matrix product of channels"),
    (WrittenThroughView, "fixed slice of channels"),
    (FoldedIntoBatch, "the layer each works along an axis of channels"),
    (OwnOp, "their number enters the arithmetic in deform"),
)


def reasons(graph: ChannelGraph) -> set[str]:
    """Why the output channels of the layer under test stay; empty where some may go."""
    axis = next(a for a in graph.out_axes if a.module in ("a.0", "net.a.0"))
    kept = [graph.frozen.get(int(unit)) for unit in axis.units]
    return set() if None in kept else {why for why in kept if why is not None}


def check_exact(model: nn.Module, graph: ChannelGraph, sizes: tuple[tuple[int, int], ...]) -> None:
    """Cut at random three times; masking is the oracle, at every size."""
    for seed in range(3):
        remove = nets.random_units(graph, seed=seed)
        assert remove.size
        slim = cut_units(model, graph, remove, compensate=False)
        for height, width in sizes:
            given = torch.rand(2, 3, height, width, dtype=torch.float64)
            result = self_test(model, graph, remove, slim, example=given)
            assert result.max_rel_diff <= 1e-9, (height, width)
        with torch.no_grad():
            assert relative_difference(model(given), slim(given)) > 1e-3


@pytest.mark.parametrize(
    ("net", "reason"), FIFTEEN + MORE, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_hostile_block_is_cut_exactly_or_kept_with_its_reason(
    net: type[nn.Module], reason: str | None
) -> None:
    torch.manual_seed(0)
    model = nets.randomised(net().double())
    graph = nets.traced(model)
    found = reasons(graph)
    if reason is None:
        assert not found
    else:
        assert found and all(reason in why for why in found), found
    check_exact(model, graph, SIZES)


def test_they_are_fifteen() -> None:
    assert len({net.__name__ for net, _ in FIFTEEN}) == 15


# --- layers that no traced pass reaches


class Prompted(nn.Module):
    """A head with an encoder that only another entry point runs (YOLOE's visual prompts)."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nets.conv(8, 8)
        self.encoder = nn.Sequential(nets.conv(8, 6), nets.conv(6, 8), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)

    def prompts(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class Layered(nn.Module):
    """Layers in a Sequential that is walked through, not called, as in Ultralytics."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(nets.conv(3, 6), nets.conv(6, 8), head, nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.model:
            x = layer(x)
        return x


def test_what_an_unreached_encoder_reads_stays() -> None:
    model = nets.randomised(Layered(Prompted()).double())
    graph = nets.traced(model)
    axes = {axis.module: axis.units for axis in graph.out_axes}
    why = {graph.frozen[int(unit)] for unit in axes["model.1.0"]}
    assert why == {"model.2.encoder.0.0.weight may read them, but no pass reached it"}
    remove = nets.random_units(graph)
    slim = cut_units(model, graph, remove, compensate=False)
    assert slim.model[2].prompts(torch.rand(1, 8, 8, 8, dtype=torch.float64)).shape[1] == 3


def test_inner_layers_of_an_unreached_chain_freeze_nothing() -> None:
    """YOLO26-pose's flow model: 2 → 8 → 8 → 2, beside features of 8 channels."""

    class Flow(Prompted):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 2)]
            self.encoder = nn.Sequential(*layers)

    graph = nets.traced(nets.randomised(Layered(Flow()).double()))
    assert len(graph.unreached) == 6
    assert set(graph.frozen.values()) == {"output of the model"}


# --- modules that say of themselves that they are opaque


class MemoryReorg(nn.Module):
    """Channels and rows mixed, unless the height is a multiple of 4."""

    opaque_channels = "mixes channels with rows"

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.reshape(b, c // 4, h, 2, w, 2).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(b, c * 4, h // 2, w // 2)


class Marked(Block):
    def __init__(self) -> None:
        super().__init__(32)
        self.reorg = MemoryReorg()

    def between(self, x: Tensor) -> Tensor:
        return self.reorg(x)


class MarkedInside(Block):
    """A marked block with layers of its own, in place and joined to what it read."""

    class Body(nn.Module):
        opaque_channels = "does what it likes"

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nets.conv(8, 5), nets.conv(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x)).add_(1)

    def __init__(self) -> None:
        super().__init__(16)
        self.body = MarkedInside.Body()

    def between(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), 1)


def test_a_marked_module_keeps_what_it_reads_and_gives_channels_of_its_own() -> None:
    model = nets.randomised(Marked().double())
    graph = nets.traced(model)
    assert reasons(graph) == {"mixes channels with rows in reorg"}
    read = next(a for a in graph.axes if a.tensor == "out.weight" and a.role == "in")
    assert {graph.frozen[int(u)] for u in read.units} == {"mixes channels with rows in reorg"}
    check_exact(model, graph, SIZES)


class Moody(nn.Module):
    """Does something else at other sizes, as ``[reorg]`` does."""

    def forward(self, x: Tensor) -> Tensor:
        return x if int(x.shape[2]) % 16 == 0 else x.softmax(1)


class MarkedMoody(Moody):
    opaque_channels = "looks at the size"


@pytest.mark.parametrize("block", [Moody, MarkedMoody])
def test_the_mark_is_needed_and_is_enough(block: type[nn.Module]) -> None:
    class Net(Block):
        def __init__(self) -> None:
            super().__init__()
            self.block = block()

        def between(self, x: Tensor) -> Tensor:
            return self.block(x)

    model = nets.randomised(Net().double())
    graph = nets.traced(model)
    if block is MarkedMoody:
        assert reasons(graph) == {"looks at the size in block"}
        check_exact(model, graph, SIZES)
    else:
        assert not reasons(graph)
        with pytest.raises(AssertionError):
            check_exact(model, graph, ((24, 24),))


def test_layers_inside_a_marked_module_stay_whole() -> None:
    model = nets.randomised(MarkedInside().double())
    graph = nets.traced(model)
    for axis in graph.out_axes:
        if axis.module.startswith("body"):
            why = {graph.frozen[int(unit)] for unit in axis.units}
            assert why == {"does what it likes in body"}
    assert graph.unreached == ()
    check_exact(model, graph, SIZES)


REORG = """\
[net]
width={side}
height={side}
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=12
size=3
stride=1
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[route]
layers=-2

[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
activation=leaky

[reorg]
stride=2

[route]
layers=-1,-4

[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
pad=1
activation=leaky

[convolutional]
filters=35
size=1
stride=1
pad=1
activation=linear

[region]
anchors=1,1, 2,2, 3,3, 4,4, 5,5
classes=2
coords=4
num=5
softmax=1
"""


@pytest.mark.parametrize("traced_at", [64, 56], ids=["rows-multiple-of-4", "rows-not"])
def test_yolov2s_reorg_is_exact_at_every_size(traced_at: int) -> None:
    cfg = parse_cfg(REORG.format(side=64), "reorg.cfg")
    model = nets.randomised(DarknetModel(cfg).double())
    graph = trace(model, imgsz=traced_at)
    kept = {a.module: a.units for a in graph.out_axes if a.units.size == 8}
    before_reorg = [p for p, u in kept.items() if int(u[0]) in graph.frozen]
    assert len(kept) == 2 and len(before_reorg) == 1
    why = {graph.frozen[int(unit)] for unit in kept[before_reorg[0]]}
    assert len(why) == 1 and "[reorg] mixes channels with rows" in why.pop()
    # The reorg's rows: 32, 28, 36 and 30 (no multiple of 4).
    check_exact(model, graph, ((64, 64), (56, 56), (72, 72), (60, 64)))


def test_nothing_warns_of_lost_training_passes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        trace(nets.randomised(Marked()), imgsz=16)
    assert "not traced in training mode" not in caplog.text


def test_a_marked_module_that_hands_on_its_input() -> None:
    class Same(nn.Module):
        opaque_channels = "watches"

        def forward(self, x: Tensor) -> Tensor:
            return x

    class Net(Block):
        def __init__(self) -> None:
            super().__init__()
            self.same = Same()

        def between(self, x: Tensor) -> Tensor:
            return self.same(x) + x

    model = nets.randomised(Net().double())
    graph = nets.traced(model)
    assert reasons(graph) == {"watches in same"}
    assert np.flatnonzero(graph.prunable).size == 6
    check_exact(model, graph, SIZES)
