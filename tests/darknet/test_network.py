"""Whole networks against OpenCV's Darknet importer, and what Ultralytics asks of a model."""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import darknet_nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yoloprune.darknet.cfg import Cfg, Section, cfg_bytes, parse_cfg, read_cfg
from yoloprune.darknet.heads import DetectionHead
from yoloprune.darknet.network import (
    DarknetModel,
    class_names,
    current_cfg,
    load_weights,
    with_classes,
)
from yoloprune.errors import CfgError

REPO = Path(__file__).resolve().parents[2]
DATA = REPO.parent / "shared"
CFGS = {
    path.stem: path
    for path in sorted([*(DATA / "darknet-cfg").glob("*.cfg"), *(DATA / "weights").glob("*.cfg")])
}
FAST = ("yolov4-tiny", "yolov2-tiny", "yolov3-tiny_3l", "yolo-fastest-1.1")
STRIDE_64 = ("yolov4-p6", "cspx-p7-mish")
# Each with the line and section that cannot be slimmed, nor run by OpenCV.
REFUSED = {
    "tiny-yolo_xnor": "tiny-yolo_xnor.cfg:34 [convolutional] #2: xnor=1 is not supported.",
    "yolov3-tiny_xnor": "yolov3-tiny_xnor.cfg:38 [convolutional] #2: xnor=1 is not supported.",
}
# What OpenCV refuses, and how its cfg must read so that the same numbers enter the heads.
ADAPTED = {
    "cspx-p7-mish": {"num=16": "num=20"},  # lists 20 anchors; OpenCV counts them
    "Gaussian_yolov3_BDD": {"Gaussian_yolo": "yolo", "classes=10": "classes=14"},  # 9+10 = 5+14
}
BEYOND_OPENCV = ("yolov4-sam-mish-csp-reorg-bfm",)  # [reorg3d]


def slow_but(*fast: str, names: Any = None) -> list[Any]:
    """All networks, the big ones of which take seconds each."""
    return [
        pytest.param(name, marks=() if name in fast else pytest.mark.slow)
        for name in (CFGS if names is None else names)
    ]


def for_opencv(cfg: Cfg, name: str) -> Cfg:
    text = cfg.text
    for old, new in ADAPTED.get(name, {}).items():
        assert old in text
        text = text.replace(old, new)
    return parse_cfg(text)


@pytest.mark.parametrize(
    "name", slow_but(*FAST, names=sorted(CFGS.keys() - REFUSED - {*BEYOND_OPENCV}))
)
def test_raw_outputs_equal_opencvs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLOPRUNE_MAX_MEMORY", "16G")  # cspx-p7-mish at its own 1536 px
    model = darknet_nets.build(read_cfg(CFGS[name]))
    net = darknet_nets.load_in_opencv(model, for_opencv(model.cfg, name), tmp_path)
    size = 128 if name in STRIDE_64 else 96
    x = torch.rand(1, 3, size, size)
    with torch.no_grad():
        raw = model(x)[1]
    theirs = darknet_nets.opencv_raw(net, model.heads, x)
    assert min(float(y.std()) for y in theirs) > 0.01  # they are not all alike
    assert darknet_nets.worst_difference(raw, theirs) < 1e-4


@pytest.mark.skipif(not CFGS, reason="needs shared/ beside the repository")
def test_no_cfg_is_left_out() -> None:
    """38 cfgs, two of Yolo-Fastest and YOLOv5n: equal to OpenCV, run, or refused by section."""
    assert len(CFGS) == 41
    assert {*ADAPTED, *REFUSED, *BEYOND_OPENCV, *FAST, *STRIDE_64} <= CFGS.keys()


@pytest.mark.parametrize("name", [n for n in REFUSED if n in CFGS])
def test_what_cannot_be_is_refused_by_section_and_line(name: str) -> None:
    with pytest.raises(CfgError, match=f"^{re.escape(REFUSED[name])}$"):
        DarknetModel(read_cfg(CFGS[name]))
    lines = CFGS[name].read_text().splitlines()
    assert lines[int(REFUSED[name].split(":")[1].split()[0]) - 1].strip() == "xnor=1"


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in BEYOND_OPENCV if n in CFGS])
def test_what_opencv_refuses_runs(name: str, tmp_path: Path) -> None:
    model = darknet_nets.build(read_cfg(CFGS[name]))
    with pytest.raises(cv2.error, match="reorg3d"):
        darknet_nets.load_in_opencv(model, model.cfg, tmp_path)
    with torch.no_grad():
        boxes, raw = model(torch.rand(1, 3, 64, 64))
    assert bool(torch.isfinite(boxes).all())
    assert boxes.shape == (1, 4 + model.nc, sum(3 * y.shape[2] * y.shape[3] for y in raw))


