"""The layers of Darknet's detection networks: one builder for each ``[section]``.

A builder reads its section, checks it against the shapes of the layers before it and returns
the module. What Darknet would warn of, or read past, is refused here by name and line.

Reference: AlexeyAB/darknet ``src/parser.c`` and the layer's own source file.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import DropBlock2d

from yoloprune.darknet.activations import ACTIVATIONS
from yoloprune.darknet.building import (
    BUILDERS,
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_LAYER_WEIGHTS,
    MAX_SIDE,
    Built,
    Context,
    Shape,
    builder,
)
from yoloprune.darknet.cfg import Section
from yoloprune.darknet.heads import (
    DetectionHead,
    GaussianYoloHead,
    GaussianYoloOptions,
    RegionHead,
    RegionOptions,
    YoloHead,
    YoloOptions,
)
from yoloprune.darknet.modules import (
    DarknetConv,
    DarknetPool,
    Multiply,
    Reorg,
    Reorg3d,
    Route,
    Shortcut,
    Upsample,
)


def build_layer(section: Section, context: Context) -> Built:
    """Build the module of one section.

    Raises:
        CfgError: the section or one of its values is not supported, or shapes do not fit.
    """
    if section.kind not in BUILDERS:
        known = ", ".join(sorted(BUILDERS))
        raise section.error(
            None,
            f"[{section.kind}] is not supported, got it at #{section.index}, expected {known}.",
        )
    for key in ("dontload", "dontloadscales"):
        _refuse(section, key)
    layer = BUILDERS[section.kind](section, context)
    if layer.shape.channels > MAX_CHANNELS or max(layer.shape.size) > MAX_SIDE:
        raise section.error(
            None, f"gives {layer.shape}, expected at most {MAX_CHANNELS}x{MAX_SIDE}x{MAX_SIDE}."
        )
    return layer


def _refuse(section: Section, *keys: str) -> None:
    for key in keys:
        if section.get_float(key, 0.0):
            raise section.error(key, f"{key}={section.get_str(key)} is not supported.")


def _activation(section: Section, default: str, lacking: tuple[str, ...] = ()) -> nn.Module:
    """The activation that a section names; for those in ``lacking`` Darknet's layer gives 0."""
    name = section.get_str("activation", default)
    if name not in ACTIVATIONS or name in lacking:
        known = ", ".join(sorted(ACTIVATIONS.keys() - set(lacking)))
        raise section.error(
            "activation", f"activation={name} is not supported, expected one of {known}."
        )
    return ACTIVATIONS[name]()


@builder("convolutional")
def _convolutional(section: Section, context: Context) -> Built:
    _refuse(
        section,
        *("xnor", "binary", "cbn", "antialiasing", "assisted_excitation", "flipped", "dot"),
        *("sway", "rotate", "stretch", "stretch_sway", "reverse", "coordconv"),
    )
    if "share_index" in section:
        raise section.error("share_index", "share_index is not supported.")
    before = context.before
    filters = section.get_int("filters", 1, low=1, high=MAX_CHANNELS)
    size = section.get_int("size", 1, low=1, high=MAX_KERNEL)
    stride = section.get_int("stride", 1, low=1)
    strides = (
        section.get_int("stride_y", stride, low=1),
        section.get_int("stride_x", stride, low=1),
    )
    dilation = section.get_int("dilation", 1, low=1, high=MAX_KERNEL) if size > 1 else 1
    padding = section.get_int("padding", 0, low=0, high=MAX_KERNEL)
    padding = size // 2 if section.get_flag("pad") else padding
    if dilation > 1 and 2 * padding != size - 1:  # Darknet's two sums of the output size differ
        raise section.error(
            "dilation",
            f"dilation={dilation} needs an odd size padded by its half, got size={size}, "
            f"padding={padding}.",
        )
    groups = section.get_int("groups", 1, low=1)
    for what, count in (("input channels", before.channels), ("filters", filters)):
        if count % groups:
            raise section.error("groups", f"groups={groups} does not divide its {count} {what}.")
    count = filters * (before.channels // groups) * size * size
    if count > MAX_LAYER_WEIGHTS:
        raise section.error(
            "filters",
            f"filters={filters} asks for {count} weights, expected at most {MAX_LAYER_WEIGHTS}.",
        )
    normalize = section.get_flag("batch_normalize")
    conv = nn.Conv2d(
        before.channels,
        filters,
        size,
        strides,
        padding * dilation,
        dilation=dilation,
        groups=groups,
        bias=not normalize,
    )
    bn = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.03) if normalize else None
    height, width = (
        (length + 2 * padding - size) // step + 1
        for length, step in zip(before.size, strides, strict=True)
    )
    if min(height, width) < 1:
        raise section.error("size", f"size={size} leaves nothing of an input of {before}.")
    module = DarknetConv(conv, bn, _activation(section, "logistic"))
    return Built(module, Shape(filters, height, width))


