"""Quantisation-aware training, which Ultralytics does by ModelOpt: what it leaves is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slims
import torch

from yoloprune.models.checkpoint import fake_quantisation, read_checkpoint, write_checkpoint
from yoloprune.models.door import load
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train


def state() -> dict[str, Any]:
    """As Ultralytics writes it: ModelOpt's own record, and a range of each quantiser."""
    ranges = {"model.0.conv.input_quantizer._amax": torch.tensor(1.5)}
    return {"modelopt": {"version": "0.47"}, "ranges": ranges}


def test_a_checkpoint_holds_it(tmp_path: Path) -> None:
    model = slims.slim("yolov8n")
    write_checkpoint(model, tmp_path / "plain.pt")
    assert fake_quantisation(tmp_path / "plain.pt") is None
    write_checkpoint(model, tmp_path / "aware.pt", state())
    found = fake_quantisation(tmp_path / "aware.pt")
    assert found is not None and found["modelopt"] == {"version": "0.47"}
    assert found["ranges"].keys() == state()["ranges"].keys()
    assert slims.size(read_checkpoint(tmp_path / "aware.pt")) == slims.size(model)


@pytest.mark.slow
def test_training_leaves_it_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fake quantisation itself needs ModelOpt; here only what would be written is put in."""
    monkeypatch.setattr("ultralytics.engine.trainer.qat_state", lambda model: state())
    monkeypatch.setattr("ultralytics.nn.tasks.restore_qat", lambda model, found: None)
    model: Any = slims.slim("yolov8n")
    data = slims.pictures(tmp_path / "data", "detect")
    options = TrainOptions(
        data=str(data), epochs=1, imgsz=64, batch=2, device="cpu", extra={"plots": False}
    )
    result = train(model, tmp_path / "run", options)
    assert [file.name for file in result.files] == ["best.pt", "last.pt"]
    for file in result.files:
        found = fake_quantisation(file)
        assert found is not None and found["ranges"].keys() == state()["ranges"].keys()
    kept: Any = load(str(result.files[0]))[0]
    assert slims.size(kept.model[:-1]) == slims.size(model.model[:-1])  # but for the classes
