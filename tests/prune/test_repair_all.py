"""Repair of every configuration of both families, by the script that fills their table."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]
FAST = {"yolo11-cls.yaml"}


def script() -> ModuleType:
    """The benchmark, as a module."""
    sys.path.insert(0, str(REPO / "benchmarks"))
    try:
        import repair_all
    finally:
        sys.path.pop(0)
    return repair_all


ALL = script()


def marked() -> list[object]:
    """All configurations; all but a few are slow."""
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in ALL.configurations()
    ]


@pytest.mark.parametrize("configuration", marked())
def test_no_layer_is_worse_on_pictures_held_out(configuration: str) -> None:
    row, record, _ = ALL.row_of(configuration)
    assert row.self_test <= 1e-9 and row.finite
    assert record.held_out == 3 and record.pictures == 12
    for layer in record.layers:
        assert layer.after <= layer.before, layer
    assert 0 < row.repaired <= row.off <= row.layers
    assert row.after < row.before
