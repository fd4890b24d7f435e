"""Every runtime that is installed gives what torch gives, from the file that it was given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from yoloprune.errors import MeasureError
from yoloprune.measure.runtimes import RUNTIMES, RuntimeName, RuntimeOptions, missing
from yoloprune.measure.sessions.base import Session, random_batch
from yoloprune.measure.sessions.table import opened, session_class
from yoloprune.measure.sessions.with_tensorrt import engine_bytes
from yoloprune.models.difference import difference
from yoloprune.models.door import load

SIDE = 96
QUICK = [name for name in RUNTIMES if name != "torch-compile"]


def runtime(name: RuntimeName) -> type[Session]:
    kind = session_class(name)
    why = kind.absent()
    if why is not None:
        pytest.skip(f"{name}: {why}")
    return kind


def agreement(kind: type[Session], model: nn.Module, how: RuntimeOptions, at: Path) -> float:
    """Of a runtime's outputs with the plain model's, on pictures that it was fed later."""
    why = kind.refusal(model, how)
    if why is not None:
        pytest.skip(f"{kind.name}: {why}")
    session = kind.of_model(model, how, at)
    batch = np.flip(random_batch(how), axis=3).copy()
    try:
        session.feed(batch.copy())
        elsewhere = [np.full_like(batch, np.nan) for _ in range(20)]  # in memory that it let go
        session.run()
        del elsewhere
        found = session.outputs()[0]
    finally:
        session.close()
    with torch.no_grad():
        made = model(torch.from_numpy(batch))
    return difference([(made[0] if isinstance(made, tuple) else made).numpy()], [found])


@pytest.mark.parametrize("model", ["yolov8n.yaml", "yoloprune-demo.cfg"])
@pytest.mark.parametrize("name", QUICK)
def test_outputs_agree_with_torch(name: RuntimeName, model: str, tmp_path: Path) -> None:
    kind = runtime(name)
    network = load(model)[0]
    how = RuntimeOptions(runtime=name, imgsz=(SIDE, 64))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    # OpenCV's Darknet importer adds 1e-6 to variances, Darknet itself 1e-5
    most = 5e-3 if name == "opencv-darknet" else 1e-3
    assert agreement(kind, network, how, tmp_path) < most
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.slow
def test_compiled_outputs_agree_with_torch(tmp_path: Path) -> None:
    kind = runtime("torch-compile")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(2)).eval()
    how = RuntimeOptions(runtime="torch-compile", imgsz=(16, 16))
    assert agreement(kind, network, how, tmp_path) < 1e-3


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino", "opencv"])
def test_a_batch_is_all_of_its_pictures(name: RuntimeName, tmp_path: Path) -> None:
    kind = runtime(name)
    how = RuntimeOptions(runtime=name, imgsz=(SIDE, SIDE), batch=2)
    assert agreement(kind, load("yoloprune-demo.cfg")[0], how, tmp_path) < 1e-3


@pytest.mark.parametrize("name", QUICK)
def test_a_file_is_opened_again_as_it_is(name: RuntimeName, tmp_path: Path) -> None:
    kind = runtime(name)
    how = RuntimeOptions(runtime=name, imgsz=(64, 64))
    network = load("yoloprune-demo.cfg")[0]
    if kind.refusal(network, how) is not None:
        pytest.skip("refused")
    file = kind.export(network, how, tmp_path)
    written = file.stat().st_mtime_ns
    session, twin = kind.of_file(file, how), kind.of_model(network, how, tmp_path)
    for one in (session, twin):
        one.run()
    assert np.allclose(session.outputs()[0], twin.outputs()[0], rtol=1e-4, atol=1e-3)
    twin.close()
    session.close()
    assert session.file == file
    if name not in ("torch", "opencv-darknet"):  # which write again, from memory
        assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("ncnn", {"batch": 2}, "ncnn: takes one picture a pass"),
        ("opencv-darknet", {"batch": 2}, "gives the boxes of one picture"),
        ("opencv", {"precision": "fp16"}, "opencv: runs in fp32 here"),
        ("opencv", {"device": "cuda:0"}, "opencv: is built for a CPU here"),
        ("litert", {"precision": "fp16"}, "runs in fp32 or int8 here"),
        ("tensorrt", {}, "tensorrt: runs on a GPU. Give --device 0"),
        ("torch-cudagraph", {}, "torch-cudagraph: records what a GPU does. Give --device 0"),
        ("onnxruntime-tensorrt", {}, "runs on a GPU. Give --device 0"),
    ],
)
def test_what_a_runtime_cannot_do_is_said_before_it_is_tried(
    name: RuntimeName, change: dict[str, object], said: str, tmp_path: Path
) -> None:
    how = RuntimeOptions(runtime=name, imgsz=(64, 64), **change)  # type: ignore[arg-type]
    with pytest.raises(MeasureError, match=said):
        session_class(name).of_model(load("yoloprune-demo.cfg")[0], how, tmp_path)
    assert not list(tmp_path.iterdir())


def test_opencv_reads_no_pt_as_darknet(tmp_path: Path) -> None:
    how = RuntimeOptions(runtime="opencv-darknet", imgsz=(64, 64))
    with pytest.raises(MeasureError, match="reads Darknet networks, which this is not"):
        session_class("opencv-darknet").of_model(load("yolov8n.yaml")[0], how, tmp_path)


@pytest.mark.parametrize("name", ["ncnn", "litert", "tensorrt", "openvino"])
def test_what_is_not_installed_is_named_with_what_to_install(
    name: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yoloprune.measure.runtimes.find_spec", lambda name: None)
    assert (missing(name) or "").startswith("is not installed. pip install ")
    how = RuntimeOptions(runtime=name, imgsz=(64, 64))
    said = f"--runtime {name}: is not installed. pip install "
    with pytest.raises(MeasureError, match=said), opened([], how):
        pass


def test_files_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    for name in ("onnxruntime", "openvino", "opencv"):
        runtime(name)
        file = tmp_path / "broken.onnx"
        file.write_bytes(b"no network")
        with pytest.raises(MeasureError, match=f"{name}: refuses the network"):
            session_class(name).of_file(file, RuntimeOptions(runtime=name, imgsz=(64, 64)))
    runtime("ncnn")
    with pytest.raises(MeasureError, match="ncnn: refuses the network"):
        session_class("ncnn").of_file(tmp_path, RuntimeOptions(runtime="ncnn", imgsz=(64, 64)))


def test_converters_hold_their_tongue(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kind = runtime("ncnn")
    how = RuntimeOptions(runtime="ncnn", imgsz=(32, 32))
    kind.of_model(load("yoloprune-demo.cfg")[0], how, tmp_path)
    os.write(1, b"heard\n")
    out, err = capfd.readouterr()
    assert (out, err) == ("heard\n", "")


def test_runtimes_that_there_are_not_are_refused() -> None:
    with pytest.raises(MeasureError, match="--runtimes: unknown, got 'abacus', expected torch, "):
        session_class("abacus")  # type: ignore[arg-type]


def test_engines_stand_behind_what_ultralytics_says_of_them(tmp_path: Path) -> None:
    file = tmp_path / "a.engine"
    said = b'{"stride": 32}'
    file.write_bytes(len(said).to_bytes(4, "little") + said + b"ptrt engine")
    assert engine_bytes(file) == b"ptrt engine"
    file.write_bytes(b"ptrt engine of another tool")
    assert engine_bytes(file) == b"ptrt engine of another tool"
