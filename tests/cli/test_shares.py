"""``slim --ratios`` and ``--max-drop`` as they are typed: what is written, told and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.darknet.cfg import read_cfg
from yoloprune.measure.demo_data import ShapesSpec, write_shapes

REPO = Path(__file__).parents[2]
DENSE = REPO / "weights/yoloprune-demo-dense.weights"


def slim(*args: object) -> Any:
    base = ("slim", "yoloprune-demo.cfg", "--weights", DENSE)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in (*base, *args)])


def rules(folder: Path, text: str) -> Path:
    path = folder / "ratios.yaml"
    path.write_text(text)
    return path


def test_ratios_are_kept_to_and_written_down(tmp_path: Path) -> None:
    file = rules(tmp_path, "backbone: {max: 0.5}\n1: 0.25\nhead.*: 0\n")
    done = slim("--ratios", file, "--macs", 0.7, "-o", tmp_path / "out", "--json", tmp_path / "j")
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "j").read_text())
    assert record["asked"]["ratios"] == {"backbone": {"max": 0.5}, "1": 0.25, "head.*": 0}
    assert "at most 70.0% of the multiply-adds, ratios of 3 rules" in done.stdout
    before = read_cfg(REPO / "cfg/yoloprune-demo.cfg").layers
    after = read_cfg(tmp_path / "out/yoloprune-demo-slim.cfg").layers
    widths = [
        (old.get_int("filters"), new.get_int("filters"))
        for old, new in zip(before, after, strict=True)
        if "filters" in old
    ]
    assert widths[1] == (32, 24)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if i in (25, 26, 32, 33) and "filters" in old:  # the head
            assert old.get_int("filters") == new.get_int("filters")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 2\n", "ratios.yaml:1: a: got 2, expected a share"),
        ("model.1.convv: 0.5\n", "matches no layer. Near are model.1"),
        ("head: 0\n", "budget: takes nothing: --ratios sets bounds only. Give --percent"),
    ],
)
def test_ratios_that_are_none_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    done = slim("--ratios", rules(tmp_path, text), "-o", tmp_path / "out")
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_search_needs_more_than_ratios(tmp_path: Path) -> None:
    file = rules(tmp_path, "backbone: 0.5\n")
    data = write_shapes(tmp_path / "d", ShapesSpec(images=8, val=2, size=64, seed=1))
    done = slim("--ratios", file, "--search", "3s", "--calib", data, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "--search: --ratios alone sets the shares here" in done.stderr


def test_a_bound_on_ap_tells_its_trials(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "d", ShapesSpec(images=8, val=4, size=160, seed=3))
    flags = ("--data", data, "--calib-images", 8, "-o", tmp_path / "out", "--json", tmp_path / "j")
    done = slim("--max-drop", 0.9, "--macs", 0.2, "--no-repair", *flags)
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "j").read_text())
    trials = record["max_drop"]["trials"]
    assert "percent" in record["asked"] and record["asked"]["percent"] is None
    assert done.stderr.count("trial ") == len(trials)
    assert f"--max-drop 0.9: of {len(trials)} cuts the smallest that held" in " ".join(
        done.stdout.split()
    )
    page = Path(record["files"]["report"]).read_text()
    assert "The smallest within a drop of 0.9" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-drop", 0.1), "--max-drop: measures AP. Give --data"),
        (("--max-drop", 1), "--max-drop: must be at least 0 and below 1, got 1"),
        (("--max-drop", 0.1, "--dry-run"), "--dry-run: --max-drop cuts and measures before"),
        (("--split", "held-back"), "--split held-back: is of a data set. Give --data"),
    ],
)
def test_bounds_that_cannot_be_are_one_line(
    flags: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    done = slim(*flags, "-o", tmp_path / "out")
    assert done.exit_code == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
