"""By what ``auto`` chooses where nobody said: told from the scales, and kept by a resume."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slims
import torch
from torch import nn

from tests.nets import CONV, randomised
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.train.criterion import near_zero_share, settled
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.sparsity import PlannedShrinking, sparsity_of
from yoloprune.train.trainer import KeepingDetectionTrainer

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)
BUDGET = Budget(percent=0.5, min_channels=2)
AUTO = SparsityOptions(budget=BUDGET)


def network(zeros: int = 0) -> nn.Module:
    """Two convs of 16 and 24 channels; the first scales of each are zero."""
    torch.manual_seed(0)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + CONV.format(16) + CONV.format(24) + HEAD
    model: Any = randomised(DarknetModel(parse_cfg(text)))
    for layer in (0, 1):
        model.model[layer].bn.weight.data[:zeros] = 0
    return model  # type: ignore[no-any-return]


RNG = np.random.default_rng(0)
HALVES = RNG.uniform(0.3, 3.0, 400)


@pytest.mark.parametrize(
    ("scales", "share"),
    [
        (np.geomspace(0.24, 3.5, 500), 0.0),  # by layer, as in a network from COCO
        (np.ones(500), 0.0),
        (np.concatenate([np.zeros(600), HALVES]), 0.6),
        (np.concatenate([RNG.uniform(-0.004, 0.004, 600), HALVES]), 0.6),  # what l1 leaves
        (np.concatenate([RNG.uniform(0.001, 0.002, 50), -HALVES, HALVES[:50]]), 0.1),
        (np.concatenate([HALVES, [500.0]]), 0.0),  # one that stands out hides nothing
        (np.zeros(5), 1.0),
    ],
)
def test_the_share_near_zero(scales: np.ndarray, share: float) -> None:
    assert near_zero_share(scales) == pytest.approx(share, abs=1e-12)


def test_scales_that_were_trained_sparse_are_believed() -> None:
    for model, expected in ((network(), "taylor"), (network(zeros=8), "gamma")):
        options, why = settled(AUTO, model, trace(model))
        assert options == replace(AUTO, criterion=expected), why  # type: ignore[arg-type]
    assert why.endswith("trained sparse: 40% of the prunable ones are near zero")
    demo = load("yoloprune-demo.cfg")[0]  # its weights were trained so that 60 % are zero
    assert settled(AUTO, demo, trace(demo))[0].criterion == "gamma"


def test_a_network_from_coco_is_asked_by_its_loss(shared: Path) -> None:
    model = load(shared / "weights/yolov5nu-bccd.pt")[0]
    options, why = settled(AUTO, model, trace(model))
    assert options.criterion == "taylor"
    assert why == "for the scales were not trained sparse: 0% of the prunable ones are near zero"


def test_what_is_asked_for_stands_and_penalties_look_at_scales() -> None:
    sparse = network(zeros=8)
    asked = SparsityOptions(budget=BUDGET, criterion="taylor")
    assert settled(asked, sparse, trace(sparse))[0] is asked
    dense = network()
    penalty = SparsityOptions(budget=BUDGET, method="l1", strength=1.0)
    assert settled(penalty, dense, trace(dense))[0].criterion == "gamma"
    method = sparsity_of(dense, trace(dense), AUTO)
    assert isinstance(method, PlannedShrinking) and method.state_dict()["taylor"] is not None


def options(data: Path, criterion: Any = None) -> TrainOptions:
    return TrainOptions(
        data=str(data), epochs=3, imgsz=64, batch=4, device="cpu", resume=True,
        sparsity=SparsityOptions(budget=BUDGET, criterion=criterion),
        extra={
            "plots": False, "verbose": False, "optimizer": "AdamW", "lr0": 0.01, "nbs": 4,
            "warmup_epochs": 0, "close_mosaic": 0, "workers": 0, "val": False,
        },
    )  # fmt: skip


class KilledError(Exception):
    """The power went."""


def test_a_resume_does_not_decide_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "yoloprune")
    data = slims.pictures(tmp_path / "data", "detect", count=8)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(network(), whole, options(data, "taylor"))
    assert "--criterion" not in caplog.text
    real = KeepingDetectionTrainer.run_callbacks

    def run_callbacks(self: Any, event: str) -> None:
        real(self, event)
        if event == "on_train_batch_end" and self.epoch == 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", run_callbacks)
        with pytest.raises(KilledError):
            train(network(), killed, options(data))
    assert "--criterion taylor, for the scales were not trained sparse: 0%" in caplog.text
    begun = json.loads((killed / "train.json").read_text())
    assert begun["settings"]["sparsity"]["criterion"] == "taylor"
    train(network(zeros=8), killed, options(data))  # which alone would say gamma
    assert "--criterion taylor, as the run was begun" in caplog.text
    file = "weights/last.weights"
    assert (killed / file).read_bytes() == (whole / file).read_bytes()
