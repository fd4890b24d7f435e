"""Networks that several tests of exports use."""

from __future__ import annotations

import nets
import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune.channels import trace
from yoloprune.prune.cut import cut_units


@pytest.fixture(scope="module")
def slim() -> nn.Module:
    """Half of a YOLOv8n with random weights."""
    torch.manual_seed(0)
    model = nets.randomised(DetectionModel("yolov8n.yaml", nc=3, verbose=False))
    graph = trace(model)
    return cut_units(model, graph, nets.random_units(graph, 0.5))