def test_tiny_network_equals_opencv(tmp_path: Path) -> None:
    """The tests' own, which needs no data: groups, depthwise, shortcut, upsample, two heads."""
    model = darknet_nets.build(darknet_nets.TINY)
    net = darknet_nets.load_in_opencv(model, model.cfg, tmp_path)
    x = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        raw = model(x)[1]
    assert [tuple(y.shape) for y in raw] == [(1, 14, 8, 16), (1, 7, 4, 8)]
    assert darknet_nets.worst_difference(raw, darknet_nets.opencv_raw(net, model.heads, x)) < 1e-5


# --- decoded boxes ------------------------------------------------------------------------------


def opencv_boxes(model: DarknetModel, x: torch.Tensor, folder: Path) -> np.ndarray[Any, Any]:
    """OpenCV's own region layers, ordered as ours: ``[4 + classes, N]``, boxes in pixels."""
    layers = tuple(
        s.with_options({"thresh": 0.00001}) if s.kind in ("yolo", "region") else s
        for s in model.cfg.layers
    )
    net = darknet_nets.load_in_opencv(model, model.cfg.with_layers(layers), folder)
    names = list(net.getLayerNames())
    net.setInput(x.numpy())
    # the head follows its permutation
    outputs = net.forward([names[names.index(f"permute_{i}") + 1] for i in model.heads])
    columns = []
    for index, rows in zip(model.heads, outputs, strict=True):
        head: Any = model.model[index]
        cells = rows.reshape(-1, head.num_anchors, 5 + model.nc)  # OpenCV: anchors innermost
        cells = cells.transpose(2, 1, 0).reshape(5 + model.nc, -1)
        scale = np.array([x.shape[3], x.shape[2]] * 2)[:, None]
        columns.append(np.concatenate((cells[:4] * scale, cells[5:])))
    return np.concatenate(columns, 1)


def check_boxes(model: DarknetModel, x: torch.Tensor, folder: Path, rtol: float = 2e-4) -> None:
    with torch.no_grad():
        ours = model(x)[0][0].numpy()
    theirs = opencv_boxes(model, x, folder)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[:4], theirs[:4], rtol=rtol, atol=0.02)
    shown = theirs[4:] > 0  # what is below the threshold is given as 0
    assert shown.mean() > 0.01
    np.testing.assert_allclose(ours[4:][shown], theirs[4:][shown], atol=5 * rtol)
    floor = 1e-3 if model.cfg.layers[-1].kind == "region" else 1e-5  # OpenCV's for [region]
    assert float(ours[4:][~shown].max(initial=0)) <= 1.01 * floor


