"""A Darknet network as an Ultralytics model, so that one engine serves both families."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import DropBlock2d
from ultralytics.nn.tasks import DetectionModel

from yoloprune.darknet.building import MAX_CHANNELS, MAX_SIDE, MAX_WEIGHTS, Context, Shape
from yoloprune.darknet.cfg import Cfg, Section
from yoloprune.darknet.heads import DetectionHead
from yoloprune.darknet.layers import build_layer
from yoloprune.darknet.modules import DarknetConv
from yoloprune.darknet.weights import Field, Header, read_weights, write_weights
from yoloprune.errors import CfgError, WeightsError
from yoloprune.limits import check_memory

_COLOURS = 3
_COPIES = 4
"""Of its weights that a network may need at once."""


class DarknetModel(DetectionModel):
    """A network built from a cfg.

    ``model`` holds one module a section, numbered as Darknet numbers them, with Ultralytics'
    ``i`` (number), ``f`` (numbers it reads, -1 for the one before), ``type`` and ``np``.

    In training mode it returns the raw head inputs, ``[B, anchors · (5 + classes), H, W]``
    each; in evaluation ``(boxes, raw)`` with boxes ``[B, 4 + classes, N]``: centre, width and
    height in pixels of the input, then objectness times class probability.

    Args:
        cfg: the parsed cfg.

    Raises:
        CfgError: a section, a value or a combination of shapes is not supported.
    """

    task = "detect"
    export = False

    def __init__(self, cfg: Cfg) -> None:
        nn.Module.__init__(self)
        self.cfg = cfg
        self.header = Header()
        self.letterbox = cfg.net.get_flag("letter_box")
        net, built = _build(cfg)
        self.net_size = net.size
        layers: list[nn.Module] = []
        self.save: list[int] = []
        for section, (module, sources) in zip(cfg.layers, built, strict=True):
            _number(module, section, sources)
            layers.append(module)
            self.save += [i for i in sources if i != section.index - 1]
        self.model = nn.Sequential(*layers)
        self.heads = [i for i, module in enumerate(layers) if isinstance(module, DetectionHead)]
        if not self.heads:
            raise CfgError(f"{cfg.source}: has no [yolo], [Gaussian_yolo] or [region] layer.")
        heads = [module for module in layers if isinstance(module, DetectionHead)]
        counts = {head.classes for head in heads}
        if len(counts) > 1:
            raise CfgError(f"{cfg.source}: its heads differ in classes, got {sorted(counts)}.")
        self.nc = counts.pop()
        self.names = class_names(self.nc)
        self.stride = torch.tensor([float(head.stride) for head in heads])
        self.yaml = {"yaml_file": cfg.source, "nc": self.nc, "channels": net.channels}
        self.inplace = False
        _init_objectness(self)

    def _predict_once(
        self, x: Tensor, profile: bool = False, embed: list[int] | None = None
    ) -> Any:
        if profile or embed:
            raise NotImplementedError("profile and embed are not offered for Darknet models")
        outputs: dict[int, Tensor] = {}
        raw: list[Tensor] = []
        decoded: list[Tensor] = []
        layer: Any
        for layer in self.model:
            sources = layer.f
            taken: Any = (
                x if sources == -1 else [x if i == layer.i - 1 else outputs[i] for i in sources]
            )
            is_head = isinstance(layer, DetectionHead)
            if is_head:
                raw.append(taken)
            result = layer(taken)
            if is_head:
                decoded.append(result)  # a head passes its input on, as in Darknet's numbering
                continue
            x = result
            if layer.i in self.save:
                outputs[layer.i] = x
        if self.training:
            return raw
        boxes = torch.cat(decoded, 2)
        return boxes if self.export else (boxes, raw)

    def init_criterion(self) -> Any:
        """The loss that the cfg's heads describe."""
        from yoloprune.darknet.loss import DarknetLoss

        return DarknetLoss(self, seen=self.header.seen)

    def loss(self, batch: Mapping[str, Tensor], preds: Any = None) -> Any:
        """Darknet's training loss.

        Args:
            batch: Ultralytics' batch: ``img``, ``batch_idx``, ``cls``, ``bboxes``.
            preds: what the forward pass returned, in either mode; computed when None.
        """
        if getattr(self, "criterion", None) is None:
            self.criterion = self.init_criterion()
        if preds is None:
            preds = self(batch["img"])
        raw = preds[1] if isinstance(preds, tuple) else preds
        return self.criterion(raw, batch)

    def set_head_attr(self, **kwargs: Any) -> None:
        """Set what the heads have of these attributes (Ultralytics offers some that ours lack)."""
        for index in self.heads:
            for key, value in kwargs.items():
                if hasattr(self.model[index], key):
                    setattr(self.model[index], key, value)


