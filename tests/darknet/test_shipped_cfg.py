"""The cfg files that ship: the published architectures, and files that Darknet tools can read.

Every file is judged from outside the package: by a parser of its own, by the sizes of the weights
that were published for it, by the reference files (where they are at hand) and by OpenCV.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

CFG = Path(__file__).resolve().parents[2] / "cfg"
PUBLISHED = ["yolov3", "yolov3-spp", "yolov3-tiny", "yolov4", "yolov4-tiny", "yolov4-tiny-3l"]
SHIPPED = sorted([*PUBLISHED, "yoloprune-demo"])
PUBLISHED_BYTES = {
    "yolov3": 248_007_048,
    "yolov3-spp": 252_209_544,
    "yolov3-tiny": 35_434_956,
    "yolov4": 257_717_640,
    "yolov4-tiny": 24_251_276,
}
HEADER_BYTES = 20
# How Darknet trains is the user's to choose; the rest of [net] says what the network is.
NET_KEYS = {"width", "height", "channels"}

Sections = list[tuple[str, dict[str, str]]]


def parse(path: Path) -> Sections:
    """Sections as (name, {key: value}), blanks removed: on purpose not the package's reader."""
    sections: Sections = []
    for raw in path.read_text().splitlines():
        line = re.sub(r"\s", "", raw)
        if line.startswith("["):
            sections.append((line.strip("[]"), {}))
        elif line and line[0] not in "#;":
            key, value = line.split("=")
            assert key not in sections[-1][1], f"{path.name}: {key} twice"
            sections[-1][1][key] = value
    return sections


def numbers(value: str) -> list[float | str]:
    """Values compare as numbers: ``.7`` is ``0.7``."""
    return [float(v) if re.fullmatch(r"-?[\d.]+", v) else v for v in value.split(",")]


def float_count(path: Path) -> int:
    """Floats in the weights of a cfg: 4 a channel with batch norm, 1 without, and the kernels."""
    total, channels = 0, [3]  # channels[i + 1]: of layer i's output
    for index, (name, options) in enumerate(parse(path)[1:]):
        here = channels[-1]
        if name == "convolutional":
            filters, size = int(options["filters"]), int(options["size"])
            total += filters * (4 if options.get("batch_normalize") == "1" else 1)
            total += filters * here * size**2
            here = filters
        elif name == "route":
            layers = [int(v) for v in options["layers"].split(",")]
            here = sum(channels[v + 1 if v >= 0 else index + v + 1] for v in layers)
            here //= int(options.get("groups", "1"))
        channels.append(here)
    return total


def load_in_opencv(cfg: Path) -> cv2.dnn.Net:
    """Through OpenCV's importer, with weights of exactly the right length."""
    header = np.array([0, 2, 0, 0, 0], dtype="<i4").tobytes()
    weights = np.full(float_count(cfg), 0.01, dtype="<f4").tobytes()
    return cv2.dnn.readNetFromDarknet(
        np.frombuffer(cfg.read_bytes(), np.uint8), np.frombuffer(header + weights, np.uint8)
    )


def test_the_folder_holds_these_networks() -> None:
    assert sorted(p.stem for p in CFG.glob("*.cfg")) == SHIPPED


@pytest.mark.parametrize("name", PUBLISHED_BYTES)
def test_implies_the_size_of_the_published_weights(name: str) -> None:
    assert float_count(CFG / f"{name}.cfg") * 4 + HEADER_BYTES == PUBLISHED_BYTES[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_same_architecture_as_the_reference(name: str, shared: Path) -> None:
    ours = parse(CFG / f"{name}.cfg")
    theirs = parse(shared / "darknet-cfg" / f"{name}.cfg")
    assert [n for n, _ in ours] == [n for n, _ in theirs]
    for index, ((kind, mine), (_, reference)) in enumerate(zip(ours, theirs, strict=True)):
        keys = NET_KEYS if kind == "net" else mine.keys() | reference.keys()
        for key in sorted(keys):
            where = f"{name} #{index - 1} [{kind}] {key}"
            assert key in mine and key in reference, where
            assert numbers(mine[key]) == numbers(reference[key]), where


@pytest.mark.parametrize("name", PUBLISHED)
def test_opencv_builds_the_same_layers_as_from_the_reference(name: str, shared: Path) -> None:
    def layers(cfg: Path) -> list[tuple[str, str]]:
        net = load_in_opencv(cfg)
        return [(net.getLayer(n).name, net.getLayer(n).type) for n in net.getLayerNames()]

    built = layers(CFG / f"{name}.cfg")
    assert len(built) > 20
    assert built == layers(shared / "darknet-cfg" / f"{name}.cfg")


def test_the_demo_network_runs_in_opencv_and_is_small() -> None:
    cfg = CFG / "yoloprune-demo.cfg"
    assert 300_000 <= float_count(cfg) <= 800_000
    net = load_in_opencv(cfg)
    net.setInput(np.zeros((1, 3, 160, 160), np.float32))
    heads = net.forward(net.getUnconnectedOutLayersNames())
    # rows of cx, cy, w, h, objectness and three classes: strides 16 and 8, three anchors each
    assert sorted(h.shape for h in heads) == [(300, 8), (1200, 8)]


def test_the_demo_network_has_what_makes_slimming_hard() -> None:
    sections = parse(CFG / "yoloprune-demo.cfg")
    kinds = [kind for kind, _ in sections]
    assert {"shortcut", "maxpool", "upsample"} <= set(kinds)
    assert kinds.count("yolo") == 2
    assert sum(options.get("groups") == "2" for _, options in sections) == 2
    assert all(options["classes"] == "3" for kind, options in sections if kind == "yolo")


@pytest.mark.parametrize("name", SHIPPED)
def test_net_section_is_ready_to_train(name: str) -> None:
    kind, net = parse(CFG / f"{name}.cfg")[0]
    assert kind == "net"
    assert int(net["batch"]) % int(net["subdivisions"]) == 0
    assert int(net["batch"]) > 1
    assert 0 < float(net["learning_rate"]) < 0.1
    assert int(net["width"]) % 32 == int(net["height"]) % 32 == 0
    assert max(int(v) for v in net["steps"].split(",")) < int(net["max_batches"])
