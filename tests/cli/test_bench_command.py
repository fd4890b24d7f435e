"""``yoloprune bench``: what it writes, says and refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.measure.bench_result import BenchResult
from yoloprune.measure.demo_data import ShapesSpec, write_shapes

REPO = Path(__file__).parents[2]
CFG, DENSE = REPO / "cfg/yoloprune-demo.cfg", REPO / "weights/yoloprune-demo-dense.weights"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data"), ShapesSpec(images=3, val=4, seed=3))


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = tmp_path_factory.mktemp("twin") / "twin.cfg"
    shutil.copy(CFG, cfg)
    shutil.copy(DENSE, cfg.with_suffix(".weights"))
    return cfg


def run(*words: object) -> Any:
    typed = ["bench", *map(str, words), "--imgsz", "64", "--repeats", "2", "--no-memory"]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, typed)


def test_it_writes_every_face_and_says_what_comes_next(
    data: Path, twin: Path, tmp_path: Path
) -> None:
    out, record = tmp_path / "out", tmp_path / "a.json"
    done = run(
        twin, "--baseline", CFG, CFG, DENSE, "--data", data, "--runtimes", "torch,opencv-darknet",
        "-o", out, "--json", record,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = BenchResult.read(out / "bench.json")
    assert [model.name for model in found.models] == ["twin", "yoloprune-demo-dense"]
    assert found.baseline.name == "yoloprune-demo-dense"
    assert [row.runtime for row in found.rows] == [*["torch"] * 2, *["opencv-darknet"] * 2]
    assert found.rows[0].metrics == found.rows[1].metrics
    assert found.command.startswith("yoloprune bench ")
    assert len(list(csv.DictReader((out / "bench.csv").read_text().splitlines()))) == 4
    assert (out / "bench.md").read_text().startswith("twin in ")
    assert "twin" in (out / "bench.html").read_text()
    assert "twin" in (out / "bench-card.md").read_text()
    written = json.loads((out / "bench.json").read_text())
    assert json.loads(record.read_text())["rows"] == written["rows"]
    assert f"results in {out}" in done.stdout
    assert "next: yoloprune export " in done.stdout
    assert "twin" in done.stdout and "opencv-darknet fp32" in done.stdout
    again = run(twin, "-o", out)
    assert again.exit_code == 1
    assert "holds results already" in again.output


def test_standard_output_can_be_the_record_alone(twin: Path, tmp_path: Path) -> None:
    done = run(twin, "--runtimes", "torch", "-o", tmp_path / "out", "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"][0]["model"] == "twin"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--runtimes", "torch,abacus"), "--runtimes: got abacus, expected some of torch,"),
        (("--precision", "int3"), "--precision: got int3, expected some of fp32, fp16, int8"),
        (("--batch", "1,x"), "--batch: got '1,x', expected numbers of at least 1"),
        (("--threads", "0"), "--threads: got '0', expected numbers of at least 1"),
        (("b.weights", "c.weights"), "c.weights: weights stand right after their .cfg"),
        (("a.cfg",), "a network stands twice, got a.cfg"),
    ],
)
def test_mistakes_are_told_in_a_line_before_any_work(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("a.cfg", *words, "-o", out)
    assert done.exit_code == 1
    assert said in done.output and "Traceback" not in done.output
    assert not out.exists()


def test_data_of_other_classes_are_refused(twin: Path, tmp_path: Path, data: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"path: {data.parent}\nval: images/val\nnames: [a, b, c, d]\n")
    done = run(twin, "--runtimes", "torch", "--data", other, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "names 4 classes, the model knows 3" in done.output
    assert not (tmp_path / "out" / "bench.json").exists()
