"""Descriptions are data: what Ultralytics would run or fetch is refused before it sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from yoloprune.errors import CheckpointError
from yoloprune.models.description import check_description, layers_of, load_description

GOOD = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[0, 1], 1, "Detect", ["nc"]]],
}


@pytest.mark.parametrize(
    "activation",
    [
        "(open('PWNED', 'w').close(), nn.SiLU())[1]",
        "__import__('os').system('touch PWNED')",
        "nn.SiLU(open('PWNED', 'w'))",
        "nn.SiLU(inplace=exec('1'))",
        "nn.Module.load_state_dict",
        "nn.modules.module.warnings.sys.exit()",
        "torch.hub.load('a/b', 'c')",
        "nn.SiLU() if open('PWNED', 'w') else nn.ReLU()",
        "nn.SiLU().register_forward_hook(print)",
        "nn.SiLU()\nopen('PWNED', 'w')",
        "lambda x: x",
        "nn.DataParallel(1)",
        ["nn.SiLU()"],
        {"a": 1},
        "nn.SiLU(" * 50,
    ],
)
def test_an_activation_is_a_plain_one(
    activation: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="such as nn.SiLU"):
        check_description({**GOOD, "activation": activation}, "m.yaml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        ("nn.ReLU()", nn.ReLU),
        ("torch.nn.LeakyReLU(0.1)", nn.LeakyReLU),
        ("nn.SiLU(inplace=True)", nn.SiLU),
        (" nn.Hardtanh(-1, 1) ", nn.Hardtanh),
    ],
)
def test_plain_activations_work(activation: str, kind: type, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "activation": activation}))
    model = load_description(path)
    assert isinstance(model.model[0].act, kind)  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    "row",
    [
        [-1, 1, "load_checkpoint", ["evil.pt"]],
        [-1, 1, "torch_safe_load", ["evil.pt"]],
        [-1, 1, "Path", ["x"]],
        [-1, 1, "nn.functional", []],
        [-1, 1, "torchvision.ops.misc", []],
        [-1, 1, "DetectionModel", ["evil.yaml"]],
        [-1, 1, "__builtins__", []],
        [-1, 1, "MyAttention", [16]],
        [-1, 1, 5, [16]],
        [-1, 1 << 30, "Conv", [16]],
        [-1, 1, "Conv", [1 << 40]],
        [-1, 1, "Conv", "x"],
        ["a", 1, "Conv", [16]],
        [-1, 1, "Conv"],
        "Conv",
    ],
)
def test_a_row_is_a_layer(row: object) -> None:
    with pytest.raises(CheckpointError, match=r"m.yaml: head\[0\]"):
        check_description({**GOOD, "head": [row]}, "m.yaml")


@pytest.mark.parametrize(
    "change",
    [
        {"nc": 0},
        {"nc": "x"},
        {"depth_multiple": float("inf")},
        {"width_multiple": 1e9},
        {"scales": {"n": [1e9, 1, 1]}},
        {"scales": [1]},
        {"backbone": {}},
        {"head": []},
        {"channels": 1 << 20},
        {"extra": object()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_numbers_are_those_of_a_network(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="m.yaml"):
        check_description({**GOOD, **change}, "m.yaml")


def test_a_network_of_too_many_parameters_is_refused_without_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "nc: 1\nbackbone:\n"
        + "  - [-1, 1, Conv, [1000000, 1, 1]]\n" * 5
        + "head:\n  - [[0, 1], 1, Detect, [nc]]\n"
    )
    with pytest.raises(CheckpointError, match="parameters, expected at most"):
        load_description(path)


def test_torchvision_backbones_are_not_fetched() -> None:
    described = {
        "nc": 3,
        "backbone": [[-1, 1, "TorchVision", [512, "resnet18", "DEFAULT", True, 2]]],
        "head": [[-1, 1, "Classify", ["nc"]]],
    }
    layers = layers_of(described)
    assert sum(p.numel() for p in layers.parameters()) > 11e6
    assert described["backbone"][0][3][2] == "DEFAULT"  # type: ignore[index]


def test_scales_are_read_from_names_as_stock_does(tmp_path: Path) -> None:
    counts = {
        name: sum(p.numel() for p in load_description(Path(name)).parameters())
        for name in ("yolov8n.yaml", "yolov8s.yaml")
    }
    assert counts == {"yolov8n.yaml": 3157200, "yolov8s.yaml": 11166560}
    with pytest.raises(CheckpointError, match="no such file, nor an Ultralytics model name"):
        load_description(Path("yolov99.yaml"))
