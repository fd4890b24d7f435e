"""Darknet's detection layers: ``[yolo]``, ``[Gaussian_yolo]`` and ``[region]``.

Each layer is an options record, read from its section, and a module without parameters that
turns the raw ``[B, na * E, H, W]`` of the convolution before it into boxes and scores. ``na`` is
the number of anchors of the layer and ``E`` the number of entries of one anchor: box (4, or 8
with the uncertainties of ``[Gaussian_yolo]``), objectness, classes.

Reference: AlexeyAB/darknet ``src/yolo_layer.c``, ``src/gaussian_yolo_layer.c``,
``src/region_layer.c``; ``src/parser.c`` ``parse_yolo``, ``parse_gaussian_yolo``, ``parse_region``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.darknet.cfg import Section

MAX_ANCHORS = 1024
"""More in one cfg than this is taken for a mistake."""
IOU_KINDS = ("iou", "giou", "diou", "ciou")
YOLO_POINTS = ("center", "left_top", "right_bottom")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorOptions:
    """What ``[yolo]`` and ``[Gaussian_yolo]`` share.

    Keys that only steer Darknet's own data loader, log and tracker (``jitter``, ``random``,
    ``resize``, ``max``, ``show_details``, ``embedding_layer``, ...) stay in the cfg, unread.

    Attributes:
        anchors: all anchors, those of other layers too, width and height in pixels of the
            network's input.
        mask: which of them this layer predicts.
        classes: number of classes.
        ignore_thresh: a prediction whose best IoU is above it is not taught to be background.
        truth_thresh: a prediction whose best IoU is above it is taught that truth.
        iou_thresh: anchors whose IoU with a truth's shape is above it learn it, too; 1: only
            the best one.
        iou_thresh_kind: the IoU that ``iou_thresh`` speaks of, one of :data:`IOU_KINDS`.
        iou_loss: ``mse`` or one of :data:`IOU_KINDS`.
        iou_normalizer: weight of the box loss.
        obj_normalizer: weight of the objectness loss.
        cls_normalizer: weight of the class loss; Darknet applies it only together with
            ``counters_per_class``.
        delta_normalizer: weight of all; Darknet applies it only on a GPU, we do always.
        max_delta: bound of each box delta; ``None``: no bound.
        scale_x_y: stretch of the centres beyond their cell.
        label_smooth_eps: label smoothing of the classes.
        objectness_smooth: objectness learns the IoU.
        nms_kind: ``default``, ``greedynms``, ``diounms`` or ``cornersnms``.
        beta_nms: exponent of ``diounms``.
        class_multipliers: weight of each class, from ``counters_per_class``; empty: none.
    """

    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    classes: int
    ignore_thresh: float = 0.5
    truth_thresh: float = 1.0
    iou_thresh: float = 1.0
    iou_thresh_kind: str = "iou"
    iou_loss: str = "mse"
    iou_normalizer: float = 0.75
    obj_normalizer: float = 1.0
    cls_normalizer: float = 1.0
    delta_normalizer: float = 1.0
    max_delta: float | None = None
    scale_x_y: float = 1.0
    label_smooth_eps: float = 0.0
    objectness_smooth: bool = False
    nms_kind: str = "default"
    beta_nms: float = 0.6
    class_multipliers: tuple[float, ...] = ()

    @property
    def layer_anchors(self) -> tuple[tuple[float, float], ...]:
        """The anchors that this layer predicts, in the order of its channels."""
        return tuple(self.anchors[n] for n in self.mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloOptions(AnchorOptions):
    """Options of ``[yolo]``.

    Attributes:
        new_coords: the convolution before has squashed its outputs already (Scaled-YOLOv4):
            no sigmoid here, and widths are ``(2 t)² · anchor``.
        focal_loss: focal class loss.
    """

    new_coords: bool = False
    focal_loss: bool = False

    @classmethod
    def from_section(cls, section: Section) -> YoloOptions:
        """Read a ``[yolo]`` section, with Darknet's defaults.

        Raises:
            CfgError: a value is malformed or not supported.
        """
        return cls(
            **_anchor_options(section, ("default", "greedynms", "diounms")),
            new_coords=section.get_flag("new_coords"),
            focal_loss=section.get_flag("focal_loss"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianYoloOptions(AnchorOptions):
    """Options of ``[Gaussian_yolo]``.

    Attributes:
        uc_normalizer: weight of the uncertainty loss.
        yolo_point: the point of the box that its cell holds, one of :data:`YOLO_POINTS`.
    """

    uc_normalizer: float = 1.0
    yolo_point: str = "center"

    @classmethod
    def from_section(cls, section: Section) -> GaussianYoloOptions:
        """Read a ``[Gaussian_yolo]`` section, with Darknet's defaults.

        Raises:
            CfgError: a value is malformed or not supported.
        """
        return cls(
            **_anchor_options(section, ("default", "greedynms", "diounms", "cornersnms")),
            uc_normalizer=section.get_float("uc_normalizer", 1.0),
            yolo_point=_choice(section, "yolo_point", "center", YOLO_POINTS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionOptions:
    """Options of ``[region]`` (YOLOv2).

    Attributes:
        anchors: width and height of each anchor, in cells.
        classes: number of classes.
        softmax: the class scores are a softmax; else they are taken as they come.
        thresh: a prediction whose best IoU is above it is not taught to be background.
        coord_scale: weight of the box loss.
        object_scale: weight of the objectness loss where an object is.
        noobject_scale: weight of the objectness loss elsewhere.
        class_scale: weight of the class loss.
        bias_match: the anchor of a truth is chosen by the anchors' shapes, not by the predictions'.
        rescore: objectness learns the IoU.
        classfix: 1: predictions above ``thresh`` learn the class, too; 2: weighted by their
            objectness; -1: every objectness learns its best IoU; 0: none of these.
        focal_loss: focal class loss.
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    softmax: bool = False
    thresh: float = 0.5
    coord_scale: float = 1.0
    object_scale: float = 1.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    bias_match: bool = False
    rescore: bool = False
    classfix: int = 0
    focal_loss: bool = False

    @property
    def num(self) -> int:
        """Number of anchors."""
        return len(self.anchors)

    @classmethod
    def from_section(cls, section: Section) -> RegionOptions:
        """Read a ``[region]`` section, with Darknet's defaults.

        Raises:
            CfgError: a value is malformed or not supported, ``tree`` and ``map`` among them.
        """
        _refuse(section, "tree", "map")
        coords = section.get_int("coords", 4)
        if coords != 4:
            raise section.error("coords", f"coords must be 4, got {coords}.")
        return cls(
            anchors=_anchors(section, section.get_int("num", 1, low=1, high=MAX_ANCHORS)),
            classes=section.get_int("classes", 20, low=1),
            softmax=section.get_flag("softmax"),
            thresh=section.get_float("thresh", 0.5),
            coord_scale=section.get_float("coord_scale", 1.0),
            object_scale=section.get_float("object_scale", 1.0),
            noobject_scale=section.get_float("noobject_scale", 1.0),
            class_scale=section.get_float("class_scale", 1.0),
            bias_match=section.get_flag("bias_match"),
            rescore=section.get_flag("rescore"),
            classfix=section.get_int("classfix", 0, low=-1, high=2),
            focal_loss=section.get_flag("focal_loss"),
        )


