"""Networks in 8 bits: what is kept in float really is, the rest is not, and outputs stay near."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from yoloprune.errors import ExportError, MeasureError
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.exported import deployed_file, file_accuracy
from yoloprune.models import int8, int8_handed, int8_onnx, int8_openvino, net_graph
from yoloprune.models.difference import difference
from yoloprune.models.door import load
from yoloprune.models.export import ExportOptions, export_file, export_model
from yoloprune.models.fake_quant import group_errors, output_error
from yoloprune.models.int8 import Int8Options, quantise
from yoloprune.models.keep_float import DECODING, dominant, parse_keep_float, ranked

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Constant folding:UserWarning"),
]


@pytest.fixture(scope="module")
def demo(repo: Path) -> nn.Module:
    return load(str(repo / "cfg" / "yoloprune-demo.cfg"))[0]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    return write_shapes(folder, ShapesSpec(images=12, val=8, size=64))


def pictures(side: int = 64, count: int = 6) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def convs(file: Path) -> dict[str, bool]:
    """Name of every convolution → whether its weights, and what it reads, are in 8 bits."""
    graph = onnx.load(file).graph
    made = {output: node for node in graph.node for output in node.output}
    kinds = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        sources = [made.get(name) for name in node.input[:2]]
        eight = [s is not None and s.op_type == "DequantizeLinear" for s in sources]
        if eight[1]:
            weight, scale = (kinds[name] for name in sources[1].input[:2])  # type: ignore[union-attr]
            assert weight.data_type == onnx.TensorProto.INT8
            assert list(scale.dims) == list(weight.dims[:1])  # a scale an output channel
            assert eight[0]
        else:
            assert kinds[node.input[1]].data_type == onnx.TensorProto.FLOAT
        found[node.name] = eight[1]
    return found


def places(file: Path, *, in_8_bits: bool) -> set[str]:
    from yoloprune.models.net_graph import onnx_place

    return {onnx_place(name) for name, eight in convs(file).items() if eight == in_8_bits}


def test_a_slim_model_in_8_bits(slim: nn.Module, tmp_path: Path) -> None:
    before = deepcopy(slim.state_dict())
    how = ExportOptions(
        out=tmp_path, imgsz=64, precision="int8", calibration=pictures(), keep_float="auto,model.4"
    )
    result = export_model(slim, "thin", how)
    assert result.file == tmp_path / "thin_int8.onnx" and list(tmp_path.iterdir()) == [result.file]
    assert result.bytes == result.file.stat().st_size and result.precision == "int8"
    kept, record = result.kept_float, result.int8
    assert record is not None and record.pictures == 6 and record.tries == 1
    assert kept["model.0.conv"] == "reads the picture" and DECODING in kept
    assert sum(why == "last layer of the head" for why in kept.values()) == 6
    assert kept["model.4.cv1.conv"] == "asked for by model.4"
    floats = places(result.file, in_8_bits=False)
    assert floats == {path for path in kept if path != DECODING and "error" not in kept[path]} | {
        place
        for place in floats | places(result.file, in_8_bits=True)
        for path, why in kept.items()
        if "error" in why and place.startswith(f"{path}.")
    }
    assert len(places(result.file, in_8_bits=True)) > 30
    assert set(record.group_errors) & {"model.0", "model.4"} == set()
    assert 0 < record.error < 0.25 and 1e-4 < record.agreement < 0.25
    model = deployed_file(slim, result.file, DetectOptions(imgsz=64, batch=1))
    x = pictures(count=2)
    with torch.no_grad():
        assert output_error(slim(x)[0], model(x)) < 0.25
    names = {e.key: e.value for e in onnx.load(result.file).metadata_props}["names"]
    assert names == str(slim.names)
    assert all(torch.equal(before[key], value) for key, value in slim.state_dict().items())
    json.dumps(result.to_dict())


@pytest.mark.slow
def test_decoding_stays_in_float_and_activations_do_not(slim: nn.Module, tmp_path: Path) -> None:
    how = ExportOptions(
        out=tmp_path, imgsz=64, precision="int8", calibration=pictures(), keep_float="model.22.dfl*"
    )
    with pytest.raises(ExportError, match="'model.22.dfl.' matches no layer with weights"):
        export_model(slim, "thin", how)
    assert not list(tmp_path.iterdir())
    how = ExportOptions(
        out=tmp_path, imgsz=64, precision="int8", calibration=pictures(), keep_float="model.0"
    )
    result = export_model(slim, "thin", how)
    assert result.int8 is not None and not result.int8.group_errors  # nothing was measured
    nodes = onnx.load(result.file).graph.node
    made = {output: node for node in nodes for output in node.output}

    def is_read_in_8_bits(node: Any) -> bool:
        sources = (made[name] for name in node.input if name in made)
        return any(source.op_type == "DequantizeLinear" for source in sources)

    decoding = [n for n in nodes if n.name in ("/model.22/dfl/Softmax", "/model.22/Concat_3")]
    assert len(decoding) == 2 and not any(is_read_in_8_bits(node) for node in decoding)
    sigmoids = [n for n in nodes if n.op_type == "Sigmoid" and "/act/" in n.name]
    eight = {n.name for n in sigmoids if is_read_in_8_bits(n)}
    assert {n.name for n in sigmoids} - eight == {"/model.0/act/Sigmoid"}


@pytest.fixture(scope="module")
def plain(demo: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network in float32."""
    folder = tmp_path_factory.mktemp("plain")
    return export_model(demo, "demo", ExportOptions(out=folder, imgsz=64)).file


