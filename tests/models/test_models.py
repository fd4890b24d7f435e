"""The one door: every kind of model file in, the same kind out, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

import yoloprune.models.door as models
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import (
    CfgError,
    CheckpointError,
    FormatError,
    WeightsError,
    YoloPruneError,
)
from yoloprune.models.door import Source, input_size_of, lacks_weights, load, save

REPO = Path(__file__).resolve().parents[2]
DEMO = REPO / "cfg" / "yoloprune-demo.cfg"


@pytest.fixture
def demo() -> DarknetModel:
    model, _ = load(DEMO, scratch=True)
    assert isinstance(model, DarknetModel)
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    counters = {key for key in ours if key.endswith("num_batches_tracked")}  # Darknet has none
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[key], theirs[key]) for key in ours.keys() - counters)


def test_darknet_round_trip(demo: DarknetModel, tmp_path: Path) -> None:
    files = save(demo, tmp_path / "out" / "m")
    assert files == (tmp_path / "out" / "m.cfg", tmp_path / "out" / "m.weights")
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == ["m.cfg", "m.names", "m.weights"]
    assert files[0].read_bytes() == DEMO.read_bytes()
    again, source = load(files[0])
    assert equal(demo, again)
    assert not again.training
    assert source == Source(*files)
    assert source.parameters == files[1]
    other, source = load(str(files[0]), shutil.copy(files[1], tmp_path / "w.weights"))
    assert equal(demo, other)
    assert source.weights == tmp_path / "w.weights"


@pytest.mark.parametrize(
    ("target", "stem"),
    [
        ("m", "m"),
        ("m.cfg", "m"),
        ("m.weights", "m"),
        ("yolo-fastest-1.1", "yolo-fastest-1.1"),
        ("yolo-fastest-1.1-slim", "yolo-fastest-1.1-slim"),
        ("v2.final.cfg", "v2.final"),
    ],
)
def test_names_keep_their_dots(target: str, stem: str, demo: DarknetModel, tmp_path: Path) -> None:
    assert [p.name for p in save(demo, tmp_path / target)] == [f"{stem}.cfg", f"{stem}.weights"]


def test_a_model_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLOPRUNE_CACHE", str(tmp_path / "cache"))
    shutil.copy(DEMO, tmp_path / "mine.cfg")
    assert lacks_weights("mine.cfg")
    assert not lacks_weights("other.pt")
    with pytest.raises(WeightsError, match="mine.weights: not found"):
        load("mine.cfg")
    model, source = load("mine.cfg", scratch=True)
    assert source == Source(Path("mine.cfg")) and source.parameters == Path("mine.cfg")
    save(model, "mine")
    assert not lacks_weights("mine.cfg")


def test_weights_of_another_cfg(demo: DarknetModel, tmp_path: Path) -> None:
    _, weights = save(demo, tmp_path / "m")
    with pytest.raises(WeightsError, match="Is this the cfg that it was trained with"):
        load(REPO / "cfg" / "yolov4-tiny.cfg", weights)


def test_shipped_cfgs_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    model, source = load("yoloprune-demo.cfg", scratch=True)
    assert isinstance(model, DarknetModel) and source.model.is_file()


def test_ultralytics_round_trip(tmp_path: Path) -> None:
    model, source = load("yolov8n.yaml")
    assert isinstance(model, DetectionModel) and not model.training
    assert source == Source(Path("yolov8n.yaml"))
    (path,) = save(model.half().float(), tmp_path / "net-1.1")
    assert path == tmp_path / "net-1.1.pt"
    again, source = load(path)
    assert equal(model, again) and source == Source(path)


def test_a_real_checkpoint(shared: Path) -> None:
    model, _ = load(shared / "weights" / "yolov8n-bccd.pt")
    assert isinstance(model, DetectionModel)
    assert sorted(model.names.values()) == ["Platelets", "RBC", "WBC"]
    assert input_size_of(model, None) == (320, 320)
    assert next(model.parameters()).dtype == torch.float32


def test_input_size(demo: DarknetModel) -> None:
    assert input_size_of(demo, None) == (160, 160)
    assert input_size_of(demo, 96) == (96, 96)
    assert input_size_of(demo, (96, 64)) == (96, 64)
    plain: Any = nn.Conv2d(1, 1, 1)
    assert input_size_of(plain, None) == (640, 640)
    plain.args = {"imgsz": [320, 256]}
    assert input_size_of(plain, None) == (320, 256)


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("m.onnx", b"", FormatError, "unknown kind of model, expected .cfg, .pt or .yaml"),
        ("m", b"", FormatError, "unknown kind of model"),
        ("m.cfg", b"\x7fELF\0\0", CfgError, "is a binary file"),
        ("m.cfg", b"[net]\nwidth=abc\n[yolo]\n", CfgError, r"m.cfg:1 \[net\]: channels= is"),
        ("m.pt", b"text", CheckpointError, "is damaged, or no checkpoint"),
        ("m.yaml", b"", CheckpointError, "is no model description"),
        ("m.yaml", b"{{{", CheckpointError, "is no YAML"),
        ("m.yaml", b"backbone: []\nhead: [[-1, 1, Nix, [1]]]\n", CheckpointError, "Nix"),
    ],
)  # fmt: skip
def test_files_that_are_no_models(
    name: str, data: bytes, error: type[YoloPruneError], message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.cfg", "nothing.pt", "nothing.yaml"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        load(tmp_path / name)


def test_weights_belong_to_cfgs_only(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"m\.pt: takes no --weights, since it is no \.cfg"):
        load(tmp_path / "m.pt", tmp_path / "m.weights")


@pytest.mark.parametrize("at", ["save_weights", "cfg_bytes", "rename"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_writer_that_dies_leaves_the_old_model(
    at: str,
    error: BaseException | type[BaseException],
    demo: DarknetModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = save(demo, tmp_path / "m")
    old = [path.read_bytes() for path in files]
    next(demo.parameters()).data.zero_()

    def die(*_: object, **__: object) -> None:
        raise error

    if at == "rename":
        monkeypatch.setattr(Path, "replace", die)
    else:
        monkeypatch.setattr(models, at, die)
    with pytest.raises((KeyboardInterrupt, YoloPruneError)) as caught:
        save(demo, tmp_path / "m")
    monkeypatch.undo()
    if not isinstance(error, type):
        assert "No space left on device" in str(caught.value)
    assert [path.read_bytes() for path in files] == old
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "m.names"])


def test_unwritable_folder(demo: DarknetModel, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for model in (demo, nn.Conv2d(1, 1, 1)):
        with pytest.raises(YoloPruneError, match="out: cannot be written to"):
            save(model, tmp_path / "out" / "m")
    assert (tmp_path / "out").read_text() == "a file"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_fused_darknet_model_is_not_written(demo: DarknetModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is fused"):
        save(demo.fuse(verbose=False), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_class_names_travel_beside_a_cfg(tmp_path: Path) -> None:
    model, _ = load("yoloprune-demo.cfg", scratch=True)
    model.names = {0: "red cell", 1: "white cell", 2: "platelet"}  # type: ignore[assignment]
    cfg, _ = save(model, tmp_path / "cells.cfg")
    assert (tmp_path / "cells.names").read_text() == "red cell\nwhite cell\nplatelet\n"
    assert load(cfg)[0].names == model.names
    (tmp_path / "cells.names").write_text("one\ntwo\n")
    with pytest.raises(CfgError, match=r"cells\.names: has 2 names, the cfg beside it 3 classes"):
        load(cfg)


def test_known_names_need_no_file(tmp_path: Path) -> None:
    model, _ = load("yolov4-tiny.cfg", scratch=True)
    save(model, tmp_path / "net.cfg")
    assert {path.suffix for path in tmp_path.iterdir()} == {".cfg", ".weights"}
