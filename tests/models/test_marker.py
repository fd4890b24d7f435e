"""The mark in a checkpoint: on slim models only, fatal to a rebuild, unseen by the rest."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, parse_model

from yoloprune.channels import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.models.checkpoint import read_checkpoint, write_checkpoint
from yoloprune.models.marker import MESSAGE, is_marked, mark, unmarked
from yoloprune.prune.cut import cut_units

# yolov6 names an activation, yolov9t and yolov10n have no scales, the world has its text trainer
CONFIGS = [
    "yolov8n",
    "yolov6n",
    "yolov9t",
    "yolov10n",
    "yolo26n-seg",
    "yolo12n-cls",
    "yolov8s-world",
]


def build(name: str) -> Any:
    return YOLO(f"{name}.yaml", verbose=False).model


def slim(model: nn.Module) -> Any:
    graph = trace(model.eval())
    return cut_units(model, graph, nets.random_units(graph, 0.2))


@pytest.mark.parametrize("name", CONFIGS)
def test_only_a_slim_model_is_marked(name: str) -> None:
    model = build(name)
    plain = deepcopy(model.yaml)
    mark(model)
    assert model.yaml == plain
    thin = slim(model)
    mark(thin)
    assert is_marked(thin.yaml)
    assert unmarked(thin.yaml) == plain
    once = deepcopy(thin.yaml)
    mark(thin)
    assert thin.yaml == once
    activation = Conv.default_act
    with pytest.raises(KeyError, match=re.escape(MESSAGE)):
        parse_model(deepcopy(thin.yaml), ch=3)
    assert Conv.default_act is activation  # it stops before the YAML's own takes its place
    thin.model, thin.yaml = model.model, thin.yaml
    mark(thin)
    assert thin.yaml == plain  # a model that is what its YAML says loses the mark


def test_a_rebuild_by_the_models_own_class_says_why() -> None:
    thin = slim(build("yolov8n"))
    mark(thin)
    with pytest.raises(KeyError, match="slimmed by yoloprune.*trainer_for"):
        DetectionModel(thin.yaml, nc=3, verbose=False)


def test_text_models_are_rebuilt_from_the_name_of_their_file() -> None:
    thin = slim(build("yolov8s-world"))
    mark(thin)
    with pytest.raises(FileNotFoundError, match="slimmed by yoloprune.*trainer_for"):
        type(thin)(thin.yaml["yaml_file"], nc=3, verbose=False)


def test_a_network_of_darknets_is_left_alone(repo: Path) -> None:
    model = DarknetModel(read_cfg(repo / "cfg" / "yoloprune-demo.cfg"))
    before = deepcopy(model.yaml)
    mark(model)
    assert model.yaml == before


def test_a_model_of_unknown_layers_is_left_alone() -> None:
    model = slim(build("yolov8n"))
    model.yaml["backbone"][0][2] = "MyOwnConv"
    activation = Conv.default_act
    mark(model)
    assert not is_marked(model.yaml)
    assert Conv.default_act is activation


def test_the_mark_survives_reading_and_writing(tmp_path: Path) -> None:
    model = build("yolov8n")
    write_checkpoint(model, tmp_path / "full.pt")
    assert not is_marked(read_checkpoint(tmp_path / "full.pt").yaml)
    thin = slim(model)
    write_checkpoint(thin, tmp_path / "a.pt")
    assert not is_marked(thin.yaml)  # the model that was given is not modified
    again = read_checkpoint(tmp_path / "a.pt")
    write_checkpoint(again, tmp_path / "b.pt")
    assert read_checkpoint(tmp_path / "b.pt").yaml == again.yaml
    assert is_marked(again.yaml)


def test_a_marked_model_can_be_slimmed_again(tmp_path: Path) -> None:
    thin = slim(build("yolov8n"))
    write_checkpoint(thin, tmp_path / "a.pt")
    thinner = slim(read_checkpoint(tmp_path / "a.pt"))
    with torch.no_grad():
        assert thinner(torch.rand(1, 3, 64, 64))[0].shape == (1, 84, 84)
    mark(thinner)
    assert unmarked(thinner.yaml)["scale"] == "n"
