"""The sparsity log where TensorBoard is on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from yoloprune.train.log import _to_tensorboard, read_log


def test_tensorboard_gets_what_the_log_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.utils.callbacks import tensorboard

    told: dict[str, Any] = {}
    writer = SimpleNamespace(
        add_scalar=lambda name, value, step: told.update({name: (value, step)}),
        add_histogram=lambda name, values, step: told.update({name: (values.size, step)}),
    )
    row = {"zero_share": 0.25, "threshold": 0.5, "gamma": {"p50": 0.75}}
    monkeypatch.setattr(tensorboard, "WRITER", writer, raising=False)
    _to_tensorboard(row, np.zeros(9), 3)
    assert told == {
        "sparsity/zero_share": (0.25, 3),
        "sparsity/threshold": (0.5, 3),
        "sparsity/gamma_p50": (0.75, 3),
        "sparsity/gamma": (9, 3),
    }
    monkeypatch.setattr(tensorboard, "WRITER", None, raising=False)
    _to_tensorboard(row, np.zeros(9), 4)
    assert told["sparsity/zero_share"] == (0.25, 3)


def test_no_log_has_no_lines(tmp_path: Any) -> None:
    assert read_log(tmp_path / "none.jsonl") == []