def _pool(section: Section, context: Context, average: bool) -> Built:
    _refuse(section, "maxpool_depth", "antialiasing", "maxpool_zero_nonmax")
    before = context.before
    stride = section.get_int("stride", 1, low=1)
    strides = (
        section.get_int("stride_y", stride, low=1),
        section.get_int("stride_x", stride, low=1),
    )
    size = section.get_int("size", stride, low=1, high=MAX_KERNEL)
    padding = section.get_int("padding", size - 1, low=0, high=2 * (size - 1))
    height, width = (
        (length + padding - size) // step + 1
        for length, step in zip(before.size, strides, strict=True)
    )
    if min(height, width) < 1:
        raise section.error("size", f"size={size} leaves nothing of an input of {before}.")
    module = DarknetPool(size, strides, padding, average)
    return Built(module, Shape(before.channels, height, width))


@builder("maxpool")
def _maxpool(section: Section, context: Context) -> Built:
    return _pool(section, context, average=False)


@builder("local_avgpool")
def _local_avgpool(section: Section, context: Context) -> Built:
    return _pool(section, context, average=True)


@builder("avgpool")
def _avgpool(_section: Section, context: Context) -> Built:
    return Built(nn.AdaptiveAvgPool2d(1), Shape(context.before.channels, 1, 1))


@builder("dropout")
def _dropout(section: Section, context: Context) -> Built:
    probability = section.get_float("probability", 0.2)
    if not 0 <= probability < 1:
        raise section.error("probability", f"probability must be in [0, 1), got {probability}.")
    if not section.get_flag("dropblock"):
        return Built(nn.Dropout(probability), context.before)
    size = section.get_int("dropblock_size_abs", 0, low=0)
    share = section.get_float("dropblock_size_rel", 0.0)
    if not size:  # Darknet, too, prefers the absolute size where both are given
        size = int(share * context.before.width) if share else 7
    size = max(1, min(size, *context.before.size))
    return Built(DropBlock2d(probability, size - 1 + size % 2), context.before)  # it wants it odd


@builder("upsample")
def _upsample(section: Section, context: Context) -> Built:
    stride = section.get_int("stride", 2, low=1, high=64)
    before = context.before
    shape = Shape(before.channels, before.height * stride, before.width * stride)
    return Built(Upsample(stride, section.get_float("scale", 1.0)), shape)


@builder("route")
def _route(section: Section, context: Context) -> Built:
    sources = tuple(context.refer(section, "layers", n) for n in section.get_ints("layers"))
    groups = section.get_int("groups", 1, low=1)
    group = section.get_int("group_id", 0, low=0, high=groups - 1)
    shapes = [context.shapes[index] for index in sources]
    for index, shape in zip(sources, shapes, strict=True):
        if shape.size != shapes[0].size:
            raise section.error(
                "layers", f"joins #{sources[0]} of {shapes[0]} with #{index} of {shape}."
            )
        if shape.channels % groups:
            raise section.error(
                "groups", f"groups={groups} does not divide the {shape.channels} of #{index}."
            )
    channels = sum(shape.channels for shape in shapes) // groups
    return Built(Route(groups, group), Shape(channels, *shapes[0].size), sources)