@pytest.mark.parametrize(
    "name", slow_but("yolo-fastest-1.1", names=["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
)
def test_boxes_of_real_weights_equal_opencvs(name: str, shared: Path, tmp_path: Path) -> None:
    model = DarknetModel(read_cfg(shared / "weights" / f"{name}.cfg")).eval()
    load_weights(model, shared / "weights" / f"{name}.weights")
    picture = cv2.imread(str(shared / "data" / "dog.jpg"))
    blob = cv2.dnn.blobFromImage(picture, 1 / 255, (320, 320), swapRB=True)
    # its float32 is coarse where variances are tiny, and exp() widens that
    check_boxes(model, torch.from_numpy(blob), tmp_path, rtol=2e-3)


# OpenCV's region layer turns round the new coordinates, scale_x_y and softmax as Darknet does.
@pytest.mark.parametrize(
    "name", slow_but("yolov4-tiny", names=["yolov4-tiny", "yolov4-csp", "yolov2-tiny-voc"])
)
def test_boxes_of_random_weights_equal_opencvs(name: str, shared: Path, tmp_path: Path) -> None:
    model = darknet_nets.build(read_cfg(shared / "darknet-cfg" / f"{name}.cfg"))
    height, width = model.net_size  # OpenCV takes its grid's stride from the cfg
    check_boxes(model, torch.rand(1, 3, height, width), tmp_path)


def test_boxes_of_a_net_that_is_not_square(tmp_path: Path) -> None:
    check_boxes(darknet_nets.build(darknet_nets.TINY), torch.rand(1, 3, 32, 64), tmp_path)


DOG = {1: 0.90, 16: 0.93, 2: 0.80, 7: 0.46, 15: 0.35}  # bicycle, dog, car, truck, cat


def test_darknets_five_boxes_on_its_dog(shared: Path) -> None:
    """What ``darknet detector test`` prints for Yolo-Fastest-1.1-xl, within two points."""
    from yoloprune.measure.detect import DetectOptions, detect

    model = DarknetModel(read_cfg(shared / "weights" / "yolo-fastest-1.1-xl.cfg")).eval()
    load_weights(model, shared / "weights" / "yolo-fastest-1.1-xl.weights")
    options = DetectOptions(
        imgsz=model.net_size, conf=0.25, resize="darknet", workers=0, progress=False
    )
    (found,) = detect(model, [shared / "data" / "dog.jpg"], options)
    seen = dict(zip(found.classes.tolist(), found.scores.tolist(), strict=True))
    assert len(found.classes) == 5
    assert seen == pytest.approx(DOG, abs=0.02)
    assert [model.names[i] for i in DOG] == ["bicycle", "dog", "car", "truck", "cat"]


# --- the model ----------------------------------------------------------------------------------


@pytest.fixture
def tiny() -> DarknetModel:
    return darknet_nets.build(darknet_nets.TINY)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 3, 32, 64)


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        boxes, raw = model(x)
    return [boxes, *raw]


def same(a: list[torch.Tensor], b: list[torch.Tensor], **tolerance: float) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0.0, "atol": 0.0}))


def test_outputs_in_both_modes(tiny: DarknetModel, x: torch.Tensor) -> None:
    boxes, raw = tiny(x)
    assert boxes.shape == (2, 4 + 2, 2 * 8 * 16 + 1 * 4 * 8)
    assert bool((boxes[:, 2:4] > 0).all())
    assert bool(((boxes[:, 4:] >= 0) & (boxes[:, 4:] <= 1)).all())
    assert [tuple(y.shape) for y in raw] == [(2, 14, 8, 16), (2, 7, 4, 8)]
    tiny.export = True
    assert torch.equal(tiny(x), boxes)
    tiny.export = False
    tiny.train()
    trained = tiny(x)
    assert isinstance(trained, list)
    assert [y.shape for y in trained] == [y.shape for y in raw]
    assert all(y.requires_grad for y in trained)


def test_another_input_size(tiny: DarknetModel) -> None:
    assert tiny(torch.rand(1, 3, 96, 32))[0].shape == (1, 6, 2 * 24 * 8 + 12 * 4)


def test_deepcopy_and_pickle(tiny: DarknetModel, x: torch.Tensor) -> None:
    tiny(x)
    expected = outputs(tiny, x)
    for again in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert isinstance(again, DarknetModel)
        same(outputs(again, x), expected)
        assert cfg_bytes(again.cfg) == cfg_bytes(tiny.cfg)
        assert [layer.f for layer in again.model] == [layer.f for layer in tiny.model]
        next(again.parameters()).data.zero_()
    same(outputs(tiny, x), expected)  # nothing is shared


