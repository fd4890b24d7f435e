"""What leaves a runtime's fast path: held against what the installed ONNX Runtime really does."""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.channels.trace import trace
from yoloprune.measure.convs import Conv, multiples, nchwc
from yoloprune.measure.deployed import KINDS, deployed
from yoloprune.measure.fastpath import avoid_lines, change_line, examine, off_line
from yoloprune.measure.targets import TARGETS, find_target, wider_hint
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores

SIZE = 16


def optimized(model: nn.Module, inputs: int, folder: Path, size: int = SIZE) -> list[str]:
    """Operations of the graph that ONNX Runtime makes of a network, blocked ones with a star."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    made = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.zeros(1, inputs, size, size),), made,
            opset_version=17, dynamo=False,
        )  # fmt: skip
    options: Any = runtime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    runtime.InferenceSession(made.getvalue(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return [node.op_type + "*" * node.domain.endswith("nchwc") for node in nodes]


@pytest.fixture
def block(tmp_path: Path) -> int:
    """Channels of a block here, told by a grouped conv, which needs whole ones."""
    for size in (8, 16):
        conv = nn.Conv2d(2 * size, 2 * size, 3, groups=2)
        if "Conv*" in optimized(conv, 2 * size, tmp_path):
            return size
    pytest.skip("this processor has no blocked layout in ONNX Runtime")


def shapes() -> list[tuple[int, int, int]]:
    """Inputs, outputs and groups of convs on every side of each condition."""
    dense = [(i, o, 1) for i in (1, 3, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 30) for o in (3, 8, 17)]
    depthwise = [(c, c, c) for c in (2, 3, 4, 6, 8, 10, 12, 16, 18, 20)]
    grouped = [
        (8, 8, 2), (16, 16, 2), (16, 32, 2), (32, 16, 2), (32, 32, 2), (48, 48, 2), (24, 24, 2),
        (64, 64, 4), (128, 64, 4), (4, 8, 4), (16, 32, 16),
    ]  # fmt: skip
    return [*dense, *depthwise, *grouped]


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_rule_is_what_onnxruntime_does(kernel: int, block: int, tmp_path: Path) -> None:
    rule = nchwc(block)
    wrong = []
    for inputs, outputs, groups in shapes():
        module = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
        taken = "Conv*" in optimized(module, inputs, tmp_path)
        why = rule(Conv(layer="", inputs=inputs, outputs=outputs, groups=groups))
        if taken != (why is None):
            wrong.append((inputs, outputs, groups, taken, why))
    assert not wrong


def test_a_transposed_conv_leaves_the_layout(block: int, tmp_path: Path) -> None:
    ops = optimized(nn.ConvTranspose2d(16, 16, 2, 2), 16, tmp_path)
    assert "ConvTranspose" in ops
    assert nchwc(block)(Conv(layer="", inputs=16, outputs=16, transposed=True))


class Between(nn.Module):
    """Two convs of 32 channels and an operation between them, which leaves ``back`` channels."""

    def __init__(self, act: Any, back: int = 32) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(back, 16, 3, padding=1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("act", "back", "kind"),
    [
        (lambda x: x[:, 16:], 16, "channel slice"),
        (lambda x: x.chunk(2, 1)[1], 16, "channel slice"),
        (F.mish, 32, "Mish"),
        (F.relu, 32, None),
        (F.silu, 32, None),
        (lambda x: F.leaky_relu(x, 0.1), 32, None),
        (F.hardswish, 32, None),
        (lambda x: F.max_pool2d(x, 5, 1, 2), 32, None),
        (lambda x: F.interpolate(x, scale_factor=2.0), 32, None),
        (lambda x: torch.cat((x, x), 1), 64, None),
    ],
)
def test_what_it_is_to_avoid_is_what_breaks_the_layout(
    act: Any, back: int, kind: str | None, block: int, tmp_path: Path
) -> None:
    net = Between(act, back)
    ops = optimized(net, 3, tmp_path)
    assert ops.count("Conv*") == 2
    broken = ops.count("ReorderOutput*") > 1
    found = [one["op"] for one in examine(net, find_target("onnxruntime"), SIZE)["avoid"]]
    assert found == ([kind] if kind else [])
    assert broken == (kind is not None)


class Odd(nn.Module):
    """3 → 17 → 24 → 9 → 20, then grouped, then depthwise: convs on both sides of the rule."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 17, 24, 9, 20, 20)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.grouped = nn.Conv2d(20, 20, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.depthwise(F.relu(self.grouped(x)))  # type: ignore[no-any-return]


def test_a_network_is_counted_as_onnxruntime_takes_it(block: int, tmp_path: Path) -> None:
    net = Odd()
    name = {8: "onnxruntime-avx2", 16: "onnxruntime-avx512"}[block]
    record = examine(net, find_target(name), SIZE)
    ops = optimized(net, 3, tmp_path)
    on = sum(op == "Conv*" for op in ops)
    assert record["convs"] == sum(op in ("Conv", "Conv*", "FusedConv") for op in ops) == 7
    assert record["convs"] - len(record["off"]) == on
    off = [one["layer"] for one in record["off"]]
    assert off == (["convs.1", "grouped"] if block == 16 else ["convs.1", "convs.3", "grouped"])
    both = examine(net, find_target("onnxruntime"), SIZE)
    assert [one["layer"] for one in both["off"]] == ["convs.1", "convs.3", "grouped"]
    assert both["off"][1]["reason"] == "reads 9 channels, no multiple of 4 (AVX2)"


