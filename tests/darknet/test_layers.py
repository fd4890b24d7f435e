"""Every layer against its definition in Darknet, written out as a loop over single numbers."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.darknet.activations import ACTIVATIONS
from yoloprune.darknet.building import BUILDERS, Built, Context, Shape
from yoloprune.darknet.cfg import Section, parse_cfg
from yoloprune.darknet.layers import build_layer
from yoloprune.errors import CfgError

Array = NDArray[np.float64]


def parse(text: str, before: int) -> Section:
    """The last section of a cfg in which ``before`` others stand ahead of it."""
    return parse_cfg("[net]\nwidth=64\n" + "[empty]\n" * before + text, "n.cfg").layers[before]


def built(text: str, *shapes: tuple[int, int, int]) -> Built:
    """Build a section behind layers that give these shapes."""
    context = Context(Shape(3, 64, 64), tuple(Shape(*shape) for shape in shapes))
    layer = build_layer(parse(text, len(shapes)), context)
    layer.module.double().eval()
    return layer


def run(layer: Built, *inputs: Array) -> Array:
    """Run it; the shape that the builder foretold is checked on the way."""
    tensors = [torch.from_numpy(x) for x in inputs]
    with torch.no_grad():
        y: Tensor = layer.module(tensors[0] if len(tensors) == 1 else tensors)
    assert tuple(y.shape[1:]) == (layer.shape.channels, *layer.shape.size)
    return y.numpy()


def random(*shape: int) -> Array:
    return np.random.standard_normal(shape)


# --- pooling: maxpool_layer.c -------------------------------------------------------------------


def pool_loop(x: Array, size: int, stride_y: int, stride_x: int, pad: int, average: bool) -> Array:
    b, c, h, w = x.shape
    out_h, out_w = (h + pad - size) // stride_y + 1, (w + pad - size) // stride_x + 1
    offset = -(pad // 2)
    y = np.empty((b, c, out_h, out_w))
    for i, j in product(range(out_h), range(out_w)):
        rows = [offset + i * stride_y + n for n in range(size)]
        columns = [offset + j * stride_x + m for m in range(size)]
        inside = [(r, q) for r in rows for q in columns if 0 <= r < h and 0 <= q < w]
        values = np.stack([x[:, :, r, q] for r, q in inside])
        y[:, :, i, j] = values.mean(0) if average else values.max(0)
    return y


@pytest.mark.parametrize("kind", ["maxpool", "local_avgpool"])
@pytest.mark.parametrize("hw", [(8, 8), (7, 5), (13, 13)])
@pytest.mark.parametrize(
    ("size", "stride"), [(2, 2), (2, 1), (3, 2), (3, 1), (4, 2), (5, 1), (9, 1), (13, 1)]
)
def test_pooling(kind: str, hw: tuple[int, int], size: int, stride: int) -> None:
    x = random(2, 3, *hw) - 5  # below zero, so that padding with zeros would win
    layer = built(f"[{kind}]\nsize={size}\nstride={stride}\n", (3, *hw))
    expected = pool_loop(x, size, stride, stride, size - 1, kind != "maxpool")
    np.testing.assert_allclose(run(layer, x), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["maxpool", "local_avgpool"])
@pytest.mark.parametrize(("size", "pad"), [(2, 0), (3, 0), (3, 1), (3, 3), (3, 4), (4, 2), (5, 6)])
def test_pooling_with_padding_and_two_strides(kind: str, size: int, pad: int) -> None:
    x = random(1, 2, 9, 10)
    text = f"[{kind}]\nsize={size}\nstride=1\nstride_x=3\nstride_y=2\npadding={pad}\n"
    expected = pool_loop(x, size, 2, 3, pad, kind != "maxpool")
    np.testing.assert_allclose(run(built(text, (2, 9, 10)), x), expected, rtol=1e-12)


def test_pooling_defaults_to_its_stride_as_size() -> None:
    x = random(1, 2, 8, 8)
    y = run(built("[max]\nstride=2\n", (2, 8, 8)), x)
    np.testing.assert_array_equal(y, pool_loop(x, 2, 2, 2, 1, False))
    assert y[0, 0, 0, 0] == x[0, 0, :2, :2].max()


def test_avgpool_is_the_mean_of_the_plane() -> None:
    x = random(2, 3, 5, 4)
    y = run(built("[avgpool]\n", (3, 5, 4)), x)
    np.testing.assert_allclose(y[:, :, 0, 0], x.mean((2, 3)), rtol=1e-12)


# --- convolution: im2col_cpu_ext and gemm -------------------------------------------------------


def conv_loop(x: Array, weight: Array, stride: tuple[int, int], pad: int, dilation: int) -> Array:
    b, c, h, w = x.shape
    n, per_group, size, _ = weight.shape
    groups = c // per_group
    out_h, out_w = (h + 2 * pad - size) // stride[0] + 1, (w + 2 * pad - size) // stride[1] + 1
    y = np.zeros((b, n, out_h, out_w))
    for f, i, j, k, r, q in product(*map(range, (n, out_h, out_w, per_group, size, size))):
        row = i * stride[0] - pad * dilation + r * dilation
        column = j * stride[1] - pad * dilation + q * dilation
        if 0 <= row < h and 0 <= column < w:
            channel = f // (n // groups) * per_group + k
            y[:, f, i, j] += x[:, channel, row, column] * weight[f, k, r, q]
    return y


@pytest.mark.parametrize(
    ("options", "size", "stride", "pad", "dilation", "groups"),
    [
        ("size=3\npad=1", 3, (1, 1), 1, 1, 1),
        ("size=3\nstride=2\npad=1", 3, (2, 2), 1, 1, 1),
        ("size=3\nstride=2", 3, (2, 2), 0, 1, 1),
        ("size=3\npadding=2", 3, (1, 1), 2, 1, 1),
        ("size=5\npad=1\npadding=9", 5, (1, 1), 2, 1, 1),  # pad wins
        ("size=1\npad=1", 1, (1, 1), 0, 1, 1),
        ("size=2\npad=1\nstride=2", 2, (2, 2), 1, 1, 1),
        ("size=3\npad=1\nstride_x=2\nstride_y=3", 3, (3, 2), 1, 1, 1),
        ("size=3\npad=1\nstride=2\nstride_x=1", 3, (2, 1), 1, 1, 1),
        ("size=3\npad=1\ndilation=2", 3, (1, 1), 1, 2, 1),
        ("size=3\npad=1\ndilation=3\nstride=2", 3, (2, 2), 1, 3, 1),
        ("size=5\npad=1\ndilation=2", 5, (1, 1), 2, 2, 1),
        ("size=1\ndilation=4", 1, (1, 1), 0, 1, 1),  # ignored for size 1
        ("size=3\npad=1\ngroups=2", 3, (1, 1), 1, 1, 2),
        ("size=3\npad=1\ngroups=4\nstride=2", 3, (2, 2), 1, 1, 4),
    ],
)
def test_convolution(
    options: str, size: int, stride: tuple[int, int], pad: int, dilation: int, groups: int
) -> None:
    x, weight, bias = random(1, 4, 7, 8), random(8, 4 // groups, size, size), random(8)
    layer = built(f"[convolutional]\nfilters=8\n{options}\nactivation=linear\n", (4, 7, 8))
    layer.module.conv.weight.data = torch.from_numpy(weight)
    layer.module.conv.bias.data = torch.from_numpy(bias)
    expected = conv_loop(x, weight, stride, pad, dilation) + bias[:, None, None]
    np.testing.assert_allclose(run(layer, x), expected, rtol=1e-9, atol=1e-12)


def test_batch_norm_has_its_epsilon_in_the_root() -> None:
    """``normalize_cpu``: the variances are of the size of epsilon, where it matters."""
    text = "[convolutional]\nbatch_normalize=1\nfilters=3\nsize=1\nactivation=leaky\n"
    layer = built(text, (2, 4, 4))
    x, bn = random(2, 2, 4, 4), layer.module.bn
    gamma, beta, mean, var = random(3), random(3), random(3), np.array([1e-6, 1e-5, 2e-4])
    for target, value in zip(
        (bn.weight, bn.bias, bn.running_mean, bn.running_var), (gamma, beta, mean, var), strict=True
    ):
        target.data = torch.from_numpy(value)
    assert layer.module.conv.bias is None
    z = conv_loop(x, layer.module.conv.weight.detach().numpy(), (1, 1), 0, 1)
    shape = (1, -1, 1, 1)
    z = (z - mean.reshape(shape)) / np.sqrt(var + 1e-5).reshape(shape)
    z = z * gamma.reshape(shape) + beta.reshape(shape)
    np.testing.assert_allclose(run(layer, x), np.where(z > 0, z, 0.1 * z), rtol=1e-9)


def test_defaults_of_a_convolution() -> None:
    layer = built("[convolutional]\n", (2, 4, 4))
    assert layer.shape == Shape(1, 4, 4)
    assert isinstance(layer.module.act, nn.Sigmoid)  # Darknet's default is logistic


# --- activations.h ------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FORMULAE = {
    "linear": lambda x: x,
    "leaky": lambda x: x if x > 0 else 0.1 * x,
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "relie": lambda x: x if x > 0 else 0.01 * x,
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
    "hard_mish": lambda x: x if x > 0 else (x * x / 2 + x if x > -2 else 0.0),
    "swish": lambda x: x * sigmoid(x),
    "logistic": sigmoid,
    "loggy": lambda x: 2 / (1 + math.exp(-x)) - 1,
    "tanh": lambda x: 2 / (1 + math.exp(-2 * x)) - 1,
    "elu": lambda x: x if x >= 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507 * x if x >= 0 else 1.0507 * 1.6732 * (math.exp(x) - 1),
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3)),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "hardtan": lambda x: min(max(x, -1.0), 1.0),
}


def test_every_activation_has_its_formula_here() -> None:
    assert ACTIVATIONS.keys() == FORMULAE.keys()


@pytest.mark.parametrize("name", sorted(FORMULAE))
def test_activation(name: str) -> None:
    points = [-9.0, -2.5, -2.0, -1.3, -1.0, -0.4, 0.0, 0.3, 1.0, 1.7, 6.5, 15.0]
    text = f"[convolutional]\nfilters=1\nsize=1\nactivation={name}\n"
    layer = built(text, (1, 1, len(points)))
    layer.module.conv.weight.data.fill_(1)
    layer.module.conv.bias.data.zero_()
    y = run(layer, np.array(points).reshape(1, 1, 1, -1)).ravel()
    np.testing.assert_allclose(y, [FORMULAE[name](x) for x in points], rtol=1e-4, atol=1e-7)


# --- moving channels about ----------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_upsample(stride: int, scale: float | None) -> None:
    x = random(2, 3, 4, 5)
    text = f"[upsample]\nstride={stride}\n" + (f"scale={scale}\n" if scale else "")
    y = run(built(text, (3, 4, 5)), x)
    for i, j in product(range(4 * stride), range(5 * stride)):
        np.testing.assert_allclose(
            y[:, :, i, j], x[:, :, i // stride, j // stride] * (scale or 1), rtol=1e-12
        )


def route_loop(inputs: list[Array], groups: int, group: int) -> Array:
    """``forward_route_layer``: copies a part of each input's memory."""
    b, _, h, w = inputs[0].shape
    rows = []
    for image in range(b):
        parts = []
        for x in inputs:
            memory = x[image].ravel()
            part = len(memory) // groups
            parts.append(memory[part * group : part * (group + 1)])
        rows.append(np.concatenate(parts))
    return np.stack(rows).reshape(b, -1, h, w)


