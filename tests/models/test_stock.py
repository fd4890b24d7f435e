"""Slim files in an environment without yoloprune: what `benchmarks/stock_check.py` finds."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

TASKS = ("yolo26n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls")


def found(repo: Path, out: Path, *models: str, repaired: bool = False) -> list[dict[str, str]]:
    script = repo / "benchmarks" / "stock_check.py"
    how = ["--out", str(out), "--bccd", "/none", *(["--repair"] if repaired else [])]
    done = subprocess.run(
        [sys.executable, str(script), *how, "--models", *models],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with out.open() as file:
        return list(csv.DictReader(file))


def assert_stock(row: dict[str, str]) -> None:
    assert row["params_loaded"] == row["params_after"]
    assert int(row["params_after"]) < 0.8 * int(row["params_before"])
    assert float(row["self_test"]) < 1e-9
    assert float(row["diff_stored"]) < 1e-6
    assert float(row["diff_half_rounding"]) < 0.02
    assert float(row["diff_fused"]) < 1e-3
    assert float(row["diff_onnx"]) < 1e-3
    assert row["predicts"] == row["validates"] == "True"
    assert row["stock_train"] == "stops with our message"


@pytest.mark.slow
@pytest.mark.parametrize("repaired", [False, True], ids=["cut", "repaired"])
def test_a_slim_file_needs_no_yoloprune(repo: Path, tmp_path: Path, repaired: bool) -> None:
    pytest.importorskip("onnxruntime")
    (row,) = found(repo, tmp_path / "rows.csv", "yolov8n", repaired=repaired)
    assert_stock(row)
    assert int(row.get("layers_repaired", 0)) > 0 or not repaired


@pytest.mark.slow
@pytest.mark.parametrize("repaired", [False, True], ids=["cut", "repaired"])
def test_no_task_needs_yoloprune(repo: Path, tmp_path: Path, repaired: bool) -> None:
    pytest.importorskip("onnxruntime")
    rows = found(repo, tmp_path / "rows.csv", *TASKS, repaired=repaired)
    assert [row["model"] for row in rows] == list(TASKS)
    for row in rows:
        assert_stock(row)


@pytest.mark.parametrize("kind", ["30pct", "30pct-repaired"])
def test_the_committed_table_holds_what_is_promised(repo: Path, kind: str) -> None:
    with (repo / "benchmarks" / "results" / f"stock-check-{kind}.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert len(rows) == 13
    for row in rows.values():
        assert int(row.get("layers_repaired", 1)) > 0
        assert row["params_loaded"] == row["params_after"]
        assert row["stock_train"] == "stops with our message"
        assert float(row["diff_stored"]) < 1e-6 and float(row["diff_onnx"]) < 1e-3