@builder("shortcut")
def _shortcut(section: Section, context: Context) -> Built:
    before = context.before
    others = tuple(context.refer(section, "from", n) for n in section.get_ints("from"))
    for index in others:
        if context.shapes[index].size != before.size:
            raise section.error(
                "from",
                f"adds #{index} of {context.shapes[index]} to {before}: sizes must be equal.",
            )
    kinds = {"none": None, "per_feature": (), "per_layer": (), "per_channel": (before.channels,)}
    kind = section.get_str("weights_type", "none")
    if kind not in kinds:
        raise section.error("weights_type", f"weights_type={kind}, expected {', '.join(kinds)}.")
    norms = {"none": "none", "relu": "relu", "avg_relu": "relu", "softmax": "softmax"}
    norm = section.get_str("weights_normalization", "none")
    if norm not in norms:
        raise section.error(
            "weights_normalization", f"weights_normalization={norm}, expected {', '.join(norms)}."
        )
    if norm == "none" and kind != "none":
        raise section.error(
            "weights_normalization", f"weights_type={kind} needs relu or softmax, got none."
        )
    tail = kinds[kind]
    weights = None if tail is None else torch.ones(len(others) + 1, *tail)
    activation = _activation(section, "linear", lacking=("hard_mish",))
    module = Shortcut(activation, weights, norms[norm])
    return Built(module, before, (section.index - 1, *others))


def _reorg_shape(section: Section, context: Context) -> tuple[int, Shape]:
    _refuse(section, "reverse")
    stride = section.get_int("stride", 1, low=1)
    before = context.before
    if before.height % stride or before.width % stride:
        raise section.error("stride", f"stride={stride} does not divide its input of {before}.")
    channels = before.channels * stride * stride
    return stride, Shape(channels, before.height // stride, before.width // stride)


@builder("reorg")
def _reorg(section: Section, context: Context) -> Built:
    stride, shape = _reorg_shape(section, context)
    if context.before.channels % (stride * stride):
        raise section.error(
            "stride", f"stride={stride}² does not divide {context.before.channels} channels."
        )
    return Built(Reorg(stride), shape)


@builder("reorg3d")
def _reorg3d(section: Section, context: Context) -> Built:
    stride, shape = _reorg_shape(section, context)
    return Built(Reorg3d(stride), shape)


def _product(section: Section, context: Context, scales: Shape | None) -> Built:
    (number, *more) = section.get_ints("from")
    if more:
        raise section.error("from", "from must name one layer.")
    index = context.refer(section, "from", number)
    shape, before = context.shapes[index], context.before
    expected = scales or shape
    if before != expected:
        raise section.error("from", f"multiplies #{index} of {shape} with {before}.")
    module = Multiply(_activation(section, "linear", lacking=("swish", "mish", "hard_mish")))
    return Built(module, shape, (index, section.index - 1))


@builder("sam")
def _sam(section: Section, context: Context) -> Built:
    return _product(section, context, None)


@builder("scale_channels")
def _scale_channels(section: Section, context: Context) -> Built:
    number = section.get_ints("from")[0]
    shape = context.shapes[context.refer(section, "from", number)]
    over_space = section.get_flag("scale_wh")
    scales = Shape(1, *shape.size) if over_space else Shape(shape.channels, 1, 1)
    return _product(section, context, scales)


@builder("empty")
def _empty(_section: Section, context: Context) -> Built:
    return Built(nn.Identity(), context.before)


BUILDERS["silence"] = _empty


def _detection(head: DetectionHead, section: Section, context: Context) -> Built:
    """Check what enters a detection layer against what its options ask for."""
    before = context.before
    if before.channels != head.channels:
        raise section.error(
            None, f"needs {head.channels} channels of the layer before it, got {before.channels}."
        )
    size = (before.height * head.stride, before.width * head.stride)
    if size != context.net.size:
        raise section.error(None, f"a grid of {before} does not divide the input {context.net}.")
    return Built(head, before)


def _stride(context: Context) -> int:
    return max(1, context.net.width // context.before.width)


@builder("yolo")
def _yolo(section: Section, context: Context) -> Built:
    head = YoloHead(YoloOptions.from_section(section), stride=_stride(context))
    return _detection(head, section, context)


@builder("Gaussian_yolo")
def _gaussian_yolo(section: Section, context: Context) -> Built:
    head = GaussianYoloHead(GaussianYoloOptions.from_section(section), stride=_stride(context))
    return _detection(head, section, context)


@builder("region")
def _region(section: Section, context: Context) -> Built:
    head = RegionHead(RegionOptions.from_section(section), stride=_stride(context))
    return _detection(head, section, context)