@pytest.fixture
def made(plain: Path, tmp_path: Path) -> Path:
    """A copy of it, beside which there is room."""
    return Path(shutil.copy(plain, tmp_path / "demo.onnx"))


def test_none_takes_everything(demo: nn.Module, made: Path) -> None:
    how = Int8Options(calibration=pictures(), keep_float="none")
    file, kept, record = quantise(demo, made, "onnx", 1, how)
    assert not kept and not record.group_errors and all(convs(file).values())


@pytest.mark.slow
def test_a_darknet_network_keeps_its_ap(demo: nn.Module, shapes: Path, tmp_path: Path) -> None:
    from yoloprune.measure.pictures import load_pictures

    data = load_dataset(shapes)
    size = demo.net_size
    images = load_pictures(demo, shapes, size).images  # type: ignore[arg-type]
    how = ExportOptions(out=tmp_path, precision="int8", calibration=images, batch=3)
    result = export_model(demo, "demo", how)
    options = DetectOptions(imgsz=size, batch=3)  # type: ignore[arg-type]
    full = evaluate(demo, data, options).metrics.AP
    eight = file_accuracy(demo, data, options)(result.file)
    assert full > 0.3 and abs(full - eight) < 0.05  # 8 pictures in batches of 3
    props = {entry.key: entry.value for entry in onnx.load(result.file).metadata_props}
    assert props["letterbox"] == "false"


@pytest.mark.slow
def test_a_file_has_the_ap_of_its_model(demo: nn.Module, shapes: Path, tmp_path: Path) -> None:
    data = load_dataset(shapes)
    result = export_model(demo, "demo", ExportOptions(out=tmp_path, batch=3))
    options = DetectOptions(imgsz=demo.net_size, batch=3)  # type: ignore[arg-type]
    expected = evaluate(demo, data, options).metrics.AP
    assert file_accuracy(demo, data, options)(result.file) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("drop", [0.035, 0.0])