@pytest.mark.parametrize(
    ("layers", "groups", "group"),
    [((-1,), 1, 0), ((-1, 0), 1, 0), ((0, 1, -2), 1, 0), ((-1,), 2, 1), ((-2, -1), 2, 0)]
    + [((1, 0, -1), 2, 1), ((2,), 3, 2)],
)
def test_route(layers: tuple[int, ...], groups: int, group: int) -> None:
    shapes = [(4, 3, 5), (2, 3, 5), (6, 3, 5)]
    xs = [random(2, *shape) for shape in shapes]
    text = f"[route]\nlayers={', '.join(map(str, layers))}\ngroups={groups}\ngroup_id={group}\n"
    layer = built(text, *shapes)
    assert layer.sources == tuple(n % 3 for n in layers)
    y = run(layer, *(xs[n] for n in layer.sources))
    np.testing.assert_array_equal(y, route_loop([xs[n] for n in layers], groups, group))


def shortcut_loop(inputs: list[Array], weights: Array | None, norm: str, channel: bool) -> Array:
    """``shortcut_multilayer_cpu``, number by number."""
    first = inputs[0]
    b, c = first.shape[:2]
    y = np.empty_like(first)
    for image, k in product(range(b), range(c)):
        factors = np.ones(len(inputs))
        if weights is not None:
            column = weights[:, k] if channel else weights
            raw = np.maximum(column, 0) if norm == "relu" else np.exp(column - column.max())
            factors = raw / (raw.sum() + 0.0001)
        total = first[image, k] * factors[0]
        for factor, other in zip(factors[1:], inputs[1:], strict=True):
            if k < other.shape[1]:
                total = total + other[image, k] * factor
        y[image, k] = total
    return y