def test_fusing_keeps_the_outputs(tiny: DarknetModel, x: torch.Tensor) -> None:
    expected = outputs(tiny, x)
    fused = copy.deepcopy(tiny).fuse(verbose=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert fused.is_fused() and not tiny.is_fused()
    same(outputs(fused, x), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_stays_finite_and_near(tiny: DarknetModel, x: torch.Tensor) -> None:
    expected = outputs(tiny, x)
    halved = copy.deepcopy(tiny).half()
    got = outputs(halved, x.half())
    assert all(bool(torch.isfinite(y).all()) for y in got)
    assert halved.model[10].anchors.dtype == torch.float32
    same([y.float() for y in got], expected, rtol=0.05, atol=0.05)


def test_what_ultralytics_asks_for(tiny: DarknetModel, x: torch.Tensor) -> None:
    from ultralytics.nn.autobackend import AutoBackend
    from ultralytics.nn.tasks import BaseModel, DetectionModel
    from ultralytics.utils.torch_utils import ModelEMA

    assert isinstance(tiny, DetectionModel) and isinstance(tiny, BaseModel)
    assert tiny.task == "detect" and tiny.nc == 2 and tiny.names == {0: "0", 1: "1"}
    assert tiny.stride.tolist() == [4.0, 8.0]
    assert tiny.yaml["nc"] == 2 and tiny.yaml["channels"] == 3
    assert not getattr(tiny, "end2end", False)
    for number, (layer, section) in enumerate(zip(tiny.model, tiny.cfg.layers, strict=True)):
        assert (layer.i, layer.type) == (number, section.kind)
        assert layer.np == sum(p.numel() for p in layer.parameters())
    assert [layer.f for layer in tiny.model][:5] == [-1, -1, [1], -1, [3, 1]]
    assert tiny.model[8].f == [7, 1] and tiny.model[11].f == [7, 4]
    assert set(tiny.save) >= {1, 4, 7}
    tiny.set_head_attr(nothing_of_ours=1)
    assert not hasattr(tiny.model[10], "nothing_of_ours")

    expected = outputs(tiny, x)[0]
    ema = ModelEMA(tiny)
    ema.update(tiny)
    torch.testing.assert_close(outputs(ema.ema, x)[0], expected, rtol=1e-4, atol=1e-4)
    backend = AutoBackend(copy.deepcopy(tiny), fuse=True, verbose=False)
    seen = backend(x)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_loss_of_a_batch(training: bool, tiny: DarknetModel, x: torch.Tensor) -> None:
    batch = {
        "img": x,
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.3, 0.6, 0.4, 0.4]]),
    }
    tiny.train(training)
    loss, items = tiny(batch)
    assert bool(torch.isfinite(loss).all()) and loss.sum() > 0
    assert items.keys() == {"box_loss", "obj_loss", "cls_loss"}
    assert sum(float(v) for v in items.values()) * len(x) == pytest.approx(
        float(loss.sum().detach())
    )
    again = tiny.loss(batch, tiny(x))[1]
    assert {k: float(v) for k, v in again.items()} == pytest.approx(
        {k: float(v) for k, v in items.items()}, rel=1e-3
    )
    if training:
        loss.sum().backward()
        assert all(p.grad is not None for p in tiny.parameters())


