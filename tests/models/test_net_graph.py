"""Operations of exported networks: where they stand, and which go to 8 bits together."""

from __future__ import annotations

import pytest

from yoloprune.models.net_graph import NetGraph, Node, group_of, matching, onnx_place


def head() -> NetGraph:
    """Picture → a → act → b → two branches, each a layer and a last one → decoding."""
    return NetGraph(
        [
            Node("a", "Conv", "model.0.conv", True, ()),
            Node("sigmoid", "Sigmoid", "model.0.act", False, (0,)),
            Node("mul", "Mul", "model.0.act", False, (0, 1)),
            Node("b", "Conv", "model.1.cv1.conv", True, (2,)),
            Node("box", "Conv", "model.2.cv2.0.0.conv", True, (3,)),
            Node("box last", "Conv", "model.2.cv2.0.1", True, (4,)),
            Node("class", "Conv", "model.2.cv3.0.0.conv", True, (3,)),
            Node("class last", "Conv", "model.2.cv3.0.1", True, (6,)),
            Node("concat", "Concat", "model.2", False, (5, 7)),
            Node("scores", "Sigmoid", "model.2", False, (8,)),
        ]
    )


def test_first_last_and_what_decodes() -> None:
    graph = head()
    assert graph.first == ("model.0.conv",)
    assert graph.last == ("model.2.cv2.0.1", "model.2.cv3.0.1")
    assert graph.decoding == ("concat", "scores")


def test_an_activation_goes_with_the_layer_before_it() -> None:
    graph = head()
    assert graph.inside(["model.0.conv"]) == ("a", "sigmoid", "mul")
    assert graph.inside(["model.0"]) == ("a", "sigmoid", "mul")
    assert graph.inside(["model.2.cv2.0.1"]) == ("box last",)
    assert graph.inside(["model.1"]) == ("b",)
    assert graph.inside([]) == ()


def test_groups_are_steps_and_branches_of_the_head() -> None:
    assert head().groups == ("model.0", "model.1", "model.2.cv2.0", "model.2.cv3.0")
    darknet = ("model.120.conv", "model.129.conv")  # heads of a cfg are steps themselves
    assert group_of("model.120.conv", darknet) == "model.120"
    assert group_of("model.9.linear", ("model.9.linear",)) == "model.9"
    assert group_of("odd", ("odd",)) == "odd"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("/model.0/conv/Conv", "model.0.conv"),
        ("/model.22/cv2.0/cv2.0.1/conv/Conv", "model.22.cv2.0.1.conv"),
        ("/model.2/m.0/cv1/conv/Conv", "model.2.m.0.cv1.conv"),
        ("/Concat", ""),
        ("Conv_3", ""),
    ],
)
def test_places_of_onnx_names(name: str, place: str) -> None:
    assert onnx_place(name) == place


def test_patterns_mean_layers_modules_and_globs() -> None:
    layers = ("model.1.cv1.conv", "model.1.cv2.conv", "model.10.conv")
    assert matching(layers, "model.1") == layers[:2]
    assert matching(layers, "model.1.cv2.conv") == layers[1:2]
    assert matching(layers, "model.*.cv*") == layers[:2]
    assert matching(layers, "*.conv") == layers
    assert matching(layers, "cv1") == ()