@pytest.mark.parametrize("others", [(4,), (2,), (7,), (4, 4), (7, 2, 4)])
@pytest.mark.parametrize(
    ("kind", "norm"),
    [("none", "none"), ("per_feature", "relu"), ("per_layer", "softmax")]
    + [("per_channel", "avg_relu"), ("per_channel", "softmax")],
)
def test_shortcut(others: tuple[int, ...], kind: str, norm: str) -> None:
    shapes = [*((count, 3, 2) for count in others), (4, 3, 2)]
    xs = [random(2, *shape) for shape in shapes]
    text = f"[shortcut]\nfrom={','.join(str(i) for i in range(len(others)))}\nactivation=leaky\n"
    layer = built(f"{text}weights_type={kind}\nweights_normalization={norm}\n", *shapes)
    assert layer.sources == (len(others), *range(len(others)))
    assert layer.shape == Shape(4, 3, 2)
    weights, channel = None, kind == "per_channel"
    if kind != "none":
        weights = random(len(others) + 1, *((4,) if channel else ()))
        (stored,) = layer.module.darknet_tensors()
        assert stored.shape == weights.shape
        stored.data.copy_(torch.from_numpy(weights))
    else:
        assert layer.module.darknet_tensors() == []
    inputs = [xs[-1], *xs[:-1]]
    z = shortcut_loop(inputs, weights, norm.removeprefix("avg_"), channel)
    np.testing.assert_allclose(run(layer, *inputs), np.where(z > 0, z, 0.1 * z), rtol=1e-9)