def _build(cfg: Cfg) -> tuple[Shape, list[tuple[nn.Module, tuple[int, ...]]]]:
    """Build every section's module, once it is known that memory will do.

    The first walk makes modules without memory (on torch's meta device). What a network needs is
    taken for its weights four times (the cut network, and both in double precision for the
    self-test), and for one picture the outputs that are alive at once twice (the trace has ids
    beside values).

    Raises:
        CfgError: a section does not fit, or the network needs more than the limit.
    """
    with torch.device("meta"):
        _, shapes, planned = _walk(cfg)
    weights = sum(p.numel() for module, _ in planned for p in module.parameters())
    outputs = _alive(shapes, [sources for _, sources in planned])
    check_memory(4 * (_COPIES * weights + 2 * outputs), cfg.source, CfgError)
    net, _, built = _walk(cfg)
    return net, built


def shapes_of(cfg: Cfg) -> tuple[Shape, ...]:
    """What every section gives for one image, without making any of it."""
    with torch.device("meta"):
        return _walk(cfg)[1]


def _alive(shapes: Sequence[Shape], sources: Sequence[tuple[int, ...]]) -> int:
    """Numbers that a pass for one picture holds: what is named later on, and what is at work."""
    sizes: list[int] = [shape.channels * shape.height * shape.width for shape in shapes]
    named: set[int] = {index for layer in sources for index in layer}
    kept = sum(sizes[index] for index in named)
    # Convolution, BatchNorm and activation of one layer each make a tensor of its size.
    at_work = max((a + 3 * b for a, b in zip([0, *sizes], sizes, strict=False)), default=0)
    return kept + at_work


def _walk(cfg: Cfg) -> tuple[Shape, tuple[Shape, ...], list[tuple[nn.Module, tuple[int, ...]]]]:
    """Make every section's module, following the shapes."""
    channels = cfg.net.get_int("channels", low=1, high=MAX_CHANNELS)
    if channels != _COLOURS:
        raise cfg.net.error(
            "channels", f"channels must be {_COLOURS}, got {channels}: pictures are read in colour."
        )
    net = Shape(
        channels,
        cfg.net.get_int("height", low=8, high=MAX_SIDE),
        cfg.net.get_int("width", low=8, high=MAX_SIDE),
    )
    weights = 0
    shapes: list[Shape] = []
    built: list[tuple[nn.Module, tuple[int, ...]]] = []
    for section in cfg.layers:
        layer = build_layer(section, Context(net, shapes))
        _check_sources(section, layer.sources, built)
        weights += sum(p.numel() for p in layer.module.parameters())
        if weights > MAX_WEIGHTS:
            raise section.error(None, f"brings the network to more than {MAX_WEIGHTS} weights.")
        shapes.append(layer.shape)
        built.append((layer.module, layer.sources))
    return net, tuple(shapes), built


def _check_sources(
    section: Section, sources: tuple[int, ...], built: list[tuple[nn.Module, tuple[int, ...]]]
) -> None:
    """A detection layer's output is for people; no layer may compute with it."""
    for index in sources or ((section.index - 1,) if built else ()):
        if isinstance(built[index][0], DetectionHead):
            raise section.error(None, f"reads #{index}, a detection layer: not supported.")


def _number(module: nn.Module, section: Section, sources: tuple[int, ...]) -> None:
    layer: Any = module
    layer.i = section.index
    layer.f = list(sources) if sources else -1
    layer.type = section.kind
    layer.np = sum(p.numel() for p in module.parameters())


def _init_objectness(model: DarknetModel, probability: float = 0.01) -> None:
    """Start a fresh network from few objects, where Darknet starts from a half everywhere."""
    bias = float(torch.logit(torch.tensor(probability)))
    for index in model.heads:
        head, before = model.model[index], model.model[index - 1]
        assert isinstance(head, DetectionHead)
        if isinstance(before, DarknetConv) and before.conv.bias is not None:
            per_anchor = before.conv.bias.data.view(head.num_anchors, head.entries)
            per_anchor[:, head.box_entries] = bias


def class_names(count: int) -> dict[int, str]:
    """COCO's names for 80 classes, VOC's for 20, numbers otherwise."""
    file = {80: "coco.yaml", 20: "VOC.yaml"}.get(count)
    if file is None:
        return {i: str(i) for i in range(count)}
    import ultralytics
    from ultralytics.utils import YAML

    data = YAML.load(Path(ultralytics.__file__).parent / "cfg" / "datasets" / file)
    return {int(i): str(name) for i, name in data["names"].items()}


