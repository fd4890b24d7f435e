"""Networks that no line of yoloprune knows, slimmed by the script that fills their table."""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
SMALL = ("squeezenet1_1", pytest.param("yolox_like_nano", marks=pytest.mark.slow))


def script() -> ModuleType:
    """The benchmark, as a module."""
    sys.path.insert(0, str(REPO / "benchmarks"))
    try:
        import torchvision_table
    finally:
        sys.path.pop(0)
    return torchvision_table


TABLE = script()
NETWORKS = {network.name: network for network in TABLE.networks()}


def check(row: Any) -> None:
    assert row.self_test <= 1e-9
    assert row.macs_left <= row.macs_asked
    assert 0 < row.layers <= row.off
    assert row.after < row.before
    assert row.outputs_before > 0.01, "what went did not matter"


def test_every_network_of_torchvision_is_listed_once() -> None:
    from torchvision import models

    parts = (models, models.segmentation, models.detection)
    listed = {name for part in parts for name in models.list_models(part)}
    assert set(NETWORKS) - listed == {"yolox_like_nano", "yolox_like_s"}
    assert listed <= set(NETWORKS) and len(TABLE.networks()) == len(NETWORKS)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_slimmed_by_one_call(name: str) -> None:
    network = replace(NETWORKS[name], side=64)
    if name.startswith("yolox"):
        network = replace(network, build=lambda: TABLE.YoloxLike(width=8))
    check(TABLE.row_of(network))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLE.FIRST if name not in SMALL])
def test_one_of_each_family_is_slimmed_by_one_call(name: str) -> None:
    check(TABLE.row_of(NETWORKS[name]))


def test_the_table_holds_what_the_guide_says_of_it() -> None:
    with (REPO / "benchmarks/results/torchvision.csv").open(newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    page = (REPO / "docs/guides/your-own-network.md").read_text().replace("\n", " ")
    assert set(rows) <= set(NETWORKS)
    assert f" {len(NETWORKS)} networks" in page and f" {len(rows)} were run" in page
    done = {name: row for name, row in rows.items() if not row["note"].startswith("failed")}
    for name, row in done.items():
        off = float(row["self_test"])
        assert off <= 1e-9 or (off <= 1e-5 and name in page), name  # blows rounding up
        assert float(row["macs_left"]) <= float(row["macs_asked"])
        assert row["macs_asked"] == "0.5" or name in page
    for name in set(rows) - set(done):
        assert name in page, "what failed is told"
    for name, left in re.findall(r"\| (\w+) \| (0\.\d+) \| 0\.\d+ \|", page):
        assert left == f"{float(done[name]['macs_left']):.2f}"
    errors = re.findall(r"\| (\w+) \|(?:[^|]*\|){4} ([\d.e+-]+) → ([\d.e+-]+) \|", page)
    assert len(errors) >= 10
    for name, *told in errors:
        assert told == [f"{float(done[name][f'outputs_{k}']):.2g}" for k in ("before", "after")], (
            name
        )