def cut(model: nn.Module, round_to: int) -> nn.Module:
    """Half of the channels gone at random."""
    graph = trace(model)
    scores = Scores(values=np.random.default_rng(0).random(graph.n_units), criterion="random")
    plan = Planner(graph).plan(scores, Budget(percent=0.5, min_channels=4, round_to=round_to))
    return cut_units(model, graph, plan.remove(graph))


@pytest.mark.parametrize(
    ("name", "convs"),
    [
        ("yoloprune-demo.cfg", 20),
        pytest.param("yolov8n.yaml", 64, marks=pytest.mark.slow),
        pytest.param("yolov8n-seg.yaml", 77, marks=pytest.mark.slow),
        pytest.param("yolov9t.yaml", 186, marks=pytest.mark.slow),
    ],
)
def test_whole_detectors_are_counted_as_onnxruntime_takes_them(
    name: str, convs: int, block: int, tmp_path: Path
) -> None:
    model, _ = load(name, scratch=True)
    target = find_target({8: "onnxruntime-avx2", 16: "onnxruntime-avx512"}[block])
    for round_to in (1, 8):
        thin = cut(model.eval(), round_to)
        record = examine(thin, target, 64)
        ops = optimized(deployable(thin), 3, tmp_path, size=64)
        taken = [op for op in ops if op.startswith(("Conv", "FusedConv"))]
        assert len(taken) == record["convs"] == convs
        assert len(taken) - len(record["off"]) == sum(op == "Conv*" for op in taken)
        transposed = int(name.endswith("-seg.yaml"))
        assert (len(record["off"]) > transposed) == (round_to == 1)


def deployable(model: nn.Module) -> nn.Module:
    """A network as it is exported."""
    made: Any = copy.deepcopy(model)
    if hasattr(made, "fuse"):
        made.fuse(verbose=False)
    for module in (made, *made.modules()):
        if hasattr(module, "export"):
            module.export = True
    return made  # type: ignore[no-any-return]


def test_blocks_are_counted_on_both_sides_but_the_picture_is_exempt() -> None:
    record = examine(Odd(), find_target("tensorrt-fp16"), SIZE)
    assert record["exempt"] == ["convs.0"]
    assert {one["layer"]: one["reason"] for one in record["off"]} == {
        "convs.0": "gives 17 channels, no multiple of 8",
        "convs.1": "reads 17 channels, no multiple of 8",
        "convs.2": "gives 9 channels, no multiple of 8",
        "convs.3": "reads 9 channels, no multiple of 8 and gives 20 channels, no multiple of 8",
        "convs.4": "reads 20 channels, no multiple of 8 and gives 20 channels, no multiple of 8",
        "grouped": "reads 20 channels, no multiple of 8 and gives 20 channels, no multiple of 8",
        "depthwise": "reads 20 channels, no multiple of 8 and gives 20 channels, no multiple of 8",
    }
    rule = multiples(inputs=8, outputs=1)
    assert rule(Conv(layer="", inputs=3, outputs=5, reads_picture=True)) is None
    assert rule(Conv(layer="", inputs=3, outputs=5)) is not None


def test_batchnorms_are_fused_and_the_model_is_left_alone() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    seen = deployed(norm.train(), SIZE)
    assert [conv.layer for conv in seen.convs] == ["0"]
    assert norm.training
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_a_shared_activation_counts_where_it_is_called() -> None:
    act = nn.SiLU()
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), act) for _ in range(3)))
    record = examine(net, find_target("rknn"), SIZE)
    assert record["avoid"][0]["op"] == "SiLU"
    assert len(record["avoid"][0]["layers"]) == 3


def test_windows_up_to_a_size_are_no_trouble() -> None:
    def pools(size: int) -> list[str]:
        net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.MaxPool2d(size, 1))
        return [one["op"] for one in examine(net, find_target("rknn"), SIZE)["avoid"]]

    assert pools(3) == []
    assert pools(5) == ["max pool above 3×3"]


def test_lines() -> None:
    target = find_target("ORT")
    good = examine(nn.Sequential(nn.Conv2d(3, 16, 3)), target, SIZE)
    bad = examine(Odd(), target, SIZE)
    assert off_line(good) == "onnxruntime: none of 1 convs leaves the blocked layout"
    assert off_line(bad, most=1) == (
        "onnxruntime: 3 of 7 convs leave the blocked layout: "
        "convs.1 reads 17 channels, no multiple of 4 and 2 more"
    )
    assert change_line(bad, good).endswith("that leave the blocked layout: 3 → 0 of 1")
    sliced = examine(Between(lambda x: x[:, 16:], 16), target, SIZE)
    assert "channel slice in 1 layer" in avoid_lines(sliced)[0]


def test_the_table_is_whole() -> None:
    names = [name for target in TARGETS for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names))
    for target in TARGETS:
        facts = [*target.facts, *(item.fact for item in target.avoid)]
        assert facts, target.name
        assert bool(target.facts) == (target.round_to is not None)
        for fact in facts:
            assert fact.source.startswith("https://") or fact.known == "measured", target.name
        assert {item.op for item in target.avoid} <= set(KINDS)
        # What a target rounds to must be on its fast path.
        width = 2 * (target.round_to or 1)
        assert target.rule(Conv(layer="", inputs=width, outputs=width)) is None, target.name


@pytest.mark.parametrize(
    ("processor", "widths", "told"),
    [("AVX512", 8, True), ("AVX512", 24, True), ("AVX512", 16, False), ("AVX512", 32, False),
     ("AVX2", 8, False), ("DEFAULT", 8, False)],
)  # fmt: skip
def test_wider_steps_are_hinted_at_where_the_processor_is_wider(
    processor: str, widths: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    hint = wider_hint(widths)
    assert (hint is not None) is told
    assert not told or f"multiples of {widths}: --round-to 16" in str(hint)
