"""Stages: every prunable unit in one, neighbours together, heads apart."""

from __future__ import annotations

import numpy as np
import pytest
from nets import Chain

from yoloprune.channels import trace
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.stages import stages


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml", "yolov9t.yaml"])
def test_they_part_what_can_be_pruned(name: str) -> None:
    model = load(name)[0]
    graph = trace(model)
    found = stages(model, graph, count(model, 64))
    assert len(found) == 16
    units = np.concatenate([stage.units for stage in found])
    assert np.unique(units).size == units.size
    assert np.isin(np.flatnonzero(graph.prunable), units).all()
    order = {path: i for i, (path, _) in enumerate(model.named_modules())}
    first = [min(order[path] for path in stage.layers) for stage in found]
    assert first == sorted(first)


def test_branches_of_a_head_are_stages_of_their_own() -> None:
    model = load("yolov8n.yaml")[0]
    found = stages(model, trace(model), count(model, 64))
    heads = [stage.layers for stage in found if stage.layers[0].startswith("model.22.")]
    assert len(heads) >= 4
    for layers in heads:  # model.22.cv2.0 …: a kind of branch, and its size
        assert len({tuple(path.split(".")[:4]) for path in layers}) == 1


def test_few_layers_are_a_stage_each() -> None:
    model = Chain().eval()
    found = stages(model, trace(model), count(model, 32))
    assert [stage.layers for stage in found] == [("a.0",), ("b.0",)]
    assert len(stages(model, trace(model), count(model, 32), most=1)) == 1
