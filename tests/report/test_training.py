"""Pictures of training: the log's numbers come out as colours and heights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yoloprune.errors import DataError
from yoloprune.report.rounds import rounds_picture
from yoloprune.report.sparsity import sparsity_picture, write_sparsity_picture
from yoloprune.train.log import LOG


def row(epoch: int, share: float, bins: tuple[int, ...], bound: float) -> dict[str, Any]:
    return {
        "epoch": epoch, "zero_share": share, "threshold": bound, "histogram_max": 2.0,
        "histogram": list(bins),
    }  # fmt: skip


def pixels(png: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[:, :, ::-1].astype(int)


def near(image: np.ndarray, colour: str) -> np.ndarray:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.abs(image - wanted).max(2) < 12


def test_the_share_at_zero_rises_as_the_log_says(tmp_path: Path) -> None:
    rows = [row(n + 1, n / 4, (0, 100, 10, 1), 1.5 - n / 4) for n in range(5)]
    (tmp_path / LOG).write_text("".join(json.dumps(r) + "\n" for r in rows))
    image = pixels(write_sparsity_picture(tmp_path).read_bytes())
    orange = near(image, "#d55e00")
    columns = np.flatnonzero(orange.any(0))
    tops = [int(np.flatnonzero(orange[:, c])[0]) for c in columns]
    assert tops[0] > tops[len(tops) // 2] > min(tops)
    assert near(image, "#0072b2").sum() > 200  # the bound
    assert near(image, "#440154").sum() > 1000  # the fullest bin, darkest


def test_a_step_length_is_no_bound() -> None:
    rows = [row(n + 1, 0.0, (5, 100, 10, 1), 0.001) for n in range(5)]
    assert near(pixels(sparsity_picture(rows)), "#0072b2").sum() == 0


def test_without_a_log_there_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sparsity.jsonl: holds no epoch. Was the training run"):
        write_sparsity_picture(tmp_path)


def test_rounds_go_down_and_the_limit_is_drawn() -> None:
    rows = [
        {"name": name, "AP": ap, "macs": macs, "params": 1e6, "latency_ms": 5.0}
        for name, ap, macs in (("dense", 0.5, 2e9), ("round1", 0.48, 1e9), ("round2", 0.3, 0.5e9))
    ]
    with_limit = pixels(rounds_picture(rows, "round1", 0.05))
    without = pixels(rounds_picture(rows, "round1", None))
    assert near(with_limit, "#d55e00").sum() > 300
    assert near(without, "#d55e00").sum() == 0
    blue = near(without, "#0072b2")
    columns = np.flatnonzero(blue.any(0))
    first, last = (np.flatnonzero(blue[:, c]).mean() for c in (columns[2], columns[-3]))
    assert last < first  # the dense network is right and above