def reorg_cpu(x: Array, out_w: int, out_h: int, out_c: int, stride: int) -> Array:
    """``blas.c`` ``reorg_cpu`` with forward=0, index by index over the flat memory."""
    batch = x.shape[0]
    memory, out = x.ravel(), np.full(x.size, np.nan)
    in_c = out_c // (stride * stride)
    for b, k, j, i in product(range(batch), range(out_c), range(out_h), range(out_w)):
        at = i + out_w * (j + out_h * (k + out_c * b))
        c2, offset = k % in_c, k // in_c
        w2, h2 = i * stride + offset % stride, j * stride + offset // stride
        out[at] = memory[w2 + out_w * stride * (h2 + out_h * stride * (c2 + in_c * b))]
    return out


@pytest.mark.parametrize(("stride", "shape"), [(2, (8, 4, 6)), (2, (4, 2, 2)), (3, (9, 6, 3))])
def test_reorg_of_yolov2(stride: int, shape: tuple[int, int, int]) -> None:
    """``[reorg]`` is called with the sizes of its *input* as those of its output."""
    c, h, w = shape
    x = random(2, *shape)
    y = run(built(f"[reorg]\nstride={stride}\n", shape), x)
    expected = reorg_cpu(x, w, h, c, stride)
    np.testing.assert_array_equal(y.ravel(), expected)
    assert y.shape == (2, c * stride**2, h // stride, w // stride)


@pytest.mark.parametrize(("stride", "shape"), [(2, (3, 4, 6)), (2, (4, 2, 2)), (3, (2, 6, 3))])
def test_reorg3d(stride: int, shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    x = random(2, *shape)
    y = run(built(f"[reorg3d]\nstride={stride}\n", shape), x)
    expected = reorg_cpu(x, w // stride, h // stride, c * stride**2, stride)
    np.testing.assert_array_equal(y.ravel(), expected)


def test_sam() -> None:
    x, mask = random(2, 3, 4, 5), random(2, 3, 4, 5)
    layer = built("[sam]\nfrom=-2\nactivation=logistic\n", (3, 4, 5), (3, 4, 5))
    assert layer.sources == (0, 1)
    y = run(layer, x, mask)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-x * mask)), rtol=1e-9)


def test_scale_channels() -> None:
    x, scales = random(2, 3, 4, 5), random(2, 3, 1, 1)
    layer = built("[scale_channels]\nfrom=0\n", (3, 4, 5), (3, 1, 1))
    assert layer.sources == (0, 1)
    y = run(layer, x, scales)
    for b, k in product(range(2), range(3)):
        np.testing.assert_allclose(y[b, k], x[b, k] * scales[b, k, 0, 0], rtol=1e-12)


