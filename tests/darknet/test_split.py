"""Grouped routes rewritten without groups: the same numbers, in files that OpenCV takes."""

from __future__ import annotations

from pathlib import Path

import darknet_nets
import pytest
import torch

from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel, current_cfg, save_weights
from yoloprune.darknet.split import split_routes
from yoloprune.errors import CfgError, WeightsError

REPO = Path(__file__).resolve().parents[2]
NETS = {"yoloprune-demo": 160, "yolov4-tiny": 96, "yolov4-tiny-3l": 96}

HEADS = "[conv]\nfilters=6\nsize=1\nactivation=linear\n[yolo]\nmask=0\nanchors=8,8\nclasses=1\n"


def net(body: str) -> str:
    return "[net]\nwidth=32\nheight=32\nchannels=3\n" + body + HEADS


def conv(filters: int, **options: object) -> str:
    lines = "".join(f"{key}={value}\n" for key, value in options.items())
    return (
        f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize=3\npad=1\n"
        f"activation=leaky\n{lines}"
    )


def route(layers: str, **options: object) -> str:
    return f"[route]\nlayers={layers}\n" + "".join(f"{k}={v}\n" for k, v in options.items())


def double(model: DarknetModel, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        boxes, raw = model(x)
    return [boxes, *raw]


def grouped(model: DarknetModel) -> int:
    return sum(s.kind == "route" and s.get_int("groups", 1) > 1 for s in model.cfg.layers)


def check_equal(old: DarknetModel, new: DarknetModel, size: int) -> None:
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    for a, b in zip(double(old, x), double(new, x), strict=True):
        assert float((a - b).abs().max()) <= 1e-12 * float(a.abs().max())


@pytest.mark.parametrize("name", NETS)
def test_exactly_the_same_outputs(name: str, tmp_path: Path) -> None:
    old = darknet_nets.build(read_cfg(REPO / "cfg" / f"{name}.cfg")).double()
    before = {key: value.clone() for key, value in old.state_dict().items()}
    new = split_routes(old)
    assert grouped(old) > 0
    assert grouped(new) == 0
    assert new.names == old.names and not new.training
    check_equal(old, new, NETS[name])
    assert all(torch.equal(before[k], v) for k, v in old.state_dict().items())
    count = [sum(p.numel() for p in m.parameters()) for m in (old, new)]
    assert count[0] == count[1]


@pytest.mark.parametrize("name", NETS)
def test_written_files_agree_in_opencv(name: str, tmp_path: Path) -> None:
    old = darknet_nets.build(read_cfg(REPO / "cfg" / f"{name}.cfg"))
    new = split_routes(old)
    peer = darknet_nets.load_in_opencv(new, current_cfg(new), tmp_path)
    assert "groups=2" not in (tmp_path / "m.cfg").read_text()
    x = torch.rand(1, 3, NETS[name], NETS[name])
    with torch.no_grad():
        raw = old(x)[1]
    assert darknet_nets.worst_difference(raw, darknet_nets.opencv_raw(peer, new.heads, x)) < 1e-4


def references(model: DarknetModel) -> list[tuple[str, str]]:
    keys = {"route": "layers", "shortcut": "from", "sam": "from", "scale_channels": "from"}
    return [
        (s.kind, s.get_str(keys[s.kind]) if s.kind in keys else s.get_str("filters", ""))
        for s in model.cfg.layers
    ]


def test_references_are_renumbered() -> None:
    """Relative ones stay relative, absolute ones absolute; both before and behind the split."""
    body = (
        conv(4)  # 0
        + conv(8)  # 1: split
        + route("-1", groups=2, group_id=1)  # 2
        + conv(4)  # 3
        + "[shortcut]\nfrom=2\nactivation=linear\n"  # 4
        + route("-1,-4, 1")  # 5
        + route("0,-2")  # 6
        + "[sam]\nfrom=-1\n"  # 7: #6 with itself
    )
    old = darknet_nets.build(net(body)).double()
    new = split_routes(old)
    # 0 | 1 2 3 4 (conv, route, conv, route) | 5 | 6 | 7 | 8 | 9 | 10
    assert references(new)[:11] == [
        ("convolutional", "4"),
        ("convolutional", "4"),
        ("route", "-2"),
        ("convolutional", "4"),
        ("route", "-3,-1"),
        ("route", "-2"),
        ("convolutional", "4"),
        ("shortcut", "5"),
        ("route", "-1,-4,4"),
        ("route", "0,-2"),
        ("sam", "-1"),
    ]
    check_equal(old, new, 32)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_more_groups_and_several_routes(groups: int) -> None:
    body = (
        conv(6)
        + conv(12)
        + "".join(route("1", groups=groups, group_id=g) + conv(5) for g in range(groups))
    )
    old = darknet_nets.build(net(body)).double()
    new = split_routes(old)
    assert [s.get_int("filters") for s in new.cfg.layers if s.kind == "convolutional"][1] == (
        12 // groups
    )
    check_equal(old, new, 32)


def test_a_grouped_route_of_several_convs() -> None:
    body = conv(4) + conv(6) + conv(8) + route("-1, 1", groups=2, group_id=1) + conv(3)
    old = darknet_nets.build(net(body)).double()
    check_equal(old, split_routes(old), 32)


def test_convs_without_batch_norm_and_in_training_mode() -> None:
    body = conv(4) + conv(8, batch_normalize=0).replace("batch_normalize=1\n", "", 1)
    old = darknet_nets.build(net(body + route("-1", groups=2))).double()
    assert old.model[1].conv.bias is not None
    check_equal(old, split_routes(old), 32)
    assert split_routes(old.train()).training


def test_comments_and_line_ends_survive() -> None:
    text = net("# first\n" + conv(4) + "# second\n" + conv(8) + route("-1", groups=2) + "# end\n")
    new = split_routes(darknet_nets.build(text.replace("\n", "\r\n")))
    lines = new.cfg.text.split("\n")
    assert all(line.endswith("\r") for line in lines[:-1])
    assert {"# first\r", "# second\r", "# end\r"} <= set(lines)


def test_without_grouped_routes_nothing_happens() -> None:
    model = darknet_nets.build(net(conv(4) + conv(8) + route("-1,-2")))
    assert split_routes(model) is model


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            conv(4) + "[maxpool]\nsize=2\nstride=1\n" + route("-1", groups=2),
            r"#2: reads #1 \[maxpool\]: only a dense conv can be split\.",
        ),
        (conv(4) + conv(8, groups=2) + route("-1", groups=2), r"reads #1 \[convolutional\]: only"),
        (conv(4) + route("-1", groups=2), r"reads #0 \[convolutional\]: only a dense conv"),
        (
            conv(4) + conv(8) + route("-1", groups=2) + route("1", groups=4),
            r"\[route\] #3: reads #1 in 4 groups, another differs\.",
        ),
    ],
)
def test_refusals(body: str, message: str) -> None:
    model = darknet_nets.build(net(body))
    with pytest.raises(CfgError, match=r"^tiny\.cfg:\d+ \[route\] #\d") as caught:
        split_routes(model)
    assert caught.match(message)


def test_a_fused_model_is_refused() -> None:
    model = darknet_nets.build(net(conv(4) + conv(8) + route("-1", groups=2)))
    with pytest.raises(WeightsError, match="is fused"):
        split_routes(model.fuse(verbose=False))


def test_header_of_the_weights_stays(tmp_path: Path) -> None:
    model = darknet_nets.build(net(conv(4) + conv(8) + route("-1", groups=2)))
    model.header = type(model.header)(0, 2, 5, 12345)
    save_weights(split_routes(model), tmp_path / "a.weights")
    assert int.from_bytes((tmp_path / "a.weights").read_bytes()[12:20], "little") == 12345
