"""What the guide says of masks is what `benchmarks/masks.py` recorded."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

Rows = dict[tuple[str, str, float], dict[str, str]]
WAYS = ("l1_unstructured", "global_unstructured", "ln_structured")


@pytest.fixture(scope="module")
def rows(repo: Path) -> Rows:
    with (repo / "benchmarks/results/masks-320px.csv").open(newline="") as file:
        return {
            (row["network"], row["way"], float(row["amount"])): row for row in csv.DictReader(file)
        }


def test_the_table_of_the_guide(repo: Path, rows: Rows) -> None:
    guide = (repo / "docs/guides/masks.md").read_text()
    for amount in (0.2, 0.4, 0.6, 0.8, 0.95):
        cells = [f"{float(rows['yolov8n-bccd', way, amount]['AP']):.3f}" for way in WAYS]
        assert f"| {amount:.0%} | ".replace("%", " %") + " | ".join(cells) + " |" in guide


def test_masks_change_no_cost_and_cuts_do(rows: Rows) -> None:
    for (network, way, amount), row in rows.items():
        dense = rows[network, "dense", 0.0]
        if way == "slim":
            assert float(row["macs"]) == pytest.approx(1 - amount, abs=0.01)
            assert int(row["bytes"]) < (1 - amount / 2) * int(dense["bytes"])
            continue
        assert (row["macs"], row["params"]) == ("1.0", "1.0")
        assert int(row["bytes"]) == pytest.approx(int(dense["bytes"]), rel=0.001)
        if way != "dense" and not way.endswith("-bn"):
            assert float(row["sparsity"]) == pytest.approx(amount, abs=0.05)  # whole slices
            assert int(row["zipped"]) < int(dense["zipped"])
