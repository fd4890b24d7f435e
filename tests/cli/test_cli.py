"""The command line as users meet it: one line for bad input, nothing written, JSON for scripts."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.darknet.network import DarknetModel, load_weights, save_weights
from yoloprune.errors import YoloPruneError
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.checkpoint import read_checkpoint
from yoloprune.models.door import load, save

REPO = Path(__file__).parents[2]
DEMO = REPO / "cfg" / "yoloprune-demo.cfg"


def yoloprune(*args: object, cwd: Path | None = None) -> Any:
    """Run the command line as the console script does, in this process."""
    here = Path.cwd()
    os.chdir(cwd or here)
    try:
        env = {"YOLOPRUNE_WEIGHTS_URL": "http://127.0.0.1:9", "COLUMNS": "200"}
        return CliRunner(env=env).invoke(app, [str(arg) for arg in args])
    finally:
        os.chdir(here)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A small network with random weights beside its cfg, in a folder of its own."""
    folder = tmp_path / "net"
    model, _ = load(DEMO, scratch=True)
    save(model, folder / "net.cfg")
    return folder / "net.cfg"


Edit = Callable[[Path], None]


def weights(change: Callable[[bytes], bytes]) -> Edit:
    def edit(cfg: Path) -> None:
        path = cfg.with_suffix(".weights")
        path.write_bytes(change(path.read_bytes()))

    return edit


def text(old: str, new: str) -> Edit:
    def edit(cfg: Path) -> None:
        before = cfg.read_text()
        assert old in before
        cfg.write_text(before.replace(old, new, 1))

    return edit


