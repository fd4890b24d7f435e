"""How much a training says: a line an epoch, --quiet, --verbose; no control characters in pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.errors import YoloPruneError
from yoloprune.files import write_bytes
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load, save

DEMO = Path(__file__).parents[2] / "cfg" / "yoloprune-demo.cfg"
INTERNAL = ("yoloprune.pt", ".final-", ".new-", "data-handed-over")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    save(load(DEMO, scratch=True)[0], tmp_path / "net.cfg")
    return tmp_path / "net.cfg"


def trained(net: Path, *flags: str, **environment: str) -> tuple[list[str], list[str]]:
    """Lines of standard output and error of a training of two epochs, in a pipe."""
    data = write_shapes(net.parent / "data", ShapesSpec(images=4, val=2, size=64))
    command = [
        sys.executable, "-m", "yoloprune", "train", net, f"data={data}", "epochs=2", "imgsz=64",
        "batch=2", "device=cpu", "plots=False", "workers=0", "-o", net.parent / "run", *flags,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for text in (done.stdout, done.stderr):
        assert not any(ord(character) < 32 and character != "\n" for character in text)
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_training_says_a_line_an_epoch_and_no_line_twice(net: Path) -> None:
    record = net.parent / "run.json"
    results, news = trained(net, "--json", str(record))
    epochs = [line for line in news if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert all("AP50:95 0." in line and "lr " in line for line in epochs)
    assert news[0] == f"training on 4 pictures, into {net.parent / 'run'}"
    assert len(set(results + news)) == len(results + news)
    assert not any(name in line for line in results + news for name in INTERNAL)
    assert results[0].startswith("best.pt: AP50:95 0.")
    assert 0 <= json.loads(record.read_text())["metrics"]["metrics/mAP50-95(B)"] <= 1


@pytest.mark.slow
def test_quiet_leaves_results_and_errors(net: Path) -> None:
    results, news = trained(net, "--quiet")
    assert news == []
    assert results[-1] == f"results in {net.parent / 'run'}"


@pytest.mark.slow
def test_verbose_is_all_that_ultralytics_says(net: Path) -> None:
    command = [sys.executable, "-m", "yoloprune", "train", str(net)]
    data = write_shapes(net.parent / "data", ShapesSpec(images=4, val=2, size=64))
    flags = [f"data={data}", "epochs=1", "imgsz=64", "batch=2", "device=cpu", "plots=False",
             "verbose=True", "-o", str(net.parent / "run")]  # fmt: skip
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Instances       Size" in done.stdout and "1 epochs completed" in done.stdout
    assert not any(name in done.stdout for name in ("yoloprune.pt", ".final-", ".new-"))
    assert not [line for line in done.stderr.splitlines() if line.startswith("epoch ")]


def test_an_export_says_no_names_of_files_that_go_again(net: Path) -> None:
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "-m", "yoloprune", "export", str(net), "imgsz=64", "-o"]
    done = subprocess.run(
        [*command, str(net.parent / "out")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout + done.stderr
    assert ".yoloprune-export-" not in said and "Export complete" not in said
    assert done.stdout.splitlines()[0] == f"wrote {net.parent / 'out' / 'net.onnx'}"
    assert f"next: yoloprune bench {net} --runtimes onnxruntime" in done.stdout


def test_json_replaces_json_alone(tmp_path: Path) -> None:
    """In other tools --json takes no file: the network behind it is not to be replaced."""
    file, words = tmp_path / "shot.png", ["targets", "--json"]
    file.write_bytes(b"\x89PNG")
    done = CliRunner().invoke(app, [*words, str(file)])
    assert done.exit_code == 2 and "no JSON" in done.stderr
    assert file.read_bytes() == b"\x89PNG"
    for name in ("new", "new", "shot.json"):
        assert CliRunner().invoke(app, [*words, str(tmp_path / name)]).exit_code == 0
        assert json.loads((tmp_path / name).read_text())["targets"]


def test_json_does_not_replace_what_the_command_has_written(tmp_path: Path) -> None:
    words = ["slim", "yoloprune-demo.cfg", "--percent", "0.3", "--no-repair", "-o", str(tmp_path)]
    target = tmp_path / "yoloprune-demo-slim.cfg"
    done = CliRunner().invoke(app, [*words, "--json", str(target)])
    assert done.exit_code == 1 and "holds a result, which it would replace" in done.stderr
    assert "[net]" in target.read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_json_goes_through_a_pipe_and_leaves_it_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = [sys.executable, "-m", "yoloprune", "targets", "--json", str(pipe)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        told = json.loads(pipe.read_text())
    assert process.returncode == 0 and told["targets"] and pipe.is_fifo()
    with pytest.raises(YoloPruneError, match="is a device or a pipe, expected a file"):
        write_bytes(pipe, b"x")
    assert pipe.is_fifo()


def test_json_does_not_replace_what_is_read(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    words = ["slim", "yoloprune-demo.cfg", "--plan", str(plan), "--json", f"{plan}"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "is read, too, and would be overwritten" in done.stderr
    assert plan.read_text() == "{}"
