"""Checkpoints: nothing in them runs, and what is written opens in stock Ultralytics."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics.nn.tasks as ultralytics_tasks
from torch import nn
from ultralytics.nn.tasks import DetectionModel, torch_safe_load

from yoloprune.darknet.cfg import cfg_bytes, read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import CheckpointError, YoloPruneError
from yoloprune.models.checkpoint import is_finished, read_checkpoint, write_checkpoint
from yoloprune.models.door import save

REPO = Path(__file__).resolve().parents[2]


class Hostile:
    """A pickle that runs a command when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


class Unknown(nn.Module):
    """A module of a package that nobody has."""


@pytest.fixture(scope="module")
def yolo() -> DetectionModel:
    """A stock model with the odd parts: a different gamma in every channel."""
    torch.manual_seed(0)
    model = DetectionModel("yolov8n.yaml", nc=3, verbose=False).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    model.args = {"imgsz": 320, "task": "detect"}
    model.names = {0: "a", 1: "b", 2: "c"}
    return model


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would fetch or install something fails the test."""
    import ultralytics.utils.checks as checks
    import ultralytics.utils.downloads as downloads

    def fail(*args: object, **_: object) -> None:
        pytest.fail(f"tried to fetch or install {args}")

    for name in ("safe_download", "get_github_assets"):
        monkeypatch.setattr(downloads, name, fail)
    monkeypatch.setattr(ultralytics_tasks, "check_requirements", fail)
    monkeypatch.setattr(checks, "check_requirements", fail)
    monkeypatch.setattr("socket.create_connection", fail)


def saved(content: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "inside a model"])
def test_code_in_a_checkpoint_does_not_run(form: str, tmp_path: Path, no_network: None) -> None:
    marker, path = tmp_path / "marker", tmp_path / "m.pt"
    content: dict[str, Any] = {"model": Hostile(marker), "ema": None}
    if form == "inside a model":
        model = DetectionModel("yolov8n.yaml", verbose=False)
        model.extra = Hostile(marker)
        content = {"model": model}
    data = (
        pickle.dumps(content) if form == "bare pickle" else saved(content, zipped=form != "legacy")
    )
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert not marker.exists()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and "\x1b" not in message
    if form != "bare pickle":
        assert "names posix.system" in message and "--trust" in message
    pickle.loads(pickle.dumps(Hostile(marker)))  # it would have worked
    assert marker.exists()


def test_unknown_classes_ask_for_trust(tmp_path: Path, no_network: None) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(saved({"model": Unknown()}))
    with pytest.raises(CheckpointError, match=r"names \S*test_checkpoint\.Unknown.* add --trust"):
        read_checkpoint(path)
    assert type(read_checkpoint(path, trust=True)).__name__ == "Unknown"


def test_a_missing_module_is_not_installed(tmp_path: Path, no_network: None) -> None:
    """A pickle that names a package which is not there: Ultralytics would fetch it."""
    path = tmp_path / "m.pt"
    data = saved({"model": Unknown()})
    module = Unknown.__module__
    path.write_bytes(saved({"model": None}))
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith("data.pkl"):
                old, new = module.encode(), b"x" * len(module)
                assert old in content
                content = content.replace(old, new)
            target.writestr(info, content)
    with pytest.raises(CheckpointError, match="names x+"):
        read_checkpoint(path)


def damaged_files(good: bytes) -> dict[str, bytes]:
    legacy = saved({"model": None, "w": torch.ones(3)}, zipped=False)
    return {
        "empty": b"",
        "text": b"hello world\n",
        "html": b"<!DOCTYPE html><html>404</html>",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "first half": good[: len(good) // 2],
        "start": good[:60],
        "one byte short": good[:-1],
        "hole": good[:1000] + bytes(2000) + good[3000:],
        **{f"legacy {n}": legacy[:n] for n in range(0, len(legacy), 41)},
    }


@pytest.mark.parametrize("name", damaged_files(b""))  # names only
def test_damaged_files(name: str, tmp_path: Path, no_network: None) -> None:
    good = saved({"model": nn.Linear(64, 64)})
    path = tmp_path / "m.pt"
    path.write_bytes(damaged_files(good)[name])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and len(message) < 400 + len(str(path))


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"model": None}, {"model": {"w": torch.ones(1)}}, OrderedDict(w=torch.ones(1)), 7],
    ids=["list", "empty", "none", "state dict", "bare state dict", "number"],
)
def test_no_model_in_it(content: object, tmp_path: Path, no_network: None) -> None:
    (tmp_path / "m.pt").write_bytes(saved(content))
    with pytest.raises(CheckpointError, match=r"m\.pt: (holds no model|is damaged)"):
        read_checkpoint(tmp_path / "m.pt")


def test_missing_file_is_not_fetched(tmp_path: Path, no_network: None) -> None:
    for path in (tmp_path / "yolov8n.pt", Path("yolov8n.pt"), tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            read_checkpoint(path)


@pytest.mark.parametrize("name", ["yolov5n.pt", "my yolov3.pt", "it's.pt", "yolo.PT"])
def test_names_that_ultralytics_would_change(
    name: str, yolo: DetectionModel, tmp_path: Path, no_network: None
) -> None:
    path = tmp_path / name
    write_checkpoint(yolo, path)
    assert read_checkpoint(path).names == yolo.names


def test_round_trip_of_a_stock_model(yolo: DetectionModel, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in yolo.state_dict().items()}
    write_checkpoint(yolo, tmp_path / "m.pt")
    again = read_checkpoint(tmp_path / "m.pt")
    assert all(torch.equal(before[key], value) for key, value in yolo.state_dict().items())
    for key, value in again.state_dict().items():  # stored in half precision, given as float
        expected = before[key].half().float() if before[key].is_floating_point() else before[key]
        assert torch.equal(value, expected)
        assert value.dtype == before[key].dtype
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    assert again.args["imgsz"] == 320 and again.names == yolo.names


def test_cached_anchors_are_not_kept_in_half_precision(tmp_path: Path) -> None:
    """RT-DETR's are logits: rounded, they would shift every box at the size they were made for."""
    torch.manual_seed(0)
    model = ultralytics_tasks.RTDETRDetectionModel("rtdetr-l.yaml", nc=3, verbose=False).eval()
    x = torch.rand(1, 3, 64, 64)
    clean = deepcopy(model).half().float()
    with torch.no_grad():
        model(x)
        expected = clean(x)[0]
    write_checkpoint(model, tmp_path / "m.pt")
    again: Any = read_checkpoint(tmp_path / "m.pt")
    with torch.no_grad():
        again(x)
        assert torch.equal(again.model[-1].anchors, clean.model[-1].anchors)
        torch.testing.assert_close(again(x)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_value_beyond_half_precision_is_kept(yolo: DetectionModel, tmp_path: Path) -> None:
    model: Any = deepcopy(yolo)
    model.model[0].bn.running_var[0] = 1e5
    write_checkpoint(model, tmp_path / "m.pt")
    again: Any = read_checkpoint(tmp_path / "m.pt")
    assert float(again.model[0].bn.running_var[0]) == 1e5


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("yolov5n.pt", "yolov5nu.pt"),
        ("yolov3-spp.pt", "yolov3-sppu.pt"),
        ("yolov5n-slim.pt", "yolov5n-slim.pt"),
        ("yolov8n.pt", "yolov8n.pt"),
    ],
)
def test_a_name_that_stock_would_change_is_made_safe(
    asked: str, written: str, yolo: DetectionModel, tmp_path: Path, no_network: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert save(yolo, asked) == (Path(written),)
    for name in (asked, written):  # stock opens it by either
        assert ultralytics_tasks.load_checkpoint(name)[0].names == yolo.names


def test_task_and_settings_are_kept(tmp_path: Path) -> None:
    model = ultralytics_tasks.SegmentationModel("yolov8n-seg.yaml", nc=2, verbose=False)
    model.args = {"imgsz": 192, "data": "some.yaml", "epochs": 7}
    write_checkpoint(model, tmp_path / "m.pt")
    content = torch_safe_load(str(tmp_path / "m.pt"), safe_only=True)[0]
    assert content["train_args"] == {"task": "segment", **model.args}
    assert content["model"].task == "segment"


def test_ema_is_preferred(yolo: DetectionModel, tmp_path: Path) -> None:
    ema = deepcopy(yolo)
    next(ema.parameters()).data.fill_(0.25)
    (tmp_path / "m.pt").write_bytes(saved({"model": yolo, "ema": ema, "train_args": 3}))
    again = read_checkpoint(tmp_path / "m.pt")
    assert next(again.parameters()).unique().tolist() == [0.25]
    assert again.args == {}


def test_stock_ultralytics_opens_it_without_yoloprune(yolo: DetectionModel, tmp_path: Path) -> None:
    """In a process where yoloprune cannot be imported; also through the safe loader."""
    path = tmp_path / "slim.pt"
    write_checkpoint(yolo, path)
    assert isinstance(torch_safe_load(str(path), safe_only=True)[0]["model"], DetectionModel)
    x = torch.rand(1, 3, 64, 64)
    torch.save(x, tmp_path / "x")
    script = f"""
import sys; sys.modules["yoloprune"] = None
import torch; torch.set_num_threads(1)
from ultralytics import YOLO
model = YOLO({str(path)!r})
assert model.task == "detect" and model.names == {yolo.names!r}, model.names
model.model.eval()
y = model.model(torch.load({str(tmp_path / "x")!r}))[0]
torch.save(y, {str(tmp_path / "y")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    half = deepcopy(yolo).half().float()
    with torch.no_grad():
        expected = half(x)[0]
    torch.testing.assert_close(torch.load(tmp_path / "y"), expected, rtol=1e-5, atol=1e-4)


def darknet_model() -> DarknetModel:
    torch.manual_seed(0)
    return DarknetModel(read_cfg(REPO / "cfg" / "yoloprune-demo.cfg")).eval()


def test_a_darknet_model_round_trips_without_trust(tmp_path: Path, no_network: None) -> None:
    """As Ultralytics' trainer saves it: pickled whole, in half precision, its loss attached."""
    model = darknet_model()
    model.criterion = model.init_criterion()
    model.args = {"imgsz": 160}
    content = {"model": None, "ema": deepcopy(model).half(), "train_args": {"imgsz": 160}}
    (tmp_path / "last.pt").write_bytes(saved(content))
    again = read_checkpoint(tmp_path / "last.pt")
    assert isinstance(again, DarknetModel)
    assert cfg_bytes(again.cfg) == cfg_bytes(model.cfg)
    assert again.header == model.header and again.names == model.names
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        expected = deepcopy(model).half().float()(x)[0]
        torch.testing.assert_close(again(x)[0], expected, rtol=1e-5, atol=1e-4)


def test_a_darknet_model_with_every_kind_of_layer(tmp_path: Path, no_network: None) -> None:
    shared = REPO.parent / "shared" / "darknet-cfg"
    if not shared.is_dir():
        pytest.skip("needs shared/ beside the repository")
    model = DarknetModel(read_cfg(shared / "yolov2-tiny.cfg"))
    (tmp_path / "last.pt").write_bytes(saved({"model": model}))
    assert isinstance(read_checkpoint(tmp_path / "last.pt"), DarknetModel)


def test_a_writer_that_dies_leaves_the_old_checkpoint(
    yolo: DetectionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(b"old")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(yolo, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_unwritable_folder(yolo: DetectionModel, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(YoloPruneError, match="cannot be written to"):
        write_checkpoint(yolo, tmp_path / "out" / "m.pt")
    assert (tmp_path / "out").read_text() == "a file"


def test_a_run_is_resumed_only_from_a_checkpoint_that_runs_nothing(tmp_path: Path) -> None:
    path, marker = tmp_path / "last.pt", tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {marker}",)

    torch.save({"epoch": 3, "ema": Hostile()}, path)
    with pytest.raises(CheckpointError):
        is_finished(path)
    assert not marker.exists()
    for epoch, finished in ((3, False), (-1, True)):
        torch.save({"epoch": epoch}, path)
        assert is_finished(path) is finished
    torch.save({"model": None}, path)
    with pytest.raises(CheckpointError, match="is of no training run"):
        is_finished(path)
