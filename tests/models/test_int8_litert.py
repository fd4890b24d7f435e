"""LiteRT in 8 bits: names of operations lead to layers, and what is to stay in float does."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.errors import ExportError
from yoloprune.models.export import ExportOptions, export_file, export_model
from yoloprune.models.fake_quant import output_error
from yoloprune.models.int8_litert import LiteRtTool, Places, in_pixels
from yoloprune.models.keep_float import DECODING

WRAPPED = (
    "ultralytics.utils.export.engine._NormalizeCoords/ultralytics.nn.tasks.DetectionModel_model"
)
CONV = "torch.nn.modules.conv.Conv2d_conv"
FLOAT, INT8 = 0, 9
"""Of a tensor's type in the file."""


def test_names_lead_to_layers(slim: nn.Module) -> None:
    places = Places(slim)
    block = f"{WRAPPED}/ultralytics.nn.modules.block.C2f_2"
    inner = f"{block}/ultralytics.nn.modules.conv.Conv_cv1/{CONV}"
    assert places.of(f"{inner};3", weighted=True) == "model.2.cv1.conv"
    assert places.of(f"{block};1", weighted=False) == "model.2"
    whole = f"{inner};;{WRAPPED}/ultralytics.nn.modules.conv.Conv_16/{CONV};"  # and its bias
    assert Places(slim).of(whole, weighted=True) == "model.2.cv1.conv"
    assert places.of("serving_default_output_0_output", weighted=False) == ""
    assert places.of(f"{WRAPPED};1", weighted=False) == ""


def test_layers_of_one_name_are_told_by_their_order(slim: nn.Module) -> None:
    head = f"{WRAPPED}/ultralytics.nn.modules.head.Detect_22"
    branch = f"{head}/torch.nn.modules.container.Sequential_0/torch.nn.modules.conv.Conv2d_2"
    places = Places(slim)
    found = [places.of(f"{branch};{i}", weighted=True) for i in (5, 9)]
    assert found == ["model.22.cv2.0.2", "model.22.cv3.0.2"]
    assert places.of(f"{branch};6", weighted=False) == ""  # either
    with pytest.raises(ExportError, match="is none of the layers of the network"):
        places.of(f"{branch};11", weighted=True)


def test_boxes_are_brought_to_pixels() -> None:
    shares = np.full((1, 7, 20), 0.5, dtype=np.float32)
    found = in_pixels([shares], 64, 128)[0][0, :, 0]
    assert found.tolist() == [64, 32, 64, 32, 0.5, 0.5, 0.5]
    ends = np.full((1, 300, 6), 9.0, dtype=np.float32)  # of a network without NMS: pixels already
    assert (in_pixels([ends], 64, 128)[0] == 9).all()


def pictures(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def weights_of(file: Path, model: nn.Module) -> dict[str, tuple[int, list[int]]]:
    """Layer → type and shape of its weights in a file."""
    reading = pytest.importorskip("ai_edge_quantizer.utils.tfl_flatbuffer_utils")
    content = reading.read_model(str(file))
    graph = content.subgraphs[0]
    places, found = Places(model), {}
    for op in graph.operators:
        code = content.operatorCodes[op.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) == 3:  # CONV_2D
            weight = graph.tensors[op.inputs[1]]
            name = graph.tensors[op.outputs[0]].name.decode()
            found[places.of(name, weighted=True)] = int(weight.type), list(weight.shape)
    return found


@pytest.fixture(scope="module")
def converters() -> None:
    for name in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"):
        pytest.importorskip(name)


def test_what_is_to_stay_in_float_does(slim: nn.Module, tmp_path: Path, converters: None) -> None:
    how: dict[str, Any] = {"imgsz": 64, "precision": "int8", "calibration": pictures()}
    result = export_model(
        slim,
        "thin",
        ExportOptions(out=tmp_path, format="litert", keep_float="auto,model.4", **how),
    )
    assert result.file == tmp_path / "thin_int8.tflite"
    kept = result.kept_float
    assert kept["model.0.conv"] == "reads the picture" and DECODING in kept
    assert sum(why == "last layer of the head" for why in kept.values()) == 6
    weights = weights_of(result.file, slim)
    for path, (kind, shape) in weights.items():
        conv = slim.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        assert shape == [conv.out_channels, *conv.kernel_size, conv.in_channels], path
        if path in kept:
            assert kind == FLOAT, path
    assert sum(kind == INT8 for kind, _ in weights.values()) > 30
    assert result.int8 is not None and result.int8.error < 0.25
    with zipfile.ZipFile(result.file) as told:
        assert b"names" in told.read("metadata.json")  # so that stock YOLO() opens it


def test_none_is_worse_than_auto(slim: nn.Module, tmp_path: Path, converters: None) -> None:
    made = export_file(
        slim, tmp_path / "thin.pt", ExportOptions(out=tmp_path, format="litert", imgsz=64)
    )
    tool = LiteRtTool(made, tmp_path, slim)
    assert len(tool.graph.last) == 6 and tool.graph.first == ("model.0.conv",)
    batches = [picture[None].numpy() for picture in pictures()]
    expected = tool.run(made, batches[:2])
    errors = []
    for floats in ([], [*tool.graph.decoding, *tool.graph.inside(tool.graph.last)]):
        tool.quantise(tmp_path / "eight.tflite", batches, floats)
        found = tool.run(tmp_path / "eight.tflite", batches[:2])
        pairs = zip(expected, found, strict=True)
        errors.append(
            sum(output_error(torch.from_numpy(a[0]), torch.from_numpy(b[0])) for a, b in pairs)
        )
    assert errors[1] < errors[0]
