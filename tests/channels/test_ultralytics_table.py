"""What the table of all stock models claims, computed again by its own script."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]


def script() -> ModuleType:
    """The benchmark, as a module."""
    path = REPO / "benchmarks" / "ultralytics_table.py"
    spec = importlib.util.spec_from_file_location("ultralytics_table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TABLE = script()
FAST = ["yolov8.yaml", "yolo11-cls.yaml", "yolo26-pose.yaml"]
# Least share of conv/linear output channels, depthwise layers not counted.
SHARES = {
    "yolov8.yaml": 0.924,
    "yolov9t.yaml": 0.948,
    "yolov5.yaml": 0.928,
    "yolov10n.yaml": 0.897,
    "yolo11.yaml": 0.94,
    "yolo12.yaml": 0.95,
    "yolo26.yaml": 0.94,
    "yolo26-pose.yaml": 0.90,
}


def check(row: dict[str, str]) -> None:
    assert row["trace_ok"] == "yes", row.get("note")
    assert float(row["lossless"]) <= 1e-9
    assert float(row["control"]) > 0.1
    assert float(row["control_other"]) > 0.1
    assert row["train_ok"] == "yes"
    assert float(row["prunable"]) >= SHARES.get(row["yaml"], 0.6)


@pytest.mark.parametrize("yaml", FAST)
def test_a_stock_model_is_traced_and_cut_exactly(yaml: str) -> None:
    check(TABLE.row_of(yaml))


@pytest.mark.slow
@pytest.mark.parametrize("yaml", [y for y in TABLE.every_yaml() if y not in FAST])
def test_every_stock_model_is_traced_and_cut_exactly(yaml: str) -> None:
    check(TABLE.row_of(yaml))


def test_the_committed_table_is_of_every_model_of_this_ultralytics() -> None:
    import ultralytics

    path = REPO / f"benchmarks/results/ultralytics-{ultralytics.__version__}-trace.csv"
    if not path.is_file():
        pytest.skip(f"no table of Ultralytics {ultralytics.__version__}")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["yaml"] for row in rows] == TABLE.every_yaml()
    for row in rows:
        check(row)