def _stored(model: DarknetModel) -> Iterator[tuple[Any, list[Tensor]]]:
    layer: Any
    for layer in model.model:
        if hasattr(layer, "darknet_tensors"):
            yield layer, layer.darknet_tensors()


def weight_fields(model: DarknetModel) -> list[Field]:
    """What the model's ``.weights`` file holds, in order."""
    return [
        Field(f"#{layer.i} [{layer.type}]", tensor.numel())
        for layer, tensors in _stored(model)
        for tensor in tensors
    ]


@torch.no_grad()
def load_weights(model: DarknetModel, path: Path) -> None:
    """Fill a model from a ``.weights`` file.

    Raises:
        WeightsError: the file's size is not the one that the cfg asks for; nothing is loaded.
    """
    model.header, arrays = read_weights(path, weight_fields(model))
    tensors = (tensor for _, tensors in _stored(model) for tensor in tensors)
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor.copy_(torch.from_numpy(array.copy()).view_as(tensor))


def check_unfused(model: DarknetModel) -> None:
    """Make sure that the model still has the BatchNorms that its cfg speaks of.

    Raises:
        WeightsError: it was fused, so that no ``.weights`` file of its cfg can hold it.
    """
    for section, layer in zip(model.cfg.layers, model.model, strict=True):
        normalized = isinstance(layer, DarknetConv) and section.get_flag("batch_normalize")
        if normalized and not hasattr(layer, "bn"):
            raise WeightsError(f"#{layer.i} [{layer.type}]: is fused. Save before fuse().")


def save_weights(model: DarknetModel, path: Path) -> None:
    """Write the model's ``.weights`` file.

    Raises:
        WeightsError: the model was fused, so that it is no longer what its cfg describes.
    """
    check_unfused(model)
    tensors = [tensor for _, tensors in _stored(model) for tensor in tensors]
    arrays = [tensor.detach().cpu().float().numpy() for tensor in tensors]
    write_weights(path, model.header, arrays)


def current_cfg(model: DarknetModel) -> Cfg:
    """The cfg that describes the model as it is now, after channels, classes or size changed."""
    layers = []
    for section, module in zip(model.cfg.layers, model.model, strict=True):
        changes: dict[str, object] = {}
        if isinstance(module, DarknetConv):
            conv = module.conv
            if section.get_int("filters", 1) != conv.out_channels:
                changes["filters"] = conv.out_channels
            if section.get_int("groups", 1) != conv.groups:
                changes["groups"] = conv.groups
        layers.append(section.with_options(changes) if changes else section)
    net, size = model.cfg.net, dict(zip(("height", "width"), model.net_size, strict=True))
    if any(net.get_int(key) != value for key, value in size.items()):
        net = net.with_options(size)
    return replace(model.cfg, net=net).with_layers(tuple(layers))


def resize(model: DarknetModel, size: tuple[int, int]) -> None:
    """Let a model be one for inputs of another size, as its cfg then says.

    Args:
        model: changed in place; its weights are not.
        size: height and width in pixels, multiples of the largest stride.

    Raises:
        CfgError: a side is no multiple of the largest stride.
    """
    stride = int(model.stride.max())
    if min(size) < stride or any(side % stride for side in size):
        raise CfgError(f"{model.cfg.source}: needs sides that {stride} divides, got {size}.")
    model.net_size = size


def with_classes(cfg: Cfg, classes: int) -> Cfg:
    """A cfg whose heads, and the convs before them, are for another number of classes.

    Raises:
        CfgError: a head does not follow a ``[convolutional]``.
    """
    layers = list(cfg.layers)
    for section in cfg.layers:
        if section.kind not in ("yolo", "Gaussian_yolo", "region"):
            continue
        before = layers[section.index - 1] if section.index else cfg.net
        if before.kind != "convolutional":
            raise section.error(None, f"follows [{before.kind}], expected [convolutional].")
        anchors = section.get_int("num", 1)
        if section.kind != "region" and "mask" in section:
            anchors = len(section.get_ints("mask"))
        values = 9 if section.kind == "Gaussian_yolo" else 5
        layers[section.index - 1] = before.with_options({"filters": anchors * (values + classes)})
        # counts of the old classes would weigh the new ones
        layers[section.index] = section.with_options({"classes": classes}).without(
            "counters_per_class"
        )
    return cfg.with_layers(tuple(layers))


def register_safe_classes() -> None:
    """Let torch's restricted unpickler construct the classes of this package, which are plain."""
    from yoloprune.darknet import activations, cfg, heads, loss, modules, weights

    own = [
        value
        for module in (activations, cfg, heads, loss, modules, weights)
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    torch.serialization.add_safe_globals([DarknetModel, DropBlock2d, *own])
