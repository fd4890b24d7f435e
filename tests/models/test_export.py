"""Exported models compute what the model computes, and say so when they do not."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from yoloprune.channels import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import ExportError
from yoloprune.models import export
from yoloprune.models.checkpoint import write_checkpoint
from yoloprune.models.export import ExportOptions, difference, export_model
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.repair import repair

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
# said by torch's own ONNX exporter, which Ultralytics asks for
pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Constant folding:UserWarning"),
]


@pytest.fixture
def darknet(repo: Path) -> DarknetModel:
    torch.manual_seed(0)
    model = DarknetModel(read_cfg(repo / "cfg" / "yoloprune-demo.cfg"))
    nets.randomised(model)
    return model


def run(file: Path, x: torch.Tensor) -> Any:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x.numpy()})


def metadata(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def test_a_slim_model_in_onnx_runtime(slim: nn.Module, tmp_path: Path) -> None:
    before = deepcopy(slim.state_dict())
    result = export_model(slim, "thin", ExportOptions(out=tmp_path, imgsz=(64, 96), dynamic=True))
    assert result.file == tmp_path / "thin.onnx" and result.imgsz == (64, 96)
    assert [path.name for path in tmp_path.iterdir()] == ["thin.onnx"]
    assert result.check is not None and result.check.max_rel_diff <= 1e-3
    assert result.check.inputs == ((1, 3, 64, 96), (2, 3, 64, 96))
    x = torch.rand(3, 3, 96, 64)  # a batch and a size that the export never saw
    with torch.no_grad():
        np.testing.assert_allclose(run(result.file, x)[0], slim(x)[0], rtol=1e-3, atol=1e-2)
    after = slim.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert metadata(result.file)["names"] == str(slim.names)


def test_a_darknet_network_in_onnx_runtime(darknet: DarknetModel, tmp_path: Path) -> None:
    result = export_model(darknet, "net", ExportOptions(out=tmp_path, dynamic=True))
    assert result.imgsz == darknet.net_size
    x = torch.rand(2, 3, *darknet.net_size)
    with torch.no_grad():
        expected = darknet(x)[0]
    (found,) = run(result.file, x)
    assert found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    assert metadata(result.file)["letterbox"] == "false"
    assert not darknet.export


@pytest.mark.parametrize("family", ["slim", "darknet"])
def test_a_repaired_model_in_onnx_runtime(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: nn.Module = request.getfixturevalue(family)
    graph = trace(model)
    remove = nets.random_units(graph, 0.3)
    thin = cut_units(model, graph, remove)
    pictures = torch.rand(6, 3, 64, 64)
    done = repair(model, thin, graph, kept_units(graph, remove), pictures)
    assert sum(layer.pull is not None for layer in done.record.layers) > 5
    result = export_model(done.model, "mended", ExportOptions(out=tmp_path, imgsz=64))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted, plain = done.model(x)[0], thin(x)[0]
    np.testing.assert_allclose(run(result.file, x)[0], wanted, rtol=1e-3, atol=1e-2)
    assert not np.allclose(run(result.file, x)[0], plain, rtol=1e-3, atol=1e-2)


def test_half_precision(slim: nn.Module, tmp_path: Path) -> None:
    result = export_model(slim, "half", ExportOptions(out=tmp_path, imgsz=64, precision="fp16"))
    assert result.check is not None and result.check.tolerance == export.HALF_TOLERANCE
    assert 1e-6 < result.check.max_rel_diff <= export.HALF_TOLERANCE
    types = {tensor.data_type for tensor in onnx.load(result.file).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types


def test_an_export_that_computes_something_else_is_not_left_behind(
    slim: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the exporter had lost a weight."""
    whole = export._reference

    def reference(*args: Any) -> nn.Module:
        model: Any = whole(*args)
        model.model[-1].cv2[0][-1].bias.data[:8] += 1
        return model

    monkeypatch.setattr(export, "_reference", reference)
    with pytest.raises(ExportError, match="thin.onnx: differs from the model by .* of its output"):
        export_model(slim, "thin", ExportOptions(out=tmp_path, imgsz=64))
    assert not list(tmp_path.iterdir())