BAD_FILES = {
    "one byte short": (weights(lambda data: data[:-1]), "needs 1 more"),
    "one float long": (weights(lambda data: data + bytes(4)), "4 bytes after the last layer"),
    "empty weights": (weights(lambda data: b""), "are no Darknet weights but empty"),
    "of another cfg": (text("filters=64", "filters=48"), "after the last layer"),
    "bad number": (text("filters=16", "filters=abc"), "filters must be an integer, got 'abc'"),
    "unknown section": (text("[maxpool]", "[frobnicate]"), "[frobnicate] is not supported"),
    "later layer": (text("layers=-1", "layers=400"), "layers must name layers before"),
    "huge filters": (text("filters=16", "filters=2000000000"), "filters must be in 1..65536"),
    "binary cfg": (lambda cfg: cfg.write_bytes(bytes(range(256)) * 8) and None, "binary file"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_line_and_nothing_is_written(
    kind: str, net: Path, tmp_path: Path
) -> None:
    edit, message = BAD_FILES[kind]
    edit(net)
    done = yoloprune("slim", net, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("percent", ["0", "1"])
def test_a_percent_out_of_range_is_one_line(percent: str, net: Path, tmp_path: Path) -> None:
    done = yoloprune("slim", net, "--percent", percent, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr == (
        f"yoloprune: --percent: must be above 0 and below 1, got {float(percent)}.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("percent", "message"),
    [
        ("1.5", "is a share from 0 to 1, got 1.5. Did you mean 0.015?"),
        ("nan", "is a share from 0 to 1, got nan."),
    ],
)
def test_a_percent_that_is_no_share_is_a_wrong_flag(
    percent: str, message: str, net: Path, tmp_path: Path
) -> None:
    done = yoloprune("slim", net, "--percent", percent, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_missing_pictures_and_unwritable_folders_are_told_first(net: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.yaml"
    data.write_text("train: nope\nval: nope\nnames: [a]\n")
    for command in (("val",), ("slim", "-o", tmp_path / "out"), ("train", "-o", tmp_path / "out")):
        done = yoloprune(*command, net, "--data", data)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert "0 images found" in done.stderr
        assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    done = yoloprune("slim", net, "-o", tmp_path / "file" / "out")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "cannot be written to" in done.stderr


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_does_not(zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    if zipped:
        torch.save({"model": Hostile(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(marker)))
    done = yoloprune("slim", path, "-o", tmp_path / "out")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert not marker.exists()
    assert not (tmp_path / "out").exists()
    with pytest.raises(YoloPruneError):
        read_checkpoint(path)


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path: Path) -> None:
    done = yoloprune("slim", "--cfg", "yolov3-tiny.cfg", "--percent", "0.5", cwd=tmp_path)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "yolov3-tiny.weights" in done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_model_must_be_named(net: Path) -> None:
    assert yoloprune("slim").exit_code == 2
    assert yoloprune("slim", net, "--cfg", net).exit_code == 2


def test_slim_keeps_to_limits(net: Path, tmp_path: Path) -> None:
    record = tmp_path / "slim.json"
    limits = ("--macs", "50%", "--bytes", "20kB", "--precision", "int8")
    done = yoloprune("slim", net, *limits, "-o", tmp_path / "out", "--json", record)
    assert done.exit_code == 0, done.stderr
    result = json.loads(record.read_text())
    assert result["after"]["macs"] <= 0.5 * result["before"]["macs"]
    assert result["asked"]["percent"] is None and result["asked"]["bytes"] == 20_000
    assert "asked: at most 50.0% of the multiply-adds, at most 20,000 int8 bytes" in done.stdout
    page = Path(result["files"]["report"]).read_text()
    assert "at most 50.0% of the multiply-adds" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--macs", "2MB"), "--macs: is neither a share nor an amount, got '2MB', expected one"),
        (("--bytes", "1"), "--bytes: is neither a share nor an amount, got '1', expected one"),
        (("--precision", "fp16"), "--precision: is what --bytes is counted in. Give that too."),
        (("--bytes", "1MB", "--precision", "f"), "--precision: unknown, got 'f', expected fp32"),
    ],
)
def test_limits_that_are_none_are_one_line(
    flags: tuple[str, ...], message: str, net: Path, tmp_path: Path
) -> None:
    done = yoloprune("slim", net, *flags, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"yoloprune: {message}") and done.stderr.count("\n") == 1


def test_slim_writes_stock_files_a_plan_and_a_report(net: Path, tmp_path: Path) -> None:
    record = tmp_path / "slim.json"
    done = yoloprune(
        "slim", net, "--percent", 0.4, "--round-to", 4, "-o", tmp_path / "out", "--json", record
    )
    assert done.exit_code == 0, done.stderr
    result = json.loads(record.read_text())
    assert result["reached"]["percent"] == pytest.approx(0.4, abs=0.03)
    assert result["self_test"]["max_rel_diff"] < 1e-9
    after = result["after"]
    cfg, stored = (Path(path) for path in result["files"]["model"])
    assert after["params"] < 0.65 * result["before"]["params"]
    assert after["macs"] < result["before"]["macs"]
    assert after["bytes"] == cfg.stat().st_size + stored.stat().st_size
    slim, _ = load(cfg)
    assert sum(p.numel() for p in slim.parameters()) == after["params"]
    widths = [m.num_features for m in slim.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(width % 4 == 0 for width in widths)
    assert json.loads(Path(result["files"]["plan"]).read_text())["source"]["sha256"]
    page = Path(result["files"]["report"]).read_text()
    assert page.startswith("<!doctype html>")
    assert result["command"].startswith(f"yoloprune slim {net} --percent 0.4 --round-to 4 -o ")
    assert result["command"] in page and result["date"] in page
    assert "not sparse" in done.stderr.lower()


def test_split_routes_leaves_no_group_and_computes_the_same(net: Path, tmp_path: Path) -> None:
    done = yoloprune("slim", net, "--percent", 0.3, "--split-routes", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "out" / "net-slim.cfg").read_text()
    assert "groups=" not in text
    load(tmp_path / "out" / "net-slim.cfg")


@pytest.mark.parametrize("cfg", ["yolov4-tiny.cfg", "yolov4-tiny-3l.cfg"])
def test_info_finds_nearly_everything_prunable(cfg: str, tmp_path: Path) -> None:
    done = yoloprune("info", "--cfg", cfg, "--json", tmp_path / "info.json", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "info.json").read_text())
    totals = record["totals"]
    assert totals["prunable_bn_channels"] >= 0.99 * totals["bn_channels"]
    prunable = {row["name"]: row["prunable"] == row["out_channels"] for row in record["layers"]}
    grouped, upsampled = (2, 10, 18), 32
    assert all(prunable[f"model.{i}.conv"] for i in (*grouped, upsampled))
    last = [row for row in record["layers"] if not row["prunable"]]
    assert all(row["reason"].startswith("output of the model") for row in last)
    assert len(last) == (2 if cfg == "yolov4-tiny.cfg" else 3)


def test_a_kill_while_saving_leaves_a_model_that_loads(tmp_path: Path) -> None:
    """Kill a process that saves in a loop, at ten moments."""
    model, _ = load(DEMO, scratch=True)
    target = tmp_path / "model.cfg"
    save(model, target)

    def forever() -> None:
        while True:
            save(model, target)

    for moment in np.linspace(0.005, 0.1, 10):
        process = multiprocessing.get_context("fork").Process(target=forever)
        process.start()
        time.sleep(float(moment))
        process.kill()
        process.join()
        loaded, _ = load(target)
        assert isinstance(loaded, DarknetModel)
    left = {path.suffix for path in tmp_path.iterdir() if path.name[0] != "."}
    assert left == {".cfg", ".names", ".weights"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sparsity", "0.8"], "--sparsity: unknown, got '0.8', expected auto, l1, prox, group."),
        (["--sparsity", "l1"], "--sparsity l1: needs --strength, a number above 0, got 0."),
        (["--percent", "1"], "--percent: must be above 0 and below 1, got 1.0."),
        (["--percent", "0.5", "--until", "0"], "--until: must be above 0 and at most 1, got 0.0."),
        (["--percent", "0.5", "--strength", "1"], "--sparsity auto: has no strength"),
        (["--criterion", "taylor"], "--criterion taylor: needs --percent, for --sparsity auto."),
        (["--teacher", "none.cfg"], "none.cfg"),
        (["--teacher", "t.pt", "--distil", "all"], "--distil: unknown, got 'all', expected featu"),
        (["--set", "lr0"], "--set: expected key=value, got 'lr0'."),
        (["--set", "learning=1"], "--set learning: is no setting of Ultralytics."),
    ],
)
def test_bad_training_wishes_are_one_line(
    flags: list[str], message: str, net: Path, tmp_path: Path
) -> None:
    data = write_shapes(tmp_path / "data", ShapesSpec(images=4, val=2, size=64))
    out = tmp_path / "run"
    done = yoloprune("train", net, "--data", data, "--epochs", 1, "--imgsz", 64, *flags, "-o", out)
    assert done.exit_code == 1
    assert message in done.stderr
    assert len([line for line in done.stderr.splitlines() if "yoloprune:" in line]) == 1
    assert not list(out.rglob("*.weights"))


def test_a_bad_recipe_is_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: a.pt\ndata: b.yaml\nslim: {percent: 0.5, percnt: 1}\n")
    done = yoloprune("run", recipe, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"yoloprune: {recipe}:3: slim.percnt: is unknown, expected one")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_sparse_training_makes_the_cut_free(net: Path, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", ShapesSpec(images=16, val=4, size=64))
    common = ["--data", data, "--imgsz", 64, "--device", "cpu"]
    quiet = ["--set", "plots=False", "--set", "nbs=8", "--batch", 8]
    trained = yoloprune(
        "train", net, *common, *quiet, "--epochs", 3, "--percent", 0.4, "-o", tmp_path / "sparse",
        "--json", tmp_path / "train.json",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    record = json.loads((tmp_path / "train.json").read_text())
    assert 0.3 < record["sparsity"]["zero_share"] < 0.5
    assert "prunable units stand at zero" in trained.stdout
    assert "--criterion taylor, for the scales were not trained sparse: 0%" in trained.stderr
    assert Path(record["files"]["sparsity"]).is_file()
    best = tmp_path / "sparse/weights/best.cfg"
    slimmed = yoloprune(
        "slim", best, "--percent", 0.4, "--imgsz", 64, "--device", "cpu", "-o", tmp_path / "slim",
        "--json", tmp_path / "slim.json",
    )  # fmt: skip
    assert slimmed.exit_code == 0, slimmed.stderr
    assert json.loads((tmp_path / "slim.json").read_text())["reached"]["threshold"] == 0
    assert "not sparse" not in slimmed.stderr
    picture = torch.rand(1, 3, 64, 64)
    sparse, thin = (load(p)[0] for p in (best, tmp_path / "slim/best-slim.cfg"))
    torch.testing.assert_close(thin(picture)[0], sparse(picture)[0], rtol=1e-4, atol=1e-4)
    tuned = yoloprune(
        "train", tmp_path / "slim/best-slim.cfg", *common, *quiet, "--epochs", 1,
        "--teacher", best, "--distil", "feature", "-o", tmp_path / "tuned",
    )  # fmt: skip
    assert tuned.exit_code == 0, tuned.stderr
    assert "train/dis_loss" in (tmp_path / "tuned/results.csv").read_text()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['yoloprune', '--help']\n"
        "from yoloprune.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ultralytics', 'cv2', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_weights_survive_a_save_and_a_load(net: Path, tmp_path: Path) -> None:
    model, source = load(net)
    assert isinstance(model, DarknetModel)
    assert source.weights is not None
    save_weights(model, tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes() == source.weights.read_bytes()
    load_weights(model, tmp_path / "again.weights")


def test_slim_repairs_on_pictures_without_labels(net: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", ShapesSpec(images=12, val=2, size=64))
    shutil.rmtree(tmp_path / "data/labels")
    shots = tmp_path / "data/images/train"
    common = ("slim", net, "--percent", 0.4, "--imgsz", 64, "--calib")
    done = yoloprune(*common, shots, "-o", tmp_path / "a", "--json", tmp_path / "a.json")
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["criterion"], record["scope"]) == ("recon", "local")
    repair = record["repair"]
    assert (repair["pictures"], repair["held_out"]) == (12, 3)
    assert all(layer["after"] <= layer["before"] for layer in repair["layers"])
    assert sum(layer["after"] < 0.8 * layer["before"] for layer in repair["layers"]) >= 2
    assert record["self_test"]["max_rel_diff"] < 1e-9
    assert record["verdict"]["next"] in done.stdout
    assert "the slim network" in done.stdout and "repaired on 12 pictures" in done.stdout
    plain = yoloprune(*common, shots, "--no-repair", "-o", tmp_path / "b", "--criterion", "recon")
    assert plain.exit_code == 0 and "not sparse" in plain.stderr
    assert "repaired on" not in plain.stdout
    one = next(shots.iterdir())
    refused = yoloprune(*common, one, "-o", tmp_path / "c")
    assert refused.exit_code == 1 and not (tmp_path / "c").exists()
    assert f"--calib {one}: has 1 picture, expected at least 2" in refused.stderr


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_a_teacher_alone_needs_pictures_only(net: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", ShapesSpec(images=8, val=1, size=64))
    pictures = tmp_path / "data/images/train"
    common = ["--imgsz", 64, "--device", "cpu", "--batch", 4, "--set", "plots=False"]
    done = yoloprune(
        "train", net, "--teacher", net, "--pictures", pictures, "--steps", 1, *common,
        "-o", tmp_path / "run", "--json", tmp_path / "run.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "learning from the teacher alone, no label is read" in done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["pictures"] == str(pictures) and record["data"] is None
    assert all(Path(file).is_file() for file in record["files"]["model"])
    begun = json.loads((tmp_path / "run/train.json").read_text())["settings"]
    assert (begun["pictures"], begun["steps"], begun["preset"]) == (str(pictures), 1, "keep")
    for flags, message in (
        ([], "--data: is missing. Give a data YAML; or, without labels, --pictures and --teacher."),
        (["--pictures", pictures], "--pictures: needs --teacher"),
        (["--pictures", pictures, "--teacher", net, "--distil", "output"], "--distil, --distil-w"),
    ):
        done = yoloprune("train", net, *flags, *common, "-o", tmp_path / "no")
        assert done.exit_code == 1
        assert done.stderr.startswith(f"yoloprune: {message}"), done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_info_lists_blocks(tmp_path: Path) -> None:
    done = yoloprune("info", "yolov8n.yaml", "--blocks", "--imgsz", 64)
    assert done.exit_code == 0, done.stderr
    assert "model.4.m.1" in done.stdout
    assert "model.12.m.0 cannot go: it gives its branch alone" in done.stdout
    assert "6 of 10 blocks may go whole (18.0% of the MACs)" in done.stdout
