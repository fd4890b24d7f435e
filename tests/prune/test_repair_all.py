"""Repair of every configuration of both families, by the script that fills their table."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests.peers import agrees_in_opencv, picture_for
from yoloprune.darknet.network import DarknetModel
from yoloprune.models.door import load, save
from yoloprune.prune.repair import RepairRecord

REPO = Path(__file__).resolve().parents[2]
FAST = {"yolov4-tiny.cfg"}


def script() -> ModuleType:
    """The benchmark, as a module."""
    sys.path.insert(0, str(REPO / "benchmarks"))
    try:
        import repair_all
    finally:
        sys.path.pop(0)
    return repair_all


ALL = script()
Done = tuple[Any, RepairRecord, nn.Module]
"""Row, record of all layers, repaired model."""


def marked() -> list[object]:
    """All configurations; all but a few are slow."""
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in ALL.configurations()
    ]


@pytest.fixture(scope="module", params=marked())
def done(request: pytest.FixtureRequest) -> Done:
    """One configuration, cut and repaired."""
    return ALL.row_of(request.param)


def test_no_layer_is_worse_on_pictures_held_out(done: Done) -> None:
    row, record, _ = done
    assert row.self_test <= 1e-9 and row.finite
    assert record.held_out == 3 and record.pictures == 12
    for layer in record.layers:
        assert layer.after <= layer.before, layer
    assert 0 < row.repaired <= row.off <= row.layers
    assert row.after < row.before


def test_repaired_darknet_files_load_and_agree_elsewhere(done: Done, tmp_path: Path) -> None:
    _, _, model = done
    if not isinstance(model, DarknetModel):
        pytest.skip("Ultralytics: tests/models/test_stock.py")
    cfg, weights = save(model, tmp_path / "repaired.cfg")
    x = picture_for(model)
    again, _ = load(str(cfg), str(weights))
    with torch.no_grad():
        torch.testing.assert_close(again(x)[0], model(x)[0])
    assert agrees_in_opencv(model, cfg, weights)