def _anchor_options(section: Section, nms_kinds: tuple[str, ...]) -> dict[str, Any]:
    """The keys that ``[yolo]`` and ``[Gaussian_yolo]`` share, ready for their records."""
    _refuse(section, "map")
    num = section.get_int("num", 1, low=1, high=MAX_ANCHORS)
    mask = section.get_ints("mask") if "mask" in section else tuple(range(num))
    if min(mask) < 0 or len(set(mask)) < len(mask):
        raise section.error("mask", f"mask must name different anchors, got {list(mask)}.")
    classes = section.get_int("classes", 20, low=1)
    max_delta = section.get_float("max_delta") if "max_delta" in section else None
    return {
        "anchors": _anchors(section, max(num, max(mask) + 1)),
        "mask": mask,
        "classes": classes,
        "ignore_thresh": section.get_float("ignore_thresh", 0.5),
        "truth_thresh": section.get_float("truth_thresh", 1.0),
        "iou_thresh": section.get_float("iou_thresh", 1.0),
        "iou_thresh_kind": _choice(section, "iou_thresh_kind", "iou", IOU_KINDS),
        "iou_loss": _choice(section, "iou_loss", "mse", ("mse", *IOU_KINDS)),
        "iou_normalizer": section.get_float("iou_normalizer", 0.75),
        "obj_normalizer": section.get_float("obj_normalizer", 1.0),
        "cls_normalizer": section.get_float("cls_normalizer", 1.0),
        "delta_normalizer": section.get_float("delta_normalizer", 1.0),
        "max_delta": max_delta,
        "scale_x_y": section.get_float("scale_x_y", 1.0),
        "label_smooth_eps": section.get_float("label_smooth_eps", 0.0),
        "objectness_smooth": section.get_flag("objectness_smooth"),
        "nms_kind": _choice(section, "nms_kind", "default", nms_kinds),
        "beta_nms": section.get_float("beta_nms", 0.6),
        "class_multipliers": _class_multipliers(section, classes, max_delta),
    }


