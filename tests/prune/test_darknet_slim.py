"""Darknet networks, cut: exact in float64, and the written files give the same in OpenCV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.nets import random_units
from tests.peers import agrees_in_opencv, picture_for
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel, load_weights
from yoloprune.errors import CfgError
from yoloprune.models.door import save
from yoloprune.prune.cut import cut_units, self_test

REPO = Path(__file__).parents[2]
SHARED = REPO.parent / "shared"
CFGS = sorted((SHARED / "darknet-cfg").glob("*.cfg"))
TRAINED = sorted((SHARED / "weights").glob("*.cfg"))
SHIPPED = sorted((REPO / "cfg").glob("*.cfg"))
FAST = {"yolov4-tiny.cfg", "yolov3-tiny.cfg", "yoloprune-demo.cfg", "yolo-fastest-1.1.cfg"}


def marked(paths: list[Path]) -> list[object]:
    """Parameters named after their file; all but a few are slow."""
    return [
        pytest.param(path, id=path.name, marks=() if path.name in FAST else pytest.mark.slow)
        for path in paths
    ]


def network(path: Path) -> DarknetModel:
    """A cfg with its trained weights where they lie beside it, else with random ones."""
    try:
        model = DarknetModel(read_cfg(path))
    except CfgError as exc:
        pytest.skip(f"refused: {exc}")
    weights = path.with_suffix(".weights")
    if weights.is_file() and weights.parent == SHARED / "weights":
        load_weights(model, weights)
        return model.eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5)):
                tensor.data = torch.rand(module.num_features, generator=generator) + low  # type: ignore[union-attr]
            for tensor in (module.bias, module.running_mean):
                tensor.data = 0.2 * torch.randn(module.num_features, generator=generator)  # type: ignore[union-attr]
    return model.eval()


@pytest.mark.parametrize("path", marked(CFGS + TRAINED + SHIPPED))
def test_a_random_cut_is_lossless_and_opencv_agrees(path: Path, tmp_path: Path) -> None:
    model = network(path)
    graph = trace(model)
    remove = random_units(graph, share=0.4)
    assert remove.size >= 0.2 * graph.prunable.sum()
    slim = cut_units(model, graph, remove, compensate=False)

    exact = self_test(model, graph, remove, slim, example=picture_for(model))
    assert exact.max_rel_diff <= 1e-9
    untouched = cut_units(model, graph, np.zeros(0, dtype=np.int64), compensate=False)
    assert (
        self_test(model, graph, remove, untouched, example=picture_for(model)).max_rel_diff > 1e-3
    )

    assert isinstance(slim, DarknetModel)
    written = save(slim, tmp_path / "slim.cfg")
    assert agrees_in_opencv(slim, *written)
