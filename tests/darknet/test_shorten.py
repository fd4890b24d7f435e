"""Shorter cfgs: which shortcuts may go, new numbers, and OpenCV's opinion."""

from __future__ import annotations

from pathlib import Path

import darknet_nets
import pytest
import torch
from block_nets import darknet

from yoloprune.darknet.cfg import Section
from yoloprune.darknet.network import DarknetModel, current_cfg
from yoloprune.darknet.shorten import residuals, without_residuals
from yoloprune.models.door import load, save

REPO = Path(__file__).resolve().parents[2]
HEAD = "[conv]\nfilters=6\nsize=1\nactivation=linear\n[yolo]\nmask=0\nanchors=8,8\nclasses=1\n"


def net(body: str) -> DarknetModel:
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n" + body + HEAD
    return darknet_nets.build(text)


def conv(filters: int = 4, activation: str = "leaky") -> str:
    return (
        f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize=3\npad=1\n"
        f"activation={activation}\n"
    )


def shortcut(start: int, activation: str = "linear", more: str = "") -> str:
    return f"[shortcut]\nfrom={start}\nactivation={activation}\n{more}"


def references(model: DarknetModel) -> list[str]:
    keys = {"route": "layers", "shortcut": "from"}
    sections: tuple[Section, ...] = current_cfg(model).layers
    return [s.get_str(keys[s.kind]) for s in sections if s.kind in keys]


def test_references_are_renumbered() -> None:
    body = (
        conv() + conv() + conv() + shortcut(-3)  # 0, block 1 to 3
        + conv() + conv() + shortcut(-3)  # block 4 to 6
        + "[route]\nlayers=-1,3,0\n" + conv() + "[route]\nlayers=-2,6\n"
    )  # fmt: skip
    model = net(body).double()
    found, bound = residuals(model)
    assert [(one.source, one.shortcut) for one in found] == [(0, 3), (3, 6)] and not bound
    first, numbers = without_residuals(model, {3})
    assert references(first) == ["-3", "-1,0,0", "-2,3"]
    assert numbers == {0: 0, **{i: i + 3 for i in range(1, 9)}}
    assert references(without_residuals(model, {6})[0]) == ["-3", "-1,3,0", "-2,3"]
    both, _ = without_residuals(model, {3, 6})
    assert references(both) == ["-1,0,0", "-2,0"]
    with torch.no_grad():
        for name in (n for one in found for n in one.silencing):
            model.get_parameter(name).zero_()
        x = torch.rand(1, 3, 32, 32).double()
        assert torch.allclose(model(x)[0], both(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (conv() + conv() + conv() + shortcut(-3, "leaky"), "activates its sum (leaky)"),
        (conv() + conv(8) + shortcut(-2), "adds 8 channels to 4"),
        (conv() + conv() + conv(4, "logistic") + shortcut(-3), "ends in [convolutional], which"),
        (conv() + conv() + conv() + shortcut(-3) + "[route]\nlayers=-1,1\n", "read by other"),
        (conv() + conv() + conv() + shortcut("-2,-3"), "adds 3 layers"),  # type: ignore[arg-type]
        (
            conv()
            + conv()
            + shortcut(-2, more="weights_type=per_feature\nweights_normalization=relu\n"),
            "weighs what it adds",
        ),
    ],
)
def test_others_stay_with_their_reason(body: str, reason: str) -> None:
    found, bound = residuals(net(body))
    assert not found
    assert reason in next(iter(bound.values()))


def test_an_activation_that_changes_nothing_may_go() -> None:
    model = net(conv(4, "relu") + conv() + conv() + shortcut(-3, "relu")).double()
    (one,), _ = residuals(model)
    short, _ = without_residuals(model, {one.shortcut})
    with torch.no_grad():
        for name in one.silencing:
            model.get_parameter(name).zero_()
        x = torch.rand(1, 3, 32, 32).double()
        assert torch.allclose(model(x)[0], short(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "step"), [("yolov3.cfg", 11), pytest.param("yolov4.cfg", 1, marks=pytest.mark.slow)]
)
def test_opencv_reads_each_shorter_cfg(name: str, step: int, tmp_path: Path) -> None:
    model = darknet(REPO / "cfg" / name)
    found, _ = residuals(model)
    assert len(found) == 23
    x = torch.rand(1, 3, 64, 64)
    for one in found[::step]:
        short, _ = without_residuals(model, {one.shortcut})
        peer = darknet_nets.load_in_opencv(short, current_cfg(short), tmp_path)
        with torch.no_grad():
            raw = short(x)[1]
        theirs = darknet_nets.opencv_raw(peer, short.heads, x)
        assert darknet_nets.worst_difference(raw, theirs) < 1e-3, one


def test_files_of_a_shorter_network_are_read_again(tmp_path: Path) -> None:
    model = darknet(REPO / "cfg" / "yolov3.cfg")
    model.names = {i: f"thing {i}" for i in range(80)}
    short, _ = without_residuals(model, {8, 61})
    again, _ = load(save(short, tmp_path / "short.cfg")[0])
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(short(x)[0], again(x)[0])
    assert again.names == model.names