def test_scale_channels_over_the_plane() -> None:
    x, scales = random(2, 3, 4, 5), random(2, 1, 4, 5)
    layer = built("[scale_channels]\nfrom=-2\nscale_wh=1\n", (3, 4, 5), (1, 4, 5))
    y = run(layer, x, scales)
    for b, k in product(range(2), range(3)):
        np.testing.assert_allclose(y[b, k], x[b, k] * scales[b, 0], rtol=1e-12)


def test_dropout_is_nothing_but_for_training() -> None:
    x = np.ones((2, 8, 40, 40))
    layer = built("[dropout]\nprobability=0.25\n", (8, 40, 40))
    np.testing.assert_array_equal(run(layer, x), x)
    layer.module.train()
    values, counts = np.unique(run(layer, x), return_counts=True)
    np.testing.assert_allclose(values, [0, 1 / 0.75])  # the rest is scaled up
    assert counts[0] / counts.sum() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("size", ["_abs=7", "_abs=6", "_abs=1", "_rel=0.1", "_rel=0.5", "_abs=999"])
def test_dropblock(size: str) -> None:
    text = f"[dropout]\ndropblock=1\nprobability=0.1\ndropblock_size{size}\n"
    layer = built(text, (3, 14, 12))
    x = random(2, 3, 14, 12)
    np.testing.assert_array_equal(run(layer, x), x)
    layer.module.train()
    assert run(layer, x).shape == x.shape


def test_empty() -> None:
    x = random(1, 2, 3, 4)
    for kind in ("empty", "silence"):
        np.testing.assert_array_equal(run(built(f"[{kind}]\n", (2, 3, 4)), x), x)


def test_half_precision_pooling_stays_finite() -> None:
    for kind, size in product(("maxpool", "local_avgpool"), (2, 3)):
        layer = built(f"[{kind}]\nsize={size}\nstride=1\n", (2, 5, 5))
        y = layer.module.half()(torch.randn(1, 2, 5, 5).half())
        assert bool(torch.isfinite(y).all())


# --- what is refused ----------------------------------------------------------------------------