@pytest.mark.slow
def test_onnx_runtime_agrees(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = darknet_nets.build(read_cfg(REPO / "cfg" / "yoloprune-demo.cfg"))
    x = torch.rand(1, 3, 160, 160)
    expected = outputs(model, x)[0].numpy()
    model.export = True
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(model, (x,), buffer, opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_fresh_networks_expect_few_objects(tiny: DarknetModel) -> None:
    model = DarknetModel(tiny.cfg)
    for index in model.heads:
        head: Any = model.model[index]
        bias = model.model[index - 1].conv.bias.view(head.num_anchors, head.entries)
        np.testing.assert_allclose(torch.sigmoid(bias[:, 4]).detach(), 0.01, rtol=1e-5)
        assert float((torch.sigmoid(bias[:, 5:]) - 0.5).detach().abs().max()) < 0.2


def test_letter_box_is_read(tiny: DarknetModel) -> None:
    assert tiny.letterbox is False
    assert DarknetModel(tiny.cfg.with_net({"letter_box": 1})).letterbox is True


def test_class_names() -> None:
    assert class_names(3) == {0: "0", 1: "1", 2: "2"}
    assert (class_names(80)[0], class_names(80)[79]) == ("person", "toothbrush")
    assert (class_names(20)[0], class_names(20)[19]) == ("aeroplane", "tvmonitor")


# --- cfgs that follow the model -----------------------------------------------------------------


def test_current_cfg_of_an_unchanged_model_is_its_cfg(tiny: DarknetModel) -> None:
    assert current_cfg(tiny).text == darknet_nets.TINY


def test_current_cfg_follows_the_modules(tiny: DarknetModel, tmp_path: Path) -> None:
    """As a cut leaves it: fewer filters, and fewer groups of a depthwise conv."""
    wide: Any = tiny.model
    wide[1].conv = nn.Conv2d(8, 10, 3, 2, 1, bias=False)
    wide[1].bn = nn.BatchNorm2d(10)
    wide[3].conv = nn.Conv2d(5, 5, 3, 1, 1, groups=5, bias=False)
    wide[3].bn = nn.BatchNorm2d(5)
    text = current_cfg(tiny).text.splitlines()
    changed = {(a, b) for a, b in zip(darknet_nets.TINY.splitlines(), text, strict=True) if a != b}
    assert changed == {
        ("filters=12", "filters=10"),
        ("filters=6", "filters=5"),
        ("groups=6", "groups=5"),
    }


def filters_before_heads(cfg: Cfg) -> list[int]:
    return [
        cfg.layers[s.index - 1].get_int("filters")
        for s in cfg.layers
        if s.kind in ("yolo", "Gaussian_yolo", "region")
    ]


def test_with_classes(tiny: DarknetModel) -> None:
    cfg = with_classes(tiny.cfg, 7)
    assert filters_before_heads(cfg) == [2 * 12, 1 * 12]
    model = DarknetModel(cfg)
    assert model.nc == 7
    assert cfg.text.replace("filters=24", "filters=14").replace("filters=12\nsize=1\nstride=1\n"
        "activation=linear", "filters=7\nsize=1\nstride=1\nactivation=linear"
    ).replace("classes=7", "classes=2") == darknet_nets.TINY  # fmt: skip
    assert tiny.cfg.text == darknet_nets.TINY


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("[yolo]\nclasses=2\nnum=3\nanchors=1,2,3,4,5,6\n", 3 * 9),  # no mask: all anchors
        ("[yolo]\nclasses=2\nnum=3\nmask=1\nanchors=1,2,3,4,5,6\ncounters_per_class=5,6\n", 9),
        ("[Gaussian_yolo]\nclasses=2\nnum=2\nmask=0,1\nanchors=1,2,3,4\n", 2 * 13),
        ("[region]\nclasses=2\nnum=2\nanchors=1,2,3,4\n", 2 * 9),
    ],
)
def test_with_classes_of_other_heads(head: str, expected: int) -> None:
    text = f"[net]\nwidth=32\nheight=32\nchannels=3\n[conv]\nfilters=1\nactivation=linear\n{head}"
    cfg = with_classes(parse_cfg(text), 4)
    assert filters_before_heads(cfg) == [expected]
    assert DarknetModel(cfg).nc == 4


def test_with_classes_needs_a_conv_before_the_head() -> None:
    start = "[net]\nwidth=32\nheight=32\nchannels=3\n"
    head = "[yolo]\nmask=0\nanchors=8,8\nclasses=1\n"
    for between, found in (("", "net"), ("[conv]\nfilters=6\n[dropout]\n", "dropout")):
        with pytest.raises(CfgError, match=rf"follows \[{found}\], expected \[convolutional\]"):
            with_classes(parse_cfg(start + between + head), 3)


# --- networks that cannot be --------------------------------------------------------------------


def edited(edit: Callable[[Section], Section | None]) -> Cfg:
    cfg = parse_cfg(darknet_nets.TINY, "n.cfg")
    layers = [edit(section) for section in cfg.layers]
    return cfg.with_layers(tuple(section for section in layers if section is not None))


def test_no_head() -> None:
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n[conv]\n"
    with pytest.raises(
        CfgError, match=r"^n\.cfg: has no \[yolo\], \[Gaussian_yolo\] or \[region\]"
    ):
        DarknetModel(parse_cfg(text, "n.cfg"))


def test_heads_that_differ_in_classes() -> None:
    def edit(section: Section) -> Section:
        if section.index == 13:
            return section.with_options({"filters": 8})
        return section.with_options({"classes": 3}) if section.index == 14 else section

    with pytest.raises(CfgError, match=r"^n\.cfg: its heads differ in classes, got \[2, 3\]\."):
        DarknetModel(edited(edit))