def _anchors(section: Section, num: int) -> tuple[tuple[float, float], ...]:
    """The first ``num`` anchors; Darknet, too, takes no notice of more.

    A mask that goes beyond the cfg's ``num`` (``cspx-p7-mish.cfg``) reads past Darknet's array;
    here it brings in the anchors that it names, if they are listed.
    """
    values = section.get_floats("anchors")
    if len(values) < 2 * num:
        raise section.error(
            "anchors",
            f"anchors must hold {2 * num} numbers for {num} anchors, got {len(values)}.",
        )
    if min(values[: 2 * num]) <= 0:
        raise section.error("anchors", f"anchors must be positive, got {min(values[: 2 * num])}.")
    return tuple(zip(values[: 2 * num : 2], values[1 : 2 * num : 2], strict=True))


def _class_multipliers(
    section: Section, classes: int, max_delta: float | None
) -> tuple[float, ...]:
    """Weight of each class: the rarer, the heavier (``get_classes_multipliers``)."""
    if "counters_per_class" not in section:
        return ()
    counters = [max(count, 1) for count in section.get_ints("counters_per_class")]
    if len(counters) != classes:
        raise section.error(
            "counters_per_class",
            f"counters_per_class must hold {classes} numbers, one a class, got {len(counters)}.",
        )
    bound = float("inf") if max_delta is None else max_delta
    return tuple(min(max(counters) / count, bound) for count in counters)


def _choice(section: Section, key: str, default: str, allowed: tuple[str, ...]) -> str:
    value = section.get_str(key, default)
    if value not in allowed:
        raise section.error(key, f"{key} must be one of {', '.join(allowed)}, got '{value}'.")
    return value


def _refuse(section: Section, *keys: str) -> None:
    for key in keys:
        if key in section:
            raise section.error(key, f"{key}= is not supported.")


