"""The heads against Darknet's formulae, written out for one prediction at a time."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from yoloprune.darknet.cfg import parse_cfg, read_cfg
from yoloprune.darknet.heads import (
    DetectionHead,
    GaussianYoloHead,
    GaussianYoloOptions,
    RegionHead,
    RegionOptions,
    YoloHead,
    YoloOptions,
)
from yoloprune.errors import CfgError

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.5, 58.25))
OPTIONS: dict[str, Any] = {
    "yolo": YoloOptions,
    "Gaussian_yolo": GaussianYoloOptions,
    "region": RegionOptions,
}
HEADS: dict[str, Any] = {
    "yolo": YoloHead,
    "Gaussian_yolo": GaussianYoloHead,
    "region": RegionHead,
}


def _head(kind: str, **options: Any) -> Any:
    masks = {} if kind == "region" else {"mask": (2, 0)}
    record = OPTIONS[kind](**{"anchors": ANCHORS, "classes": 3, **masks, **options})
    return HEADS[kind](record, stride=16).eval()


def _raw(head: DetectionHead, batch: int = 2, rows: int = 3, columns: int = 4) -> Tensor:
    return 2 * torch.randn(batch, head.channels, rows, columns)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _check(head: Any, raw: Tensor, predict: Any, net: tuple[int, int]) -> None:
    """Every prediction of ``decode`` against ``predict(entries, anchor, column, row)``."""
    decoded = head.decode(raw, *net)
    batch, _, rows, columns = raw.shape
    assert decoded.shape == (batch, 4 + 3, head.num_anchors * rows * columns)
    entries = raw.view(batch, head.num_anchors, head.entries, rows, columns)
    sizes = [ANCHORS[n] for n in getattr(head.options, "mask", range(3))]
    for image, slot, row, column in np.ndindex(batch, head.num_anchors, rows, columns):
        t = entries[image, slot, :, row, column].double().tolist()
        expected = predict(t, sizes[slot], column, row)
        found = decoded[image, :, (slot * rows + row) * columns + column]
        assert found.tolist() == pytest.approx(expected, rel=2e-5, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1.05, 2.0])
def test_yolo_decodes_as_darknet(scale: float) -> None:
    head = _head("yolo", scale_x_y=scale)
    net_w, net_h = 80, 51

    def predict(t: list[float], anchor: tuple[float, float], column: int, row: int) -> list[float]:
        shift = (scale - 1) / 2
        x = (column + _sigmoid(t[0]) * scale - shift) / 4 * net_w
        y = (row + _sigmoid(t[1]) * scale - shift) / 3 * net_h
        scores = [_sigmoid(t[4]) * _sigmoid(c) for c in t[5:]]
        return [x, y, math.exp(t[2]) * anchor[0], math.exp(t[3]) * anchor[1], *scores]

    _check(head, _raw(head), predict, (net_w, net_h))


def test_new_coords_takes_squashed_values() -> None:
    head = _head("yolo", scale_x_y=2.0, new_coords=True)

    def predict(t: list[float], anchor: tuple[float, float], column: int, row: int) -> list[float]:
        x, y = (column + 2 * t[0] - 0.5) * 16, (row + 2 * t[1] - 0.5) * 16
        size = [(2 * t[2]) ** 2 * anchor[0], (2 * t[3]) ** 2 * anchor[1]]
        return [x, y, *size, *(t[4] * c for c in t[5:])]

    _check(head, _raw(head).sigmoid(), predict, (64, 48))


@pytest.mark.parametrize(("point", "sign"), [("center", 0), ("left_top", 1), ("right_bottom", -1)])
def test_gaussian_decodes_as_darknet(point: str, sign: int) -> None:
    head = _head("Gaussian_yolo", scale_x_y=1.1, yolo_point=point)

    def predict(t: list[float], anchor: tuple[float, float], column: int, row: int) -> list[float]:
        w, h = math.exp(t[4]) * anchor[0], math.exp(t[6]) * anchor[1]
        x = (column + 1.1 * _sigmoid(t[0]) - 0.05) * 16 + sign * w / 2
        y = (row + 1.1 * _sigmoid(t[2]) - 0.05) * 16 + sign * h / 2
        unsure = sum(_sigmoid(t[n]) for n in (1, 3, 5, 7)) / 4
        return [x, y, w, h, *(_sigmoid(t[8]) * _sigmoid(c) * (1 - unsure) for c in t[9:])]

    _check(head, _raw(head), predict, (64, 48))


@pytest.mark.parametrize("softmax", [False, True])
def test_region_decodes_as_darknet(softmax: bool) -> None:
    head = _head("region", softmax=softmax)

    def predict(t: list[float], anchor: tuple[float, float], column: int, row: int) -> list[float]:
        x, y = (column + _sigmoid(t[0])) * 16, (row + _sigmoid(t[1])) * 16
        w, h = math.exp(t[2]) * anchor[0] * 16, math.exp(t[3]) * anchor[1] * 16
        total = sum(math.exp(c) for c in t[5:])
        classes = [math.exp(c) / total for c in t[5:]] if softmax else t[5:]
        return [x, y, w, h, *(_sigmoid(t[4]) * c for c in classes)]

    _check(head, _raw(head), predict, (64, 48))


def test_activations_are_darknets(shared: Path) -> None:
    file = shared / "data" / "darknet-yolo-loss.npz"
    if not file.exists():
        pytest.skip(f"needs {file.name}")
    with np.load(file) as arrays:
        meta = json.loads(str(arrays["meta"]))
        anchors = tuple((float(w), float(h)) for w, h in meta["anchors"])
        for name, case in meta["cases"].items():
            options = YoloOptions(
                anchors=anchors, mask=tuple(meta["mask"]), classes=3, **case["yolo"]
            )
            output = torch.from_numpy(arrays[f"{name}/output"]).flatten(1, 2)
            raw = torch.from_numpy(arrays[f"{name}/input"]).flatten(1, 2)
            found = YoloHead(options, stride=16).activate(raw)
            torch.testing.assert_close(found, output, rtol=0, atol=3e-7)


def test_gaussian_activations_by_hand() -> None:
    head = _head("Gaussian_yolo", scale_x_y=1.2)
    raw = _raw(head)
    found = head.activate(raw).view(2, 2, 12, 3, 4)
    entries = raw.view(2, 2, 12, 3, 4)
    for n in range(12):
        expected = entries[:, :, n] if n in (4, 6) else torch.sigmoid(entries[:, :, n])
        expected = expected * 1.2 - 0.1 if n in (0, 2) else expected
        torch.testing.assert_close(found[:, :, n], expected)


def test_region_activations_by_hand() -> None:
    head = _head("region", softmax=True)
    raw = _raw(head)
    found, entries = head.activate(raw).view(2, 3, 8, 3, 4), raw.view(2, 3, 8, 3, 4)
    assert torch.equal(found[:, :, :4], entries[:, :, :4])
    torch.testing.assert_close(found[:, :, 4], torch.sigmoid(entries[:, :, 4]))
    torch.testing.assert_close(found[:, :, 5:].sum(2), torch.ones(2, 3, 3, 4))


@pytest.mark.parametrize("kind", HEADS)
class TestAnyHead:
    def test_training_mode_returns_its_input(self, kind: str) -> None:
        head = _head(kind).train()
        raw = _raw(head)
        assert head(raw) is raw

    def test_evaluation_mode_decodes_with_the_stride(self, kind: str) -> None:
        head = _head(kind)
        raw = _raw(head)
        torch.testing.assert_close(head(raw), head.decode(raw, 4 * 16, 3 * 16))

    def test_holds_no_state(self, kind: str) -> None:
        head = _head(kind)
        assert not list(head.parameters()) and not head.state_dict()
        assert head.channels == head.num_anchors * head.entries

    def test_halving_keeps_the_anchors(self, kind: str) -> None:
        head = _head(kind)
        raw = _raw(head).half()
        expected = head(raw.float())
        halved = pickle.loads(pickle.dumps(copy.deepcopy(head).half()))
        torch.testing.assert_close(halved.anchors, head.anchors, rtol=0, atol=0)
        assert torch.equal(halved(raw), expected)

    def test_double_stays_double(self, kind: str) -> None:
        head = _head(kind)
        raw = _raw(head).double()
        decoded = head.double()(raw)
        assert decoded.dtype == torch.float64
        torch.testing.assert_close(decoded.float(), head(raw.float()))

    def test_export_with_any_batch_and_grid(self, kind: str) -> None:
        head = _head(kind)
        dims = {0: torch.export.Dim("b"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
        program = torch.export.export(head, (_raw(head),), dynamic_shapes=(dims,))
        other = _raw(head, batch=5, rows=6, columns=7)
        torch.testing.assert_close(program.module()(other), head(other))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_onnx_with_any_batch_and_grid(self, kind: str) -> None:
        pytest.importorskip("onnx")
        runtime = pytest.importorskip("onnxruntime")
        head, file = _head(kind), io.BytesIO()
        axes = {"x": {0: "b", 2: "h", 3: "w"}}
        torch.onnx.export(
            head, (_raw(head),), file, input_names=["x"], dynamic_axes=axes, dynamo=False
        )
        session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        other = _raw(head, batch=5, rows=6, columns=7)
        found = torch.from_numpy(session.run(None, {"x": other.numpy()})[0])
        torch.testing.assert_close(found, head(other), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------
# Options


def _options(kind: str, *lines: str) -> Any:
    text = "\n".join(["[net]", f"[{kind}]", *lines, ""])
    return OPTIONS[kind].from_section(parse_cfg(text, "a.cfg").layers[0])


def test_yolo_defaults_are_those_of_darknets_parser() -> None:
    options = _options("yolo", "num=2", "anchors=1,2,3.5,4")
    assert options == YoloOptions(
        anchors=((1.0, 2.0), (3.5, 4.0)),
        mask=(0, 1),
        classes=20,
        ignore_thresh=0.5,
        truth_thresh=1.0,
        iou_thresh=1.0,
        iou_thresh_kind="iou",
        iou_loss="mse",
        iou_normalizer=0.75,
        obj_normalizer=1.0,
        cls_normalizer=1.0,
        delta_normalizer=1.0,
        max_delta=None,
        scale_x_y=1.0,
        label_smooth_eps=0.0,
        objectness_smooth=False,
        nms_kind="default",
        beta_nms=0.6,
        class_multipliers=(),
        new_coords=False,
        focal_loss=False,
    )


def test_yolo_options_are_read() -> None:
    lines = """mask=1|anchors=1,2, 3,4|num=2|classes=3|ignore_thresh=.7|truth_thresh=.9
    iou_thresh=.2|iou_thresh_kind=ciou|iou_loss=giou|iou_normalizer=.07|obj_normalizer=.4|cls_normalizer=.5
    delta_normalizer=.3|max_delta=5|scale_x_y=1.05|label_smooth_eps=.1|objectness_smooth=1
    nms_kind=diounms|beta_nms=.7|new_coords=1|focal_loss=1|counters_per_class=100,10,0"""
    assert _options("yolo", *lines.replace("\n", "|").split("|")) == YoloOptions(
        anchors=((1.0, 2.0), (3.0, 4.0)),
        mask=(1,),
        classes=3,
        ignore_thresh=0.7,
        truth_thresh=0.9,
        iou_thresh=0.2,
        iou_thresh_kind="ciou",
        iou_loss="giou",
        iou_normalizer=0.07,
        obj_normalizer=0.4,
        cls_normalizer=0.5,
        delta_normalizer=0.3,
        max_delta=5.0,
        scale_x_y=1.05,
        label_smooth_eps=0.1,
        objectness_smooth=True,
        nms_kind="diounms",
        beta_nms=0.7,
        class_multipliers=(1.0, 5.0, 5.0),  # 100/100, 100/10 and 100/1, bounded by max_delta
        new_coords=True,
        focal_loss=True,
    )


def test_gaussian_and_region_options_are_read() -> None:
    gaussian = _options("Gaussian_yolo", "anchors=1,2", "uc_normalizer=.3", "yolo_point=left_top")
    assert (gaussian.uc_normalizer, gaussian.yolo_point) == (0.3, "left_top")
    region = _options("region", "anchors=1.5,2", "softmax=1", "thresh=.6", "classfix=-1")
    assert region == RegionOptions(
        anchors=((1.5, 2.0),), classes=20, softmax=True, thresh=0.6, classfix=-1
    )
    assert region.num == 1


def test_anchors_beyond_num_are_taken_if_the_mask_names_them() -> None:
    lines = ("anchors=1,2,3,4,5,6", "num=2", "classes=3")
    assert len(_options("yolo", "mask=0,1", *lines).anchors) == 2
    options = _options("yolo", "mask=2", *lines)
    assert options.layer_anchors == ((5.0, 6.0),) and len(options.anchors) == 3


@pytest.mark.parametrize(
    ("kind", "lines", "message"),
    [
        ("yolo", ["iou_loss=siou"], "a.cfg:4 [yolo] #0: iou_loss must be one of mse, iou, giou"),
        ("yolo", ["iou_thresh_kind=mse"], "a.cfg:4 [yolo] #0: iou_thresh_kind must be one of"),
        ("yolo", ["nms_kind=cornersnms"], "a.cfg:4 [yolo] #0: nms_kind must be one of default"),
        ("yolo", ["map=a.map"], "a.cfg:4 [yolo] #0: map= is not supported"),
        ("yolo", ["mask=0,0"], "a.cfg:4 [yolo] #0: mask must name different anchors, got [0, 0]"),
        ("yolo", ["mask=-1"], "a.cfg:4 [yolo] #0: mask must name different anchors, got [-1]"),
        ("yolo", ["mask=1"], "a.cfg:3 [yolo] #0: anchors must hold 4 numbers for 2 anchors, got 2"),
        ("yolo", ["classes=0"], "a.cfg:4 [yolo] #0: classes must be"),
        ("yolo", ["counters_per_class=1,2"], "counters_per_class must hold 20 numbers"),
        ("Gaussian_yolo", ["yolo_point=top"], "yolo_point must be one of center, left_top"),
        ("region", ["tree=a.tree"], "a.cfg:4 [region] #0: tree= is not supported"),
        ("region", ["coords=5"], "a.cfg:4 [region] #0: coords must be 4, got 5"),
        ("region", ["num=2"], "anchors must hold 4 numbers for 2 anchors, got 2"),
        ("region", ["classfix=3"], "a.cfg:4 [region] #0: classfix must be"),
    ],
)
def test_what_is_not_supported_is_refused(kind: str, lines: list[str], message: str) -> None:
    with pytest.raises(CfgError) as caught:
        _options(kind, "anchors=1,2", *lines)
    assert message in str(caught.value)


def test_anchors_must_be_positive() -> None:
    with pytest.raises(CfgError, match="anchors must be positive, got 0"):
        _options("yolo", "anchors=1,0")


def test_all_heads_of_real_cfgs_are_read(shared: Path) -> None:
    files = sorted((shared / "darknet-cfg").glob("*.cfg"))
    if not files:
        pytest.skip("needs darknet-cfg/")
    count = 0
    for file in files:
        for section in read_cfg(file).layers:
            if section.kind in OPTIONS:
                head = HEADS[section.kind](OPTIONS[section.kind].from_section(section), stride=8)
                assert head.eval()(torch.zeros(1, head.channels, 2, 2)).isfinite().all()
                count += 1
    assert count >= 38  # each has one at least