def test_a_head_that_something_reads() -> None:
    with pytest.raises(CfgError, match=r"\[route\] #11: reads #10, a detection layer"):
        DarknetModel(edited(lambda s: s.with_options({"layers": -1}) if s.index == 11 else s))
    with pytest.raises(CfgError, match=r"\[maxpool\] #11: reads #10, a detection layer"):
        DarknetModel(edited(lambda s: None if s.index == 11 else s))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("height=32\nchannels=3\n", r"^n\.cfg:1 \[net\]: width= is missing\."),
        ("width=32\nheight=32\n", r"^n\.cfg:1 \[net\]: channels= is missing\."),
        ("width=0\nheight=32\nchannels=3\n", r"^n\.cfg:2 \[net\]: width must be in 8\.\.16384"),
        ("width=32\nheight=99999\nchannels=3\n", r"height must be in 8\.\.16384, got 99999"),
        ("width=32\nheight=32\nchannels=0\n", r"channels must be in 1\.\.65536, got 0"),
        ("width=32\nheight=32\nchannels=1\n", r"n\.cfg:4 \[net\]: channels must be 3, got 1: pict"),
        ("width=36\nheight=36\nchannels=3\n", r"does not divide the input 3x36x36"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be(net: str, message: str) -> None:
    body = (
        "[conv]\nsize=3\nstride=2\npad=1\n[conv]\nsize=3\nstride=2\npad=1\n"
        "[conv]\nfilters=6\nsize=3\nstride=2\npad=1\n[yolo]\nmask=0\nanchors=8,8\nclasses=1\n"
    )
    with pytest.raises(CfgError, match=message):
        DarknetModel(parse_cfg(f"[net]\n{net}{body}", "n.cfg"))


def test_a_network_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yoloprune.darknet.network.MAX_WEIGHTS", 400)
    with pytest.raises(CfgError, match=r"#1: brings the network to more than 400 weights\."):
        DarknetModel(parse_cfg(darknet_nets.TINY, "n.cfg"))


VALUES = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "999",
    "2147483648",
    "abc",
    "",
    "1.5",
    "1,2",
    "-1,-2",
    "softmax",
]
LINES = ["groups=2", "dilation=2", "padding=1", "stride_x=2", "weights_type=per_feature", "from=-1"]
LINES += [
    "[route]",
    "[shortcut]",
    "[reorg3d]",
    "[avgpool]",
    "[sam]",
    "[region]",
    "[net]",
    "layers=1",
]
edits = st.tuples(
    st.sampled_from(["delete", "value", "insert", "character"]),
    st.integers(0, darknet_nets.TINY.count("\n") - 1),
    st.sampled_from(VALUES),
    st.sampled_from(LINES),
    st.characters(blacklist_categories=["Cs"]),
)


def damaged(changes: list[tuple[str, int, str, str, str]]) -> str:
    lines = darknet_nets.TINY.splitlines()
    for kind, at, value, line, character in changes:
        at %= len(lines)
        if kind == "delete":
            del lines[at]
        elif kind == "insert":
            lines.insert(at, line)
        elif kind == "value":
            lines[at] = lines[at].partition("=")[0] + "=" + value
        else:
            lines[at] = character + lines[at][1:]
    return "\n".join(lines)


@settings(deadline=None, max_examples=150)
@given(st.lists(edits, min_size=1, max_size=4))
def test_damaged_cfgs_run_or_are_refused_in_one_line(
    changes: list[tuple[str, int, str, str, str]],
) -> None:
    try:
        model = DarknetModel(parse_cfg(damaged(changes), "n.cfg")).eval()
    except CfgError as exc:
        assert re.fullmatch(r"n\.cfg[:\d]*( \[[^\n]*)?: [^\n]{8,450}", str(exc))  # noqa: PT017
        return
    height, width = model.net_size
    if height * width <= 128 * 128:
        with torch.no_grad():
            boxes, _ = model(torch.rand(1, model.yaml["channels"], height, width))
        assert boxes.shape[:2] == (1, 4 + model.nc)


def test_decoding_is_left_to_the_heads(tiny: DarknetModel, x: torch.Tensor) -> None:
    """Each head's part of the boxes is its own decoding of its raw input, in order."""
    boxes, *raw = outputs(tiny, x)
    heads: list[Any] = [tiny.model[i] for i in tiny.heads]
    assert all(isinstance(head, DetectionHead) for head in heads)
    parts = [head.decode(y, 64, 32) for head, y in zip(heads, raw, strict=True)]
    torch.testing.assert_close(torch.cat(parts, 2), boxes)