class DetectionHead(nn.Module, ABC):
    """What the three detection layers share: shapes, and the way from raw to decoded.

    In training mode the raw input is returned as it came (the loss wants it); in evaluation
    mode the decoded boxes and scores.

    Args:
        anchors: width and height of the layer's anchors.
        classes: number of classes.
        stride: pixels of the network's input a cell is wide and high.
    """

    box_entries = 4
    """Entries of one anchor that come before its objectness."""

    anchors: Tensor

    def __init__(
        self, *, anchors: tuple[tuple[float, float], ...], classes: int, stride: int
    ) -> None:
        super().__init__()
        self.classes = classes
        self.stride = stride
        self._sizes = anchors
        self.register_buffer("anchors", torch.tensor(anchors), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DetectionHead:
        """Follow moves between devices, but keep the anchors exact when a model is halved."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.anchors = torch.tensor(self._sizes, device=self.anchors.device)
        return self

    @property
    def num_anchors(self) -> int:
        """Anchors of this layer."""
        return len(self._sizes)

    @property
    def entries(self) -> int:
        """Entries of one anchor: box, objectness, classes."""
        return self.box_entries + 1 + self.classes

    @property
    def channels(self) -> int:
        """Channels of the raw input."""
        return self.num_anchors * self.entries

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"anchors={self.num_anchors}, classes={self.classes}, stride={self.stride}"

    def split(self, x: Tensor) -> Tensor:
        """``[B, na * E, H, W]`` → ``[B, na, E, H, W]``, at least float32."""
        batch, _, rows, columns = x.shape
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        return values.reshape(batch, self.num_anchors, self.entries, rows, columns)

    def activate(self, x: Tensor) -> Tensor:
        """Darknet's output of this layer: the raw values after their activations.

        Args:
            x: raw ``[B, na * E, H, W]``.

        Returns:
            The same shape, at least float32.
        """
        return self.activate_entries(self.split(x)).reshape(x.shape)

    def decode(self, x: Tensor, net_w: int, net_h: int) -> Tensor:
        """Boxes and scores of every prediction.

        Args:
            x: raw ``[B, na * E, H, W]``.
            net_w: width of the network's input, in pixels.
            net_h: height of the network's input, in pixels.

        Returns:
            ``[B, 4 + classes, na * H * W]``, at least float32, anchors outermost, then rows: centre
            x, centre y, width, height in pixels of the network's input, then objectness × class.
        """
        return self._decode(x, net_w / x.shape[3], net_h / x.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """The raw input in training mode, :meth:`decode` of it in evaluation mode."""
        return x if self.training else self._decode(x, self.stride, self.stride)

    def _decode(self, x: Tensor, cell_w: float, cell_h: float) -> Tensor:
        values = self.activate_entries(self.split(x))
        decoded = torch.cat((self.boxes(values, cell_w, cell_h), self.scores(values)), dim=2)
        return decoded.transpose(1, 2).reshape(x.shape[0], 4 + self.classes, -1)

    @abstractmethod
    def activate_entries(self, values: Tensor) -> Tensor:
        """Raw ``[B, na, E, H, W]`` → activated, same shape."""

    @abstractmethod
    def boxes(self, values: Tensor, cell_w: float, cell_h: float) -> Tensor:
        """Boxes of activated values.

        Args:
            values: activated ``[B, na, E, H, W]``.
            cell_w: width of a cell, in pixels of the network's input.
            cell_h: height of a cell, in pixels of the network's input.

        Returns:
            ``[B, na, 4, H, W]``: centre x, centre y, width, height in pixels.
        """

    def scores(self, values: Tensor) -> Tensor:
        """Objectness × class of activated ``[B, na, E, H, W]`` → ``[B, na, classes, H, W]``."""
        at = self.box_entries
        return values[:, :, at : at + 1] * values[:, :, at + 1 :]

    def _anchor_size(self, axis: int) -> Tensor:
        return self.anchors[:, axis].view(1, -1, 1, 1, 1)


def _columns(values: Tensor) -> Tensor:
    """Column number of each cell, ``[1, 1, 1, 1, W]``."""
    count = values.shape[4]
    return torch.arange(count, device=values.device, dtype=values.dtype).view(1, 1, 1, 1, count)


def _rows(values: Tensor) -> Tensor:
    """Row number of each cell, ``[1, 1, 1, H, 1]``."""
    count = values.shape[3]
    return torch.arange(count, device=values.device, dtype=values.dtype).view(1, 1, 1, count, 1)


def _stretch(value: Tensor, scale: float) -> Tensor:
    """Darknet's ``scale_x_y``: about the middle of the cell."""
    return value if scale == 1 else value * scale - 0.5 * (scale - 1)


class YoloHead(DetectionHead):
    """``[yolo]``: entries tx, ty, tw, th, objectness, classes.

    Reference: AlexeyAB/darknet ``src/yolo_layer.c`` ``get_yolo_box``, ``get_yolo_detections``.
    """

    def __init__(self, options: YoloOptions, *, stride: int) -> None:
        super().__init__(anchors=options.layer_anchors, classes=options.classes, stride=stride)
        self.options = options

    def activate_entries(self, values: Tensor) -> Tensor:
        """See :meth:`DetectionHead.activate_entries`."""
        centre, size, scores = values[:, :, :2], values[:, :, 2:4], values[:, :, 4:]
        if not self.options.new_coords:
            centre, scores = centre.sigmoid(), scores.sigmoid()
        return torch.cat((_stretch(centre, self.options.scale_x_y), size, scores), dim=2)

    def boxes(self, values: Tensor, cell_w: float, cell_h: float) -> Tensor:
        """See :meth:`DetectionHead.boxes`."""
        size = values[:, :, 2:4]
        size = 4 * size * size if self.options.new_coords else size.exp()
        return torch.cat(
            (
                (values[:, :, 0:1] + _columns(values)) * cell_w,
                (values[:, :, 1:2] + _rows(values)) * cell_h,
                size[:, :, 0:1] * self._anchor_size(0),
                size[:, :, 1:2] * self._anchor_size(1),
            ),
            dim=2,
        )


class GaussianYoloHead(DetectionHead):
    """``[Gaussian_yolo]``: entries x, σx, y, σy, w, σw, h, σh, objectness, classes.

    Reference: AlexeyAB/darknet ``src/gaussian_yolo_layer.c`` ``get_gaussian_yolo_box``,
    ``get_gaussian_yolo_detections``; Choi et al. 2019, "Gaussian YOLOv3".
    """

    box_entries = 8

    def __init__(self, options: GaussianYoloOptions, *, stride: int) -> None:
        super().__init__(anchors=options.layer_anchors, classes=options.classes, stride=stride)
        self.options = options

    def activate_entries(self, values: Tensor) -> Tensor:
        """See :meth:`DetectionHead.activate_entries`."""
        squashed, scale = values.sigmoid(), self.options.scale_x_y
        return torch.cat(
            (
                _stretch(squashed[:, :, 0:1], scale),
                squashed[:, :, 1:2],
                _stretch(squashed[:, :, 2:3], scale),
                squashed[:, :, 3:4],
                values[:, :, 4:5],
                squashed[:, :, 5:6],
                values[:, :, 6:7],
                squashed[:, :, 7:],
            ),
            dim=2,
        )

    def boxes(self, values: Tensor, cell_w: float, cell_h: float) -> Tensor:
        """See :meth:`DetectionHead.boxes`."""
        x = (values[:, :, 0:1] + _columns(values)) * cell_w
        y = (values[:, :, 2:3] + _rows(values)) * cell_h
        width = values[:, :, 4:5].exp() * self._anchor_size(0)
        height = values[:, :, 6:7].exp() * self._anchor_size(1)
        to_centre = {"center": 0.0, "left_top": 0.5, "right_bottom": -0.5}[self.options.yolo_point]
        if to_centre:
            x, y = x + to_centre * width, y + to_centre * height
        return torch.cat((x, y, width, height), dim=2)

    def scores(self, values: Tensor) -> Tensor:
        """Objectness × class × (1 - mean uncertainty)."""
        certainty = 1 - values[:, :, 1:8:2].mean(dim=2, keepdim=True)
        return super().scores(values) * certainty


class RegionHead(DetectionHead):
    """``[region]`` (YOLOv2): entries tx, ty, tw, th, objectness, classes; anchors in cells.

    Reference: AlexeyAB/darknet ``src/region_layer.c`` ``get_region_box``,
    ``get_region_detections``.
    """

    def __init__(self, options: RegionOptions, *, stride: int) -> None:
        super().__init__(anchors=options.anchors, classes=options.classes, stride=stride)
        self.options = options

    def activate_entries(self, values: Tensor) -> Tensor:
        """Objectness and classes; the sigmoid of the centre belongs to the box in Darknet."""
        classes = values[:, :, 5:]
        if self.options.softmax:
            classes = classes.softmax(dim=2)
        return torch.cat((values[:, :, :4], values[:, :, 4:5].sigmoid(), classes), dim=2)

    def boxes(self, values: Tensor, cell_w: float, cell_h: float) -> Tensor:
        """See :meth:`DetectionHead.boxes`."""
        return torch.cat(
            (
                (values[:, :, 0:1].sigmoid() + _columns(values)) * cell_w,
                (values[:, :, 1:2].sigmoid() + _rows(values)) * cell_h,
                values[:, :, 2:3].exp() * self._anchor_size(0) * cell_w,
                values[:, :, 3:4].exp() * self._anchor_size(1) * cell_h,
            ),
            dim=2,
        )