def test_distances_are_summed_along_the_last_axis(slim: nn.Module, tmp_path: Path) -> None:
    file = export_model(slim, "slim", ExportOptions(out=tmp_path, imgsz=64)).file
    nodes = [node for node in onnx.load(file).graph.node if "/dfl/" in node.name]
    kinds = {node.op_type for node in nodes}
    assert "Softmax" in kinds and "Conv" not in kinds
    for node in nodes:
        axes = [a.i for a in node.attribute if a.name == "axis"]
        assert node.op_type != "Softmax" or axes == [-1] or axes == [3]
    head: Any = list(slim.children())[-1][-1]  # type: ignore[index]
    assert "forward" not in vars(head.dfl)  # the model itself stays as it was


def test_unknown_format(slim: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--format: unknown, got 'zzzz', expected one of "):
        export_model(slim, "thin", ExportOptions(out=tmp_path, format="zzzz", imgsz=64))
    assert not list(tmp_path.iterdir())


def test_nothing_is_installed(
    slim: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **_: object) -> None:
        pytest.fail(f"ran {args}")

    monkeypatch.setattr("subprocess.check_output", fail)
    monkeypatch.setattr(
        "ultralytics.utils.checks.check_version", lambda *_, **__: False
    )  # every requirement looks unmet
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"onnx: needs onnx, which is not installed.*pip install"):
        export_model(slim, "thin", ExportOptions(out=tmp_path, imgsz=64))


def test_the_command(slim: nn.Module, tmp_path: Path) -> None:
    from yoloprune.cli.main import app

    write_checkpoint(slim, tmp_path / "thin.pt")
    record = tmp_path / "record.json"
    command = ["export", str(tmp_path / "thin.pt"), "-o", str(tmp_path / "out"), "--imgsz", "64"]
    done = CliRunner().invoke(app, [*command, "--dynamic", "--json", str(record)])
    assert done.exit_code == 0, done.output
    assert "onnxruntime" in done.output and "2×3×64×64" in done.output
    written = json.loads(record.read_text())
    assert written["file"] == str(tmp_path / "out" / "thin.onnx")
    assert written["check"]["max_rel_diff"] <= 1e-3
    assert written["check"]["inputs"] == [[1, 3, 64, 64], [2, 3, 64, 64]]


def test_other_formats_pass_through(slim: nn.Module, tmp_path: Path) -> None:
    result = export_model(slim, "thin", ExportOptions(out=tmp_path, format="torchscript", imgsz=64))
    assert result.check is None and result.file == tmp_path / "thin.torchscript"
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = torch.jit.load(str(result.file))(x)
        torch.testing.assert_close(found, slim(x)[0], rtol=1e-3, atol=1e-2)


def detections(scores: list[float]) -> Any:
    rows = [[10.0 * i, 20, 30, 40, score, i % 2] for i, score in enumerate(scores)]
    return np.array([rows])


def test_difference_by_hand() -> None:
    a = np.zeros((1, 6, 10))
    a[0, 0], a[0, 4] = 200.0, 0.5
    b = a.copy()
    assert difference([a], [b]) == 0
    b[0, 1, 3] = 2.0
    assert difference([a], [b]) == pytest.approx(0.01)  # of 200
    b[0, 5, 0] = 0.25
    assert difference([a], [b]) == pytest.approx(0.5)  # scores have a scale of their own
    b[0, 5, 0] = np.nan
    assert difference([a], [b]) == float("inf")
    assert difference([a], [a[:, :5]]) == float("inf")
    assert difference([np.full((2, 3), 2.0)], [np.full((2, 3), 2.5)]) == pytest.approx(0.25)
    assert difference([np.array([[1, 2, 3, 4]])], [np.array([[1, 2, 3, 5]])]) == 0.25


def test_lists_of_detections_are_sets() -> None:
    a = detections([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.1])
    assert difference([a], [a[:, [0, 2, 1, 3, 4, 5, 6]]]) == 0
    b = a.copy()
    b[0, 1, 0] += 6.0  # of 60
    assert difference([a], [b]) == pytest.approx(0.1)
    c = a.copy()
    c[0, 2, 5] = 1 - c[0, 2, 5]
    assert difference([a], [c]) >= 0.1
    d = a.copy()
    d[0, 6, :4] = 0  # the last one may be another of the same score
    assert difference([a], [d]) == 0