CONV = "[convolutional]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lstm]\n", "n.cfg:5 [lstm] #2: [lstm] is not supported, got it at #2, expected "),
        ("[implicit]\n", "n.cfg:5 [implicit] #2: [implicit] is not supported"),
        ("[net]\n", "n.cfg:5 [net] #2: [net] is not supported"),
        ("[]\n", "n.cfg:5 [] #2: [] is not supported"),
        (CONV + "filters=abc\n", "n.cfg:6 [convolutional] #2: filters must be an integer, got"),
        (CONV + "filters=0\n", "n.cfg:6 [convolutional] #2: filters must be in 1..65536, got 0."),
        (CONV + "filters=-4\n", "filters must be in 1..65536, got -4."),
        (CONV + "filters=99999999\n", "filters must be in 1..65536, got 99999999."),
        (
            CONV + "filters=65536\nsize=255\n",
            "n.cfg:6 [convolutional] #2: filters=65536 asks for 34091827200 weights",
        ),
        (CONV + "size=256\n", "n.cfg:6 [convolutional] #2: size must be in 1..255, got 256."),
        (CONV + "size=9\n", "n.cfg:6 [convolutional] #2: size=9 leaves nothing of an input of"),
        (CONV + "padding=99999\n", "padding must be in 0..255, got 99999."),
        (CONV + "stride=0\n", "stride must be at least 1, got 0."),
        (CONV + "filters=9\ngroups=2\n", "n.cfg:7 [convolutional] #2: groups=2 does not divide"),
        (CONV + "filters=9\ngroups=3\n", "groups=3 does not divide its 8 input channels."),
        (CONV + "size=3\ndilation=2\n", "n.cfg:7 [convolutional] #2: dilation=2 needs an odd size"),
        (CONV + "size=2\npad=1\ndilation=2\n", "dilation=2 needs an odd size padded by its half"),
        (CONV + "activation=blah\n", "n.cfg:6 [convolutional] #2: activation=blah is not"),
        (CONV + "xnor=1\n", "n.cfg:6 [convolutional] #2: xnor=1 is not supported."),
        (CONV + "binary=1\n", "binary=1 is not supported."),
        (CONV + "antialiasing=1\n", "antialiasing=1 is not supported."),
        (CONV + "share_index=-2\n", "share_index is not supported."),
        (CONV + "dontload=1\n", "dontload=1 is not supported."),
        ("[maxpool]\nmaxpool_depth=1\n", "maxpool_depth=1 is not supported."),
        ("[maxpool]\nsize=2\npadding=3\n", "padding must be in 0..2, got 3."),
        ("[maxpool]\nsize=9\nstride=9\npadding=0\n", "size=9 leaves nothing of an input of 8x4x4."),
        ("[dropout]\nprobability=1\n", "probability must be in [0, 1), got 1.0."),
        ("[upsample]\nstride=-2\n", "stride must be in 1..64, got -2."),
        ("[route]\nlayers=2\n", "n.cfg:6 [route] #2: layers must name layers before #2, got 2."),
        ("[route]\nlayers=-1,7\n", "layers must name layers before #2, got 7."),
        ("[route]\nlayers=-3\n", "layers must name layers before #2, got -3 (#-1)."),
        ("[route]\nlayers=-1,0\n", "n.cfg:6 [route] #2: joins #1 of 8x4x4 with #0 of 6x2x2."),
        ("[route]\nlayers=-1\ngroups=3\n", "n.cfg:7 [route] #2: groups=3 does not divide the 8 of"),
        ("[route]\nlayers=-1\ngroups=2\ngroup_id=2\n", "group_id must be in 0..1, got 2."),
        ("[route]\n", "n.cfg:5 [route] #2: layers= is missing."),
        ("[shortcut]\nfrom=0\n", "n.cfg:6 [shortcut] #2: adds #0 of 6x2x2 to 8x4x4: sizes must be"),
        ("[shortcut]\nfrom=5\n", "n.cfg:6 [shortcut] #2: from must name layers before #2, got 5."),
        ("[shortcut]\nfrom=1\nweights_type=x\n", "weights_type=x, expected none, per_feature"),
        ("[shortcut]\nfrom=1\nweights_normalization=x\n", "weights_normalization=x, expected none"),
        (
            "[shortcut]\nfrom=1\nweights_type=per_feature\n",
            "weights_type=per_feature needs relu or softmax, got none.",
        ),
        ("[shortcut]\nfrom=1\nactivation=hard_mish\n", "activation=hard_mish is not supported"),
        ("[reorg]\nstride=3\n", "n.cfg:6 [reorg] #2: stride=3 does not divide its input of 8x4x4."),
        ("[reorg]\nstride=4\n", "stride=4² does not divide 8 channels."),
        ("[reorg3d]\nreverse=1\n", "reverse=1 is not supported."),
        ("[sam]\nfrom=0\n", "n.cfg:6 [sam] #2: multiplies #0 of 6x2x2 with 8x4x4."),
        ("[sam]\nfrom=0,1\n", "from must name one layer."),
        ("[sam]\nfrom=1\nactivation=mish\n", "activation=mish is not supported"),
        ("[scale_channels]\nfrom=0\n", "multiplies #0 of 6x2x2 with 8x4x4."),
        ("[yolo]\nanchors=1,2\n", "n.cfg:5 [yolo] #2: needs 25 channels of the layer before it"),
    ],
)  # fmt: skip
def test_refusals_name_section_and_line(text: str, message: str) -> None:
    with pytest.raises(CfgError) as caught:
        built(text, (6, 2, 2), (8, 4, 4))
    assert message in str(caught.value)
    assert str(caught.value).startswith("n.cfg:")
    assert "\n" not in str(caught.value)


def test_shapes_without_bound_are_refused() -> None:
    with pytest.raises(CfgError, match="gives 1x65536x65536, expected at most"):
        built("[upsample]\nstride=64\n", (1, 1024, 1024))
    with pytest.raises(CfgError, match="gives 100000x1x1, expected at most"):
        built("[route]\nlayers=0,1\n", (50_000, 1, 1), (50_000, 1, 1))


def test_every_section_of_the_house_is_tested_here() -> None:
    heads = {"yolo", "Gaussian_yolo", "region"}  # test_heads.py
    tested = {"convolutional", "maxpool", "local_avgpool", "avgpool", "dropout", "upsample"}
    tested |= {"route", "shortcut", "reorg", "reorg3d", "sam", "scale_channels", "empty", "silence"}
    assert BUILDERS.keys() == tested | heads