def test_more_is_kept_until_accuracy_holds(
    drop: float, demo: nn.Module, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As if every convolution in 8 bits cost a hundredth of AP, and float32 were beyond reach."""
    seen = []

    def accuracy(file: Path) -> float:
        seen.append(sum(convs(file).values()))
        return 0.5 - 0.01 * seen[-1] - (0.001 if file.name == "demo_int8.onnx" else 0)

    how = Int8Options(calibration=pictures(), accuracy=accuracy, max_drop=drop)
    with caplog.at_level(logging.WARNING, "yoloprune"):
        file, kept, record = quantise(demo, made, "onnx", 1, how)
    left = sum(convs(file).values())
    assert seen[0] == 0 and seen[1] > 3 and record.ap_fp32 == 0.5
    assert record.ap == pytest.approx(0.499 - 0.01 * left)
    more = [path for path, why in kept.items() if "alone in 8 bits" in why]
    assert more == sorted(more, key=lambda path: -record.group_errors[path])
    if drop:
        assert left == 3 and record.held  # the fewest that hold, one more would not
        assert more == list(ranked(record.group_errors))[: len(more)]
    else:
        assert left == 0 and record.held is False
        assert "AP 0.4990 is 0.0010 below float32's, more than --max-drop 0" in caplog.text


def test_errors_of_groups(demo: nn.Module) -> None:
    """One weight far beyond the others leaves a channel's others no step."""
    before = deepcopy(demo.state_dict())
    x = pictures()
    groups = [f"model.{i}" for i in (0, 2, 4)]
    plain = group_errors(demo, groups, x)
    assert list(plain) == groups and all(0 < error < 0.5 for error in plain.values())
    harmed = deepcopy(demo)
    harmed.model[2].conv.weight.data[:, 0, 0, 0] = 20  # type: ignore[index, union-attr]
    errors = group_errors(harmed, groups, x)
    assert errors["model.2"] > 3 * plain["model.2"]
    assert max(errors, key=errors.__getitem__) == "model.2"
    assert all(torch.equal(before[key], value) for key, value in demo.state_dict().items())


def test_error_by_hand() -> None:
    expected = torch.zeros(1, 6, 8)
    expected[0, :4, 0] = torch.tensor([20.0, 20.0, 10.0, 10.0])
    expected[0, 4, 0] = 0.5
    assert output_error(expected, expected) == 0
    found = expected.clone()
    found[0, 0, 0] += 4  # a mean shift of 1 pixel in a box of 10
    assert output_error(expected, found) == pytest.approx(0.1)
    found[0, :4, 5] = 100.0  # which nobody believes in
    assert output_error(expected, found) == pytest.approx(0.1)
    found[0, 5, 0] = 0.25
    assert output_error(expected, found) == pytest.approx(0.6)
    assert output_error(expected, found * float("nan")) == float("inf")


def test_what_stands_out_is_kept() -> None:
    assert dominant({"a": 0.3, "b": 0.02, "c": 0.1, "d": 0.02, "e": 0.03}) == ("a", "c")
    assert dominant({"a": 0.03, "b": 0.01}) == ()  # harmless as it is
    assert dominant(dict.fromkeys("abcdefgh", 0.1)) == ()  # none is worse than the others
    assert dominant({}) == ()


@pytest.mark.parametrize("text", ["", "auto,none", "a,,b", "none,auto"])
def test_what_cannot_be_kept(text: str) -> None:
    with pytest.raises(ExportError, match="--keep-float: got .*, expected auto, none, or layers"):
        parse_keep_float(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--precision int8: needs pictures to calibrate on, got none"),
        ({"calibration": []}, "--precision int8: needs pictures to calibrate on, got none"),
        (
            {"format": "torchscript"},
            "--precision int8: not for torchscript, expected one of onnx, openvino",
        ),
    ],
)
def test_what_is_refused(
    options: dict[str, Any], message: str, demo: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_model(
            demo, "demo", ExportOptions(out=tmp_path, imgsz=64, precision="int8", **options)
        )
    assert not list(tmp_path.iterdir())


def test_precision_and_drop_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--precision: got 'int4', expected fp32, fp16, int8"):
        ExportOptions(out=tmp_path, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="--max-drop: got 0.1, expected at least 0, and data"):
        ExportOptions(out=tmp_path, max_drop=0.1)


def test_what_fails_inside_is_one_line(
    demo: nn.Module, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(int8_onnx.OnnxTool, "quantise", fail)
    how = Int8Options(calibration=pictures(), keep_float="none")
    with pytest.raises(ExportError, match=r"onnx: bringing it to 8 bits failed \(.*: first\)\.$"):
        quantise(demo, made, "onnx", 1, how)


def test_what_cannot_be_measured_is_told_as_it_is(demo: nn.Module, made: Path) -> None:
    def accuracy(file: Path) -> float:
        raise MeasureError("val: shows no object.")

    how = Int8Options(calibration=pictures(), keep_float="none", accuracy=accuracy)
    with pytest.raises(MeasureError, match="^val: shows no object.$"):
        quantise(demo, made, "onnx", 1, how)


def test_pictures_of_any_kind() -> None:
    images = (pictures() * 255).to(torch.uint8)
    torch.testing.assert_close(int8.as_pictures(images), images.float() / 255)
    torch.testing.assert_close(int8.as_pictures(iter(images.split(2))), images.float() / 255)
    torch.testing.assert_close(int8.as_pictures(pictures()), pictures())


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n", True),
        ("model name\t: A\nflags\t\t: fpu avx_vnni\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("", False),
    ],
)
def test_a_cpu_tells_of_vnni(text: str, has: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert int8_onnx.has_vnni(tmp_path / "cpuinfo") == has
    assert not int8_onnx.has_vnni(tmp_path / "none")


def test_weights_are_short_of_a_bit_where_bytes_would_saturate(
    demo: nn.Module, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_onnx, "has_vnni", lambda: False)
    monkeypatch.setattr(int8_onnx, "is_x86", lambda: True)
    how = Int8Options(calibration=pictures(), keep_float="none")
    file, _, record = quantise(demo, made, "onnx", 1, how)
    assert record.settings["reduce_range"] is True
    tensors = (onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer)
    weights = [t for t in tensors if t.dtype == np.int8 and t.ndim == 4]
    assert weights and max(int(np.abs(w).max()) for w in weights) <= 64


def test_the_command(repo: Path, shapes: Path, tmp_path: Path) -> None:
    from yoloprune.cli.main import app

    model, record = str(repo / "cfg" / "yoloprune-demo.cfg"), tmp_path / "record.json"
    command = ["export", model, "-o", str(tmp_path / "out"), "--precision", "int8"]
    asked = ["--data", str(shapes), "--max-drop", "0.5", "--json", str(record)]
    done = CliRunner().invoke(app, [*command, *asked])
    assert done.exit_code == 0, done.output
    assert "in float: model.0.conv: reads the picture" in done.output
    assert "of the float32 file" in done.output and "as asked for" in done.output
    written = json.loads(record.read_text())
    assert written["precision"] == "int8" and written["kept_float"]["model.0.conv"]
    assert written["int8"]["pictures"] == 12 and written["int8"]["ap"] > 0.3
    assert Path(written["file"]).stat().st_size == written["bytes"]
    again = CliRunner().invoke(app, [*command, "--calib", str(shapes)])
    assert (
        again.exit_code == 1
        and "holds results already, such as yoloprune-demo_int8.onnx" in again.output
    )


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--precision", "int8"], 1, "--precision int8: needs pictures to calibrate on"),
        (["--precision", "int8", "--calib", "no-such.txt"], 1, "no-such.txt: no such"),
        (["--precision", "int7"], 1, "--precision: got 'int7'"),
        (["--calib", "x"], 2, "--calib: is of --precision int8"),
        (["--half", "--precision", "int8"], 2, "--half: is --precision fp16, got int8"),
        (["--precision", "int8", "--calib", "x", "--max-drop", "0.1"], 2, "wants --data"),
        (["--precision", "int8", "--keep-float", "auto,none"], 1, "--keep-float: got 'auto,none'"),
    ],
)
def test_flags_that_cannot_be(
    flags: list[str], code: int, message: str, repo: Path, tmp_path: Path
) -> None:
    from yoloprune.cli.main import app

    model = str(repo / "cfg" / "yoloprune-demo.cfg")
    done = CliRunner().invoke(app, ["export", model, "-o", str(tmp_path / "out"), *flags])
    assert done.exit_code == code
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


