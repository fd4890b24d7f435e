"""Nothing of another run's, or of the user's, is replaced unasked."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from yoloprune.cli.folders import there
from yoloprune.cli.main import app
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load, save

REPO = Path(__file__).parents[2]
ENDS = (".cfg", ".weights", ".names", "-plan.json", "-report.html", "-card.md")
SLIM = {f"net-slim{end}" for end in ENDS}


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network, in the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save(load(REPO / "cfg/yoloprune-demo.cfg", scratch=True)[0], tmp_path / "net.cfg")
    return tmp_path / "net.cfg"


def yoloprune(*args: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args])


def slim(net: Path, *args: object) -> Any:
    return yoloprune("slim", net, "--percent", 0.3, "--imgsz", 64, "--device", "cpu", *args)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(done: Any, *parts: str) -> None:
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert all(part in done.stderr for part in parts), done.stderr


def test_folders_count_up_and_the_last_line_names_them(net: Path) -> None:
    for folder in ("runs/slim", "runs/slim2", "runs/slim3"):
        done = slim(net)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"results in {folder}"
        assert names(Path(folder)) == SLIM
    assert there(Path("runs"), "slim") == [Path(f"runs/slim{n}") for n in ("3", "2", "")]
    Path("runs/slim-of-mine").mkdir()
    assert there(Path("runs"), "slim")[0] == Path("runs/slim3")


def test_a_run_that_fails_leaves_no_folder(net: Path) -> None:
    net.with_suffix(".weights").write_bytes(b"short")
    assert slim(net).exit_code == 1
    assert slim(net, "-o", "deep/er/out").exit_code == 1
    assert names(Path()) == {"net.cfg", "net.weights", "net.names"}


def test_results_are_replaced_only_when_told(net: Path) -> None:
    out = Path("out")
    assert slim(net, "-o", out).exit_code == 0
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.iterdir()}
    kept = net.with_suffix(".weights").read_bytes()
    net.with_suffix(".weights").write_bytes(b"short")  # nothing is loaded to find out
    refused(slim(net, "-o", out), "out: holds results already, such as net-slim.cfg", "--overwrite")
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    net.with_suffix(".weights").write_bytes(kept)
    done = slim(net, "-o", out, "--percent", 0.5, "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert (out / "net-slim.weights").read_bytes() != before[out / "net-slim.weights"]
    assert (out / "notes.txt").read_text() == "mine"


def test_two_models_share_a_folder(net: Path) -> None:
    save(load(net)[0], "other.cfg")
    for model in (net, Path("other.cfg")):
        done = slim(model, "-o", "out")
        assert done.exit_code == 0, done.stderr
    assert names(Path("out")) == SLIM | {name.replace("net", "other") for name in SLIM}


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:77", "is not there, got 'cuda:77'"), ("0,93", "is not there"), ("nonsense", "is no d")],
)
@pytest.mark.parametrize("command", ["slim", "train", "export", "predict"])
def test_a_device_that_is_not_there_is_told_first(
    command: str, device: str, message: str, tmp_path: Path
) -> None:
    more = {"train": ["--data", "none.yaml"], "predict": ["1.jpg"]}.get(command, [])
    done = yoloprune(command, "no-such.cfg", *more, "--device", device, "-o", tmp_path / "out")
    refused(done, f"--device: {message}", "expected one of cpu")
    assert not (tmp_path / "out").exists()


def test_a_format_that_is_none_is_told_first(tmp_path: Path) -> None:
    done = yoloprune("export", "no-such.cfg", "--format", "nonsense", "-o", tmp_path / "out")
    refused(done, "--format: unknown, got 'nonsense', expected one of torchscript, onnx")
    missing = next(
        (name for name in ("paddle", "ncnn", "tensorrt") if importlib.util.find_spec(name) is None),
        None,
    )
    if missing:
        kind = {"tensorrt": "engine"}.get(missing, missing)
        done = yoloprune("export", "no-such.cfg", "--format", kind, "-o", tmp_path / "out")
        refused(done, f"{kind}: needs {missing}, which is not installed")
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_only_what_an_export_made(tmp_path: Path) -> None:
    from yoloprune.errors import ExportError
    from yoloprune.models.formats import put

    def made(content: str) -> Path:
        folder = tmp_path / "made"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/model.bin").write_text(content)
        (folder / f"{content}.txt").write_text(content)
        return folder

    target = tmp_path / "net_openvino_model"
    (target / "deep").mkdir(parents=True)
    (target / "deep/precious").write_text("mine")
    with pytest.raises(ExportError, match="is a folder that no export of yoloprune made"):
        put(made("one"), target)
    assert (target / "deep/precious").read_text() == "mine"
    target.rename(tmp_path / "kept")
    put(tmp_path / "made", target)
    put(made("two"), target)
    assert not (target / "one.txt").exists()
    (target / "deep/precious").write_text("mine")
    put(made("three"), target)
    found = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    marker = ".yoloprune-export.json"
    assert found == {"deep/model.bin", "deep/precious", "three.txt", marker}
    assert (target / "deep/model.bin").read_text() == "three"
    assert set(json.loads((target / marker).read_text())["files"]) == {
        "deep/model.bin", "three.txt"
    }  # fmt: skip


@pytest.mark.parametrize("linked", [False, True])
def test_predict_never_touches_an_input(linked: bool, net: Path) -> None:
    write_shapes(Path("data"), ShapesSpec(images=2, val=1, size=64))
    pictures = sorted(Path("data").rglob("*.jpg")) or sorted(Path("data").rglob("*.png"))
    one = pictures[0].read_bytes()
    for name in ("a/1.png", "a/1.jpg", "b/1.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(one)
    out = Path("a")
    if linked:
        Path("link").symlink_to("a")
        out = Path("link")
    inputs = ["a/1.jpg", "a/1.png", "b/1.jpg"]
    command = ["predict", net, *inputs, "-o", out, "--imgsz", 64, "--device", "cpu"]
    done = yoloprune(*command)
    assert done.exit_code == 0, done.stderr
    assert all(Path(name).read_bytes() == one for name in inputs)
    assert names(Path("a")) == {"1.jpg", "1.png", "1-2.jpg", "1-2.png", "1-3.jpg"}
    refused(yoloprune(*command), "1-2.jpg: is there already")
    assert yoloprune(*command, "--overwrite").exit_code == 0
    assert all(Path(name).read_bytes() == one for name in inputs)


def test_training_resumes_the_newest_unfinished_run_only(net: Path) -> None:
    from yoloprune.train.folder import Begun

    done = yoloprune("train", net, "--data", "d.yaml", "--resume")
    refused(done, "--resume: there is no unfinished run in runs/train")
    (Path("runs/train/weights")).mkdir(parents=True)
    Path("runs/train/weights/best.cfg").write_text("x")
    Begun(settings={}, files=("weights/best.cfg",)).write(Path("runs/train"))
    refused(yoloprune("train", net, "--data", "d.yaml", "--resume"), "there is no unfinished run")
    done = yoloprune("train", net, "--data", "d.yaml", "--resume", "-o", "runs/train")
    refused(done, "runs/train is finished, its results are weights/best.cfg", "to begin another")
    done = yoloprune("train", net, "--data", "d.yaml", "-o", "runs/train")
    refused(done, "runs/train: holds a run already, such as weights/best.cfg")


def test_a_run_that_was_killed_at_its_very_end_is_completed(net: Path) -> None:
    from yoloprune.train.folder import Begun
    from yoloprune.train.log import LOG

    folder = Path("runs/train")
    folder.mkdir(parents=True)
    (folder / "best.cfg").write_text("x")
    row = {"epoch": 1, "zero_share": 0.5, "threshold": 0.1, "histogram_max": 1.0, "histogram": [3]}
    (folder / LOG).write_text(json.dumps(row) + "\n")
    for left in (".lock", ".sparsity.png.ab12cd34.yptmp"):
        (folder / left).write_text("half")
    Begun(settings={}, files=("best.cfg",)).write(folder)
    done = yoloprune("train", net, "--data", "d.yaml", "--resume", "-o", folder)
    refused(done, "runs/train is finished")
    assert names(folder) == {"best.cfg", "sparsity.png", "train.json", LOG}


@pytest.fixture(scope="module")
def kills() -> Any:
    spec = importlib.util.spec_from_file_location("kills", REPO / "benchmarks" / "kills.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("slim", 2),
        ("export", 2),
        pytest.param("slim", 4, marks=pytest.mark.slow),
        pytest.param("export", 4, marks=pytest.mark.slow),
        pytest.param("train", 6, marks=pytest.mark.slow),
        pytest.param("run", 6, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_a_file_operation_loses_nothing(
    command: str, count: int, kills: Any, tmp_path: Path
) -> None:
    place = tmp_path.resolve()
    data, net = kills.tiny(place)
    whole = kills.undisturbed(command, place, data, net)
    assert len(whole.results) >= 1
    cases = [
        kills.killed(command, operation, whole, place, data, net)
        for operation in kills.moments(whole.operations, count)
    ]
    assert {case.verdict for case in cases} == {"ok"}, [c for c in cases if c.verdict != "ok"]
