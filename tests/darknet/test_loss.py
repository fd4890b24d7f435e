"""The losses against Darknet itself: its deltas are what the gradients must be."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from yoloprune.darknet.boxes import best_truth, box_iou, iou_delta, shape_iou
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.heads import (
    DetectionHead,
    GaussianYoloHead,
    GaussianYoloOptions,
    RegionHead,
    RegionOptions,
    YoloHead,
    YoloOptions,
)
from yoloprune.darknet.loss import DarknetLoss, LossParts, darknet_loss, pad_truth

# ---------------------------------------------------------------------------------------------
# ../shared: 11 settings of [yolo]

SETTINGS = (
    "v3-mse",
    "v3-mse-truththresh",
    "v4-ciou",
    "v4-ciou-iouthresh",
    "v4-giou",
    "v4-diou",
    "v4-iou",
    "csp-newcoords",
    "v4-smooth",
    "v4-objsmooth",
    "v4-maxdelta",
)


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[str, Any]:
    file = shared / "data" / "darknet-yolo-loss.npz"
    if not file.exists():
        pytest.skip(f"needs {file.name}")
    with np.load(file) as arrays:
        data = {key: arrays[key] for key in arrays.files}
    data["meta"] = json.loads(str(data["meta"]))
    return data


def _recorded_head(meta: dict[str, Any], name: str) -> YoloHead:
    lists = {
        "anchors": ",".join(f"{w},{h}" for w, h in meta["anchors"]),
        "mask": ",".join(map(str, meta["mask"])),
        "num": len(meta["anchors"]),
        "classes": meta["classes"],
    }
    options = {**lists, **meta["cases"][name]["yolo"]}
    return _head("yolo", "\n".join(f"{k}={v}" for k, v in options.items()), stride=16)


def _head(kind: str, options: str, stride: int = 32) -> Any:
    section = parse_cfg(f"[net]\n[{kind}]\n{options}\n").layers[0]
    if kind == "yolo":
        return YoloHead(YoloOptions.from_section(section), stride=stride)
    if kind == "region":
        return RegionHead(RegionOptions.from_section(section), stride=stride)
    return GaussianYoloHead(GaussianYoloOptions.from_section(section), stride=stride)


def _parts_and_delta(
    head: DetectionHead, raw: Tensor, truth: Tensor, seen: int = 1 << 20
) -> tuple[LossParts, Tensor]:
    raw = raw.detach().clone().requires_grad_()
    parts = darknet_loss(head, raw, truth, seen=seen)
    parts.total.backward()
    assert raw.grad is not None
    values = {f.name: getattr(parts, f.name).detach() for f in fields(parts)}
    return LossParts(**values), -raw.grad


def test_every_recorded_setting_is_tested(recorded: dict[str, Any]) -> None:
    assert set(recorded["meta"]["cases"]) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_is_minus_darknets_delta(recorded: dict[str, Any], name: str) -> None:
    head = _recorded_head(recorded["meta"], name)
    raw = torch.from_numpy(recorded[f"{name}/input"]).flatten(1, 2)
    truth = torch.from_numpy(recorded[f"{name}/truth"])
    _, delta = _parts_and_delta(head, raw, truth)
    expected = torch.from_numpy(recorded[f"{name}/delta"]).flatten(1, 2)
    assert (expected != 0).sum() > 400  # objectness of 432 predictions, less the ignored ones
    torch.testing.assert_close(delta, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_value_is_what_darknet_logs(recorded: dict[str, Any], name: str) -> None:
    head = _recorded_head(recorded["meta"], name)
    raw = torch.from_numpy(recorded[f"{name}/input"]).flatten(1, 2)
    parts, _ = _parts_and_delta(head, raw, torch.from_numpy(recorded[f"{name}/truth"]))
    log = recorded["meta"]["cases"][name]["log"]
    figures = dict(item.split(" = ") for item in log.split("count: ")[1].split(", ")[1:])
    images = len(raw)
    assert float(parts.total) / images == pytest.approx(float(figures["total_loss"]), rel=1e-6)
    rest = float(parts.obj + parts.cls) * head.options.obj_normalizer / images
    assert rest == pytest.approx(float(figures["class_loss"]), rel=1e-6)


# ---------------------------------------------------------------------------------------------
# Small cases of every head, computed by AlexeyAB's src/*_layer.c: a 2 × 2 grid, 2 anchors,
# 2 classes, a 64 × 64 input. In the first cell lie a truth, one of the other class, and the first
# one once more; in the crowded one five, of two classes in turn, and where a logit is given, it is
# the first class's there, the others' probabilities being about a third.

TRUTH = torch.tensor(
    [
        [
            [0.30, 0.26, 0.36, 0.30, 1],
            [0.31, 0.27, 0.34, 0.33, 0],
            [0.80, 0.70, 0.30, 0.55, 1],
            [0.30, 0.26, 0.36, 0.30, 1],
        ]
    ]
)
CROWD = torch.tensor(
    [
        [
            [0.30, 0.26, 0.36, 0.30, 0],
            [0.31, 0.27, 0.34, 0.33, 1],
            [0.80, 0.70, 0.30, 0.55, 1],
            [0.28, 0.22, 0.40, 0.28, 0],
            [0.27, 0.23, 0.38, 0.29, 1],
        ]
    ]
)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One layer of a cfg, and what Darknet made of it."""

    name: str
    kind: str
    seen: int
    options: str
    delta: str
    logit: float | None = None
    size: float | None = None

    def raw(self) -> Tensor:
        head = self.head()
        raw = _wave(1, head.channels, 2, 2)
        if self.logit is not None:
            entries, at = raw.view(2, -1, 2, 2), head.box_entries + 1
            entries[:, at:] = 0.1 * entries[:, at:] - 0.7
            entries[:, at, 0, 0] = self.logit
        if self.size is not None:
            raw[0, 2, 0, 0] = self.size
        return raw

    def truth(self) -> Tensor:
        return TRUTH if self.logit is None else CROWD

    def head(self) -> Any:
        return _head(self.kind, "\n".join(line.strip() for line in self.options.split()))

    def expected(self) -> Tensor:
        return torch.tensor([float(x) for x in self.delta.split()]).view(1, -1, 2, 2)