# --- OpenVINO


def weights_in_8_bits(folder: Path) -> dict[str, bool]:
    """Place of every convolution of an OpenVINO network → whether its weights are in 8 bits."""
    import openvino

    def constants(node: Any) -> list[Any]:
        if node.get_type_name() == "Constant":
            return [node]
        sources = [entry.get_node() for entry in node.input_values()]
        return [found for source in sources for found in constants(source)]

    model = openvino.Core().read_model(int8_openvino.xml_in(folder))
    convolutions = [op for op in model.get_ordered_ops() if "Convolution" in op.get_type_name()]
    kinds = {
        int8_openvino.openvino_place(op.get_friendly_name()): {
            c.get_element_type().get_type_name() for c in constants(op.input_value(1).get_node())
        }
        for op in convolutions
    }
    return {place: "i8" in found for place, found in kinds.items()}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["slim", "demo"])
def test_openvino_in_8_bits(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model: nn.Module = request.getfixturevalue(family)
    how = ExportOptions(
        out=tmp_path, format="openvino", imgsz=64, precision="int8", calibration=pictures(),
        keep_float="auto,model.5" if family == "demo" else "auto,model.4.cv1",
    )  # fmt: skip
    result = export_model(model, "net", how)
    assert result.file == tmp_path / "net_int8_openvino_model" and result.int8 is not None
    assert (result.file / "metadata.yaml").exists() and result.bytes > 1e5
    eight = weights_in_8_bits(result.file)
    kept = [path for path in result.kept_float if path != DECODING]
    for place, is_eight in eight.items():
        fixed = ".dfl." in place
        assert is_eight != (fixed or net_graph.within(place, kept)), place
    assert sum(eight.values()) > 5 and sum(not found for found in eight.values()) > 3
    found = deployed_file(model, result.file, DetectOptions(imgsz=64, batch=1))
    x = pictures(count=2)
    with torch.no_grad():
        assert difference([model(x)[0].numpy()], [found(x).numpy()]) < 0.5
    if family == "slim":
        assert 0 < result.int8.error < 0.25 and result.int8.agreement < 0.25


def test_places_of_openvino_names() -> None:
    place = int8_openvino.openvino_place
    assert place("__module.model.0.conv/aten::_convolution/Convolution") == "model.0.conv"
    assert place("__module.model.22/aten::cat/Concat_9") == "model.22"
    assert place("Constant_7") == "" and place("/x") == ""


def test_a_folder_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds 0 .xml files, expected the network's own"):
        int8_openvino.xml_in(tmp_path)


# --- Ultralytics' exporters


def test_pictures_for_ultralytics_are_the_same(tmp_path: Path) -> None:
    import cv2
    import yaml

    images = (pictures() * 255).round() / 255
    file = int8_handed.calibration_set(images, {0: "disc"}, tmp_path / "set")
    content = yaml.safe_load(file.read_text())
    assert content["names"] == {0: "disc"} and content["train"] == "images"
    files = sorted((file.parent / "images").iterdir())
    read = np.stack([cv2.imread(str(f))[..., ::-1].transpose(2, 0, 1) for f in files])
    np.testing.assert_array_equal(read, (images * 255).round().byte().numpy())
    with pytest.raises(ExportError, match="takes pictures of 3 channels in this format, got 1"):
        int8_handed.calibration_set(images[:, :1], {0: "disc"}, tmp_path / "grey")


@pytest.mark.slow
def test_ultralytics_calibrates_on_them(slim: nn.Module, tmp_path: Path) -> None:
    """Its own ONNX quantisation stands for all exporters that take ``data``."""
    data = int8_handed.calibration_set(pictures(), slim.names, tmp_path / "set")  # type: ignore[arg-type]
    how = ExportOptions(
        out=tmp_path, imgsz=64, extra={"quantize": 8, "data": str(data), "split": "train"}
    )
    file = export_file(slim, tmp_path / "thin.pt", how)
    assert sum(convs_by_kind(file).values()) > 30


def convs_by_kind(file: Path) -> dict[str, bool]:
    graph = onnx.load(file).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return {node.name: made.get(node.input[1]) == "DequantizeLinear" for node in convolutions}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"format": "ncnn"},
            "not for ncnn, expected one of onnx, .*ncnn2table and ncnn2int8, come",
        ),
        ({"format": "mnn", "keep_float": "none"}, "mnn: needs MNN, which is not installed"),
    ],
)
def test_other_formats(
    options: dict[str, Any], message: str, demo: nn.Module, tmp_path: Path
) -> None:
    how = ExportOptions(out=tmp_path, precision="int8", calibration=pictures(), **options)
    with pytest.raises(ExportError, match=message):
        export_model(demo, "demo", how)


def test_what_other_tools_cannot_keep() -> None:
    for options in (Int8Options(keep_float="none"), Int8Options(max_drop=0.1)):
        with pytest.raises(ExportError, match="not for engine, where its own tool says what stays"):
            int8.check_int8("engine", options)
    int8.check_int8("engine", Int8Options())


def test_aliases_are_spelled_out(tmp_path: Path) -> None:
    assert ExportOptions(out=tmp_path, format="tflite").format == "litert"
    assert ExportOptions(out=tmp_path, format="tensorrt").format == "engine"


def test_nncf_is_asked_for(
    demo: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    how = ExportOptions(out=tmp_path, format="openvino", precision="int8", calibration=pictures())
    with pytest.raises(
        ExportError, match="openvino: needs nncf, .* pip install 'yoloprune.runtime"
    ):
        export_model(demo, "demo", how)