def _wave(*shape: int) -> Tensor:
    count = int(np.prod(shape))
    return (
        (1.5 * torch.sin(torch.arange(count, dtype=torch.float64) * 1.7 + 0.3)).float().view(shape)
    )


CASES = (
    _Case(
        name="yolo-giou-weights",
        kind="yolo",
        seen=0,
        options="""
        mask=0,2
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.07
        truth_thresh=0.12
        iou_thresh=0.3
        iou_thresh_kind=giou
        iou_loss=giou
        iou_normalizer=0.5
        counters_per_class=10,40
        cls_normalizer=0.5
        scale_x_y=1.1
        max_delta=1.5
        """,
        delta="""
        0 0 0 1.242943 0 0 0 0.838097 -1.84555 0 0 1.219846 -1.47644 0 0 -0.1617061 0.2594441
        -0.2317364 -0.3230016 0.1995315 0.6084584 0 0 -0.8156765 0.594982 0 0 0.1160111 1.645746
        0 0 0 1.424353 0 0 0 0.1830164 0 0 0.883093 -0.08847307 0 0 0.6021085 0.608434 0
        -0.5149227 0.8166796 0.6290837 0 0 -0.2257045 0.2676983 0 0 0.656886
        """,
    ),
    _Case(
        name="yolo-diou-focal-smooth",
        kind="yolo",
        seen=0,
        options="""
        mask=1,2
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.08
        truth_thresh=0.2
        iou_thresh=0.3
        iou_thresh_kind=ciou
        iou_loss=diou
        iou_normalizer=0.3
        focal_loss=1
        objectness_smooth=1
        """,
        delta="""
        -0.0002022831 0 0 1.158683 -0.01894964 0 0 0.01889553 -0.0873611 0 0 0.4241856
        -0.1245983 0 0 -0.952051 -0.7405559 -0.2317364 -0.3230016 -0.7173976 0.4056389 0 0
        -0.06032559 0.594982 0 0 0.2320222 0.9821366 0 0 -0.06765353 0.8164509 0 0 -0.09022517
        0.08962063 0 0 0.5298558 0.08954051 0 0 0.3612653 -0.391566 -0.7208931 -0.5149227
        -0.1404817 0.4193891 0 0 -0.1031118 0.2676983 0 0 0.656886
        """,
    ),
    _Case(
        name="gaussian-mse",
        kind="Gaussian_yolo",
        seen=0,
        options="""
        mask=1,2
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.08
        iou_loss=mse
        iou_normalizer=0.5
        uc_normalizer=0.7
        scale_x_y=1.1
        iou_thresh=0.25
        label_smooth_eps=0.1
        """,
        delta="""
        -0.01679101 0 0 1.306241 -0.9455459 0 0 0.9601256 -0.3422149 0 0 -0.144286 -0.7080437 0
        0 -0.5861523 -2.534454 0 0 -1.218032 6.432673 0 0 3.117406 3.966235 0 0 -0.698088
        6.387731 0 0 0.2779803 0.8088356 -0.4446821 0 0.5409777 0.7611321 0 0 -0.243274
        0.6986881 0 0 0.7465796 0.4751629 0 0 4.03748 -0.8678204 0 0 10.00658 -0.2497521 0 0
        0.1204053 -0.7979474 0 0 -0.7544238 -2.173491 0 0 -0.9323279 6.117329 0 0 1.513642
        -4.878494 0 0 -1.29749 19.07035 0 0 3.413449 0.7231686 -0.2652142 0 0.3309411 0.7528535
        0 0 -0.439379 0.7647878 0 0 0.6352087
        """,
    ),
    _Case(
        name="gaussian-ciou-left-top",
        kind="Gaussian_yolo",
        seen=0,
        options="""
        mask=0,2
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.05
        truth_thresh=0.08
        iou_loss=ciou
        iou_normalizer=0.5
        objectness_smooth=1
        yolo_point=left_top
        counters_per_class=10,40
        iou_thresh=0.2
        """,
        delta="""
        -1.662004 -0.4077403 0 -0.08505177 -0.839646 -0.2700596 0 -1.303394 -2.988348 0.9475635
        0 -0.6684616 -0.7436529 0.5633321 0 0.3396041 1.48039 0.02327399 0 -0.1701889 -0.1951678
        5.26188e-07 0 0.6061696 1.060624 0.04467262 0 0.621735 73.0699 0.003843989 0 -0.5658049
        0.8088356 0.5553179 -0.8175321 -0.4516726 3.244528 -0.6317731 0 -0.293274 0.7486881
        0.2385154 0 -0.1960706 -0.7247983 -0.9167325 0 0 -1.469147 -0.3637981 0 0 -0.744065
        0.5772634 0 0 -0.5620635 -0.9780703 0 0 0.5182728 0.1830248 0 0 8.739041 -1.600326 0 0
        0.395687 0.03995724 0 0 27.24335 86.25139 0 0 0.7231686 0.7347858 -0.7725611 -0.6690589
        3.211414 -0.4153047 0 0 0.8147878 0.3955033 0 0
        """,
    ),
    _Case(
        name="gaussian-giou-right-bottom",
        kind="Gaussian_yolo",
        seen=0,
        options="""
        mask=0,1
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.08
        iou_loss=giou
        iou_normalizer=0.5
        yolo_point=right_bottom
        max_delta=0.4
        iou_thresh=0.1
        iou_thresh_kind=diou
        """,
        delta="""
        0.6 0 0 0.2833545 -0.6 0 0 0.4 0.6 0 0 0.4 -0.6 0 0 -0.4 0.6 0 0 0.4 -0.4143257 0 0 0.4
        0.6 0 0 0.4 0.6 0 0 -0.4 0.8088356 -0.4446821 -0.8175321 0.5409777 0.8111321 0 0
        -0.293274 0.7486881 0 0 0.7965797 0.4947201 0 0 0.3474196 0.6 0 0 0.4 0.6 0 0 0.3357086
        -0.6 0 0 0.4 0.6 0 0 0.4 0.6 0 0 0.4 0.6 0 0 0.4 0.6 0 0 0.4 0.7231686 -0.2652142 0
        0.3309411 0.8028535 0 0 -0.489379 0.8147878 0 0 0.6852087
        """,
    ),
    _Case(
        name="region-warm-up",
        kind="region",
        seen=0,
        options="""
        anchors=0.6,0.7,1.1,0.9
        num=2
        classes=2
        softmax=1
        thresh=0.1
        coord_scale=2
        object_scale=5
        noobject_scale=0.5
        class_scale=3
        bias_match=1
        rescore=1
        """,
        delta="""
        -0.004305202 -0.0004806037 0.0004047747 0.1313142 -0.08610821 -0.0004279226 0.0004811236
        0.01452332 -2.551379 -0.001616305 0.01499662 -0.4496316 -3.191759 0.005963335 0.0128806
        -0.9525347 -0.6570423 -0.02062856 -0.03531564 -0.4712896 -2.04837 0 0 -1.71628 2.04837 0
        0 1.71628 0.0004624651 0.0004395472 -0.0004809409 -0.000330622 0.0004775233 0.0001366019
        -0.0004736733 0.0001017561 0.01457383 -0.005398307 -0.01318274 0.008795355 0.01091628
        -0.01160836 -0.007924932 0.01365053 -0.04664375 0 -0.06430801 0 0 0 0 0 0 0 0 0
        """,
    ),
    _Case(
        name="region-classfix-2",
        kind="region",
        seen=20000,
        options="""
        anchors=0.6,0.7,1.1,0.9
        num=2
        classes=2
        softmax=1
        thresh=0.1
        object_scale=5
        classfix=2
        focal_loss=1
        """,
        delta="""
        0 0 0 0.06565712 0 0 0 0.00726166 0 0 0 -0.2248158 0 0 0 -0.4762673 -0.1422851
        -0.04125711 -0.07063127 0.1593445 0 0 0 -0.2125017 0 0 0 0.2125017 0.06544221 0 0 0
        0.05084474 0 0 0 1.033569 0 0 0 0.6861628 0 0 0 0.7247729 0 -0.128616 0 -0.0496731
        -0.2016073 0 -0.01090557 0.04967311 0.2016073 0 0.01090557
        """,
    ),
    _Case(
        name="region-classfix-1",
        kind="region",
        seen=20000,
        options="""
        anchors=0.6,0.7,1.1,0.9
        num=2
        classes=2
        softmax=0
        thresh=0.2
        classfix=-1
        bias_match=0
        """,
        delta="""
        0 0 0 0.06565712 0 0 0 0.00726166 0 0 0 -0.2248158 0 0 0 -0.4762673 -0.1257203
        -0.03687526 -0.07063127 0.0318689 0 0 0 -1.487325 0 0 0 -0.1969281 0.06544221 0 0 0
        0.05084474 0 0 0 1.033569 0 0 0 0.6861628 0 0 0 0.1449546 -0.1059905 -0.1084432
        -0.003647583 -0.3252816 0 0 0 -0.00633204 0 0 0
        """,
    ),
    _Case(
        name="yolo-ciou-crowded",
        kind="yolo",
        seen=20000,
        logit=2.0,
        size=-40.0,
        options="""
        mask=1,2
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.07
        iou_loss=ciou
        iou_normalizer=0.5
        """,
        delta="""
        -0.03059671 0 0 0 -0.2747572 0 0 0 1.975072e-18 0 0 0 0.1106954 0 0 0 0.2594441
        -0.2317364 -0.3230016 0 0.119203 0 0 0 0.676659 0 0 0 0 0 0 -0.05637794 0 0 0
        -0.07518764 0 0 0 0.4409995 0 0 0 0.3014273 0 0 -0.5149227 0.8166796 0 0 0 -0.3050694 0
        0 0 0.6824263
        """,
    ),
    _Case(
        name="yolo-iou-crowded",
        kind="yolo",
        seen=20000,
        logit=20.0,
        size=-40.0,
        options="""
        mask=1,2
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.07
        iou_loss=iou
        iou_thresh=0.2
        objectness_smooth=1
        """,
        delta="""
        16.2758 0 0 1.144517 0 0 0 0 0 0 0 0.5112231 0 0 0 -1.290545 -0.7405559 -0.2317364
        -0.3230016 -0.5122483 0 0 0 -0.3655704 0.676659 0 0 0.6411381 2.986396 0 0 0 2.065767 0
        0 0 0.4987796 0 0 0.6623197 0.5593784 0 0 0.4515816 -0.2812045 -0.7208931 -0.5149227
        0.02365468 0 0 0 -0.3050694 0.6455114 0 0 0.6824263
        """,
    ),
    _Case(
        name="gaussian-iou-crowded",
        kind="Gaussian_yolo",
        seen=20000,
        logit=20.0,
        options="""
        mask=1,2
        anchors=12,15,28,20,30,44
        num=3
        classes=2
        ignore_thresh=0.07
        iou_loss=iou
        iou_normalizer=0.5
        """,
        delta="""
        0 0 0 0 -3.585606 0 0 0 -2.385298 0 0 0 -2.658944 0 0 0 -0.7352893 0 0 0 22.55184 0 0 0
        0.5943224 0 0 0 19.45142 0 0 0 0.8088356 -0.4446821 0 0 -1 0 0 0 0.6919311 0 0 0 0 0 0 0
        0 0 0 12.10919 0 0 0 0 0 0 0 -1.090564 0 0 0 -0.10653 0 0 0 2.162345 0 0 0 -0.07263409 0
        0 0 4.876356 -0.2768314 -0.2652142 0 0.3309411 0 0 0 -0.3308708 0 0 0 0.6852018
        """,
    ),
    _Case(
        name="region-crowded",
        kind="region",
        seen=20000,
        logit=20.0,
        options="""
        anchors=0.6,0.7,1.1,0.9
        num=2
        classes=2
        thresh=0.1
        bias_match=1
        """,
        delta="""
        -0.01643921 0 0 0.06565712 -0.05433309 0 0 0.00726166 -1.221622 0 0 -0.2248158 -1.629781
        0 0 -0.4762673 0.04984773 -0.04125711 -0.07063127 0.0318689 -20 0 0 0.5512675 1.73846 0
        0 1.580307 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 -0.09328751 0 -0.128616 0 0 0 0 0 0 0 0 0
        """,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_small_cases_of_every_head(case: _Case) -> None:
    head = case.head()
    parts, delta = _parts_and_delta(head, case.raw(), case.truth(), case.seen)
    torch.testing.assert_close(delta, case.expected(), rtol=1e-4, atol=1e-6)
    assert float(parts.total) == pytest.approx(case.expected().square().sum().item(), rel=1e-5)
    by_entry = case.expected().view(2, head.entries, 4).square().sum((0, 2))
    at = head.box_entries
    assert float(parts.box) == pytest.approx(by_entry[:at].sum().item(), rel=1e-5)
    assert float(parts.obj) == pytest.approx(by_entry[at].item(), rel=1e-5)
    assert float(parts.cls) == pytest.approx(by_entry[at + 1 :].sum().item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------
# Boxes, in closed form


def test_iou_of_boxes_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[1.0, 0.0, 2.0, 2.0], [3.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(box_iou(a, b), torch.tensor([1 / 3, 0.0, 0.0]))


def test_iou_of_shapes_by_hand() -> None:
    a, b = torch.tensor([2.0, 4.0]), torch.tensor([4.0, 2.0])
    iou = 4 / 12
    aspect = 4 / np.pi**2 * (np.arctan(2) - np.arctan(0.5)) ** 2
    expected = {
        "iou": iou,
        "giou": iou - (16 - 12) / 16,
        "diou": iou,
        "ciou": iou - aspect**2 / (1 - iou + aspect + 1e-6),
    }
    for kind, value in expected.items():
        assert float(shape_iou(a, b, kind)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_iou_delta_is_the_gradient_but_for_a_factor_of_two_in_sizes(kind: str) -> None:
    pred = torch.tensor([[0.50, 0.52, 0.30, 0.40], [0.44, 0.47, 0.12, 0.33]], dtype=torch.float64)
    truth = torch.tensor([[0.45, 0.50, 0.25, 0.50], [0.45, 0.50, 0.25, 0.20]], dtype=torch.float64)
    pred.requires_grad_()
    low, high = pred[:, :2] - pred[:, 2:] / 2, pred[:, :2] + pred[:, 2:] / 2
    t_low, t_high = truth[:, :2] - truth[:, 2:] / 2, truth[:, :2] + truth[:, 2:] / 2
    hull = torch.maximum(high, t_high) - torch.minimum(low, t_low)
    inter = (torch.minimum(high, t_high) - torch.maximum(low, t_low)).prod(1)
    union = pred[:, 2:].prod(1) + truth[:, 2:].prod(1) - inter
    value = inter / union
    if kind == "giou":
        value = value + union / hull.prod(1)
    gradient = torch.autograd.grad(value.sum(), pred, retain_graph=True)[0]
    gradient[:, 2:] *= 2
    if kind == "diou":  # Darknet has the sign of the hull's part wrong for centres
        distance = (pred[:, :2] - truth[:, :2]).square().sum(1)
        diagonal = hull.square().sum(1)
        near = torch.autograd.grad((-distance / diagonal.detach()).sum(), pred, retain_graph=True)
        wide = torch.autograd.grad((-distance.detach() / diagonal).sum(), pred)
        gradient += near[0] + wide[0] * torch.tensor([-1, -1, 1, 1])
    torch.testing.assert_close(iou_delta(pred.detach(), truth, kind), gradient)


def test_best_truth_is_the_same_however_many_are_compared_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boxes, truth = torch.rand(2, 4, 30), torch.rand(2, 9, 5)
    whole = best_truth(boxes, truth)
    monkeypatch.setattr("yoloprune.darknet.boxes.PAIRS_AT_ONCE", 120)
    parts = best_truth(boxes, truth)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
    for image in range(2):
        for n in range(30):
            ious = box_iou(boxes[image, :, n], truth[image, :, :4])
            assert whole[0][image, n] == ious.max()
            assert whole[0][image, n] == 0 or whole[1][image, n] == ious.argmax()


# ---------------------------------------------------------------------------------------------
# What must hold for any input

HEADS = {case.kind: case for case in CASES if case.logit is None}


def _any_head(kind: str) -> Any:
    return HEADS[kind].head()


@pytest.mark.parametrize("kind", HEADS)
def test_images_do_not_touch_each_other(kind: str) -> None:
    head = _any_head(kind)
    raw = torch.randn(3, head.channels, 4, 4)
    truth = torch.zeros(3, 5, 5)
    truth[0, :4] = TRUTH[0]
    truth[2, :1] = TRUTH[0, 2]
    parts, delta = _parts_and_delta(head, raw, truth)
    alone = [_parts_and_delta(head, raw[i : i + 1], truth[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(delta, torch.cat([d for _, d in alone]))
    assert float(parts.total) == pytest.approx(sum(float(p.total) for p, _ in alone), rel=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_padding_and_unknown_classes_change_nothing(kind: str) -> None:
    head = _any_head(kind)
    raw = torch.randn(1, head.channels, 3, 5)
    expected = _parts_and_delta(head, raw, TRUTH)[1]
    strangers = torch.tensor([[[0.5, 0.5, 0.2, 0.2, 2], [0.5, 0.5, 0.2, 0.2, -1]]])
    more = torch.cat((torch.zeros(1, 3, 5), strangers, TRUTH, torch.zeros(1, 2, 5)), dim=1)
    assert torch.equal(_parts_and_delta(head, raw, more)[1], expected)


@pytest.mark.parametrize("kind", HEADS)
def test_without_truths_only_objectness_is_taught(kind: str) -> None:
    head = _any_head(kind)
    raw = torch.randn(2, head.channels, 3, 3)
    for truth in (torch.zeros(2, 0, 5), torch.zeros(2, 3, 5)):
        parts, delta = _parts_and_delta(head, raw, truth)
        assert float(parts.box) == float(parts.cls) == 0 < float(parts.obj)
        entries = delta.view(2, 2, head.entries, 9)
        at = head.box_entries
        assert (entries[:, :, at] < 0).all()
        assert not entries[:, :, :at].any() and not entries[:, :, at + 1 :].any()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("size", [30.0, 100.0, 1e4, 1e30])
def test_huge_logits_stay_finite(kind: str, size: float) -> None:
    for case in CASES:
        if case.kind == kind:
            head = case.head()
            raw = torch.randn(4, head.channels, 4, 4).sign() * size
            parts, delta = _parts_and_delta(head, raw, TRUTH.expand(4, -1, -1))
            assert delta.isfinite().all() and parts.total.isfinite()


def test_nan_is_not_hidden() -> None:
    head = _any_head("yolo")
    raw = torch.randn(1, head.channels, 4, 4)
    raw[0, 4] = float("nan")
    assert _parts_and_delta(head, raw, TRUTH)[0].total.isnan()


@pytest.mark.parametrize("kind", HEADS)
def test_truths_on_the_border_are_taught(kind: str) -> None:
    head = _any_head(kind)
    truth = torch.tensor([[[1.0, 1.0, 0.4, 0.4, 1], [0.0, 1.0, 0.4, 0.4, 0]]])
    parts, _ = _parts_and_delta(head, torch.randn(1, head.channels, 4, 4), truth)
    assert float(parts.box) > 0 and parts.total.isfinite()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 4),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    truths=st.integers(0, 6),
    case=st.sampled_from(CASES),
)
def test_any_shape_of_batch(
    seed: int, images: int, rows: int, columns: int, truths: int, case: _Case
) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = case.head()
    raw = 3 * torch.randn(images, head.channels, rows, columns, generator=generator)
    truth = torch.rand(images, truths, 5, generator=generator)
    truth[..., 4] = (truth[..., 4] * 3).floor()
    parts, delta = _parts_and_delta(head, raw, truth, case.seen)
    assert delta.isfinite().all()
    assert float(parts.total) == pytest.approx(float(delta.square().sum()), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_input_is_computed_in_float32(dtype: torch.dtype) -> None:
    head = _any_head("yolo")
    raw = torch.randn(1, head.channels, 4, 4).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = darknet_loss(head, raw, TRUTH)
    parts.total.backward()
    assert parts.total.dtype == torch.float32 and raw.grad is not None
    expected, delta = _parts_and_delta(head, raw.float(), TRUTH)
    assert torch.equal(parts.total.detach(), expected.total)
    assert torch.equal(raw.grad, -delta.to(dtype))


def test_gradient_scales_with_each_part() -> None:
    head = CASES[0].head()
    raw = _wave(1, head.channels, 2, 2).requires_grad_()
    parts = darknet_loss(head, raw, TRUTH)
    (0.5 * parts.box + 2 * parts.obj + 0 * parts.cls).backward()
    weights = torch.tensor([0.5] * 4 + [2.0] + [0.0] * 2).view(1, 1, 7, 1, 1)
    delta = CASES[0].expected().view(1, 2, 7, 2, 2)
    assert raw.grad is not None
    torch.testing.assert_close(-raw.grad.view_as(delta), delta * weights, rtol=1e-4, atol=1e-6)


def test_gpu_normalizer_weighs_everything() -> None:
    plain = CASES[0].head()
    scaled = _head("yolo", "\n".join([*CASES[0].options.split(), "delta_normalizer=0.25"]))
    raw = _wave(1, plain.channels, 2, 2)
    expected = 0.25 * _parts_and_delta(plain, raw, TRUTH)[1]
    torch.testing.assert_close(_parts_and_delta(scaled, raw, TRUTH)[1], expected)


# ---------------------------------------------------------------------------------------------
# The criterion


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = CASES[0].head(), CASES[1].head()


def _batch() -> dict[str, Tensor]:
    """Three images with 3, 0 and 1 labels, out of order."""
    order = torch.tensor([2, 0, 3, 1])
    labels = TRUTH[0][order]
    return {
        "batch_idx": torch.tensor([0.0, 0.0, 2.0, 0.0]),
        "cls": labels[:, 4:],
        "bboxes": labels[:, :4],
        "img": torch.zeros(3, 3, 64, 64),
    }


def test_labels_are_sorted_to_their_images() -> None:
    truth = pad_truth(_batch(), 3)
    assert truth.shape == (3, 3, 5)
    assert torch.equal(truth[0], TRUTH[0][[2, 0, 1]])
    assert torch.equal(truth[2, 0], TRUTH[0][3])
    assert not truth[1].any() and not truth[2, 1:].any()


def test_no_labels_at_all() -> None:
    empty = {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    assert pad_truth(empty, 2).shape == (2, 0, 5)
    model = _Two()
    preds = [torch.randn(2, model.first.channels, 2, 2, requires_grad=True) for _ in range(2)]
    loss, items = DarknetLoss(model)(preds, empty)
    assert loss[1] > 0 and items["box_loss"] == items["cls_loss"] == 0
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in preds)


def test_criterion_returns_what_ultralytics_does() -> None:
    model = _Two()
    raws = [torch.randn(3, model.first.channels, n, n, requires_grad=True) for n in (2, 4)]
    loss, items = DarknetLoss(model)(raws, _batch())
    assert loss.shape == (3,) and loss.requires_grad
    assert list(items) == ["box_loss", "obj_loss", "cls_loss"]
    assert all(v.ndim == 0 and not v.requires_grad for v in items.values())
    torch.testing.assert_close(torch.stack(list(items.values())) * 3, loss.detach())
    loss.sum().backward()
    truth = pad_truth(_batch(), 3)
    for head, raw in zip((model.first, model.second), raws, strict=True):
        torch.testing.assert_close(raw.grad, -_parts_and_delta(head, raw, truth)[1])
    expected = [
        _parts_and_delta(h, r, truth)[0] for h, r in zip(model.children(), raws, strict=True)
    ]
    torch.testing.assert_close(loss[0].detach(), expected[0].box + expected[1].box)


def test_region_warm_up_ends_after_12800_images() -> None:
    model = nn.Sequential(_any_head("region"))
    head: Any = model[0]
    criterion = DarknetLoss(model, seen=12800 - 3)
    raw = torch.randn(3, head.channels, 2, 2)
    with torch.no_grad():
        criterion([raw], _batch())
    assert criterion.seen == 12800 - 3  # validation is no training
    first = criterion([raw], _batch())[0]
    second = criterion([raw], _batch())[0]
    assert criterion.seen == 12800 + 3
    assert (first[0] > second[0]).item()  # boxes of empty cells are no longer pulled


def test_a_few_steps_of_descent_find_the_truth() -> None:
    options = "mask=0\nanchors=24,24\nnum=1\nclasses=2\niou_loss=ciou\niou_normalizer=0.02"
    head = _head("yolo", options, stride=16)
    raw = torch.zeros(1, head.channels, 4, 4, requires_grad=True)
    truth = torch.tensor([[[0.40, 0.60, 0.30, 0.50, 1.0]]])
    optimizer = torch.optim.SGD([raw], lr=0.5)
    for _ in range(150):
        optimizer.zero_grad()
        darknet_loss(head, raw, truth).total.backward()
        optimizer.step()
    decoded = head.eval()(raw.detach())[0]
    scores, best = decoded[4:].max(dim=1)
    assert int(scores.argmax()) == 1 and float(scores[1]) > 0.9
    assert (decoded[4:].amax(0) > 0.5).sum() == 1
    found = decoded[:4, best[1]] / 64
    assert float(box_iou(found, truth[0, 0, :4])) > 0.85
