"""Whole blocks out: each one alone and all together, exact, valid, and opened by the others."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from block_nets import SIDE, darknet, difference, double, opened_by_stock, randomize, stock
from torch import nn

from yoloprune.channels.trace import trace
from yoloprune.errors import CutError, PlanError
from yoloprune.measure.size import count
from yoloprune.models.door import load, save
from yoloprune.prune.blocks import Block, find_blocks, remove_blocks, shortened_test, silenced
from yoloprune.prune.budget import Budget
from yoloprune.prune.bypass import folded
from yoloprune.prune.cut import cut_units
from yoloprune.prune.planner import plan
from yoloprune.prune.score import score

REPO = Path(__file__).resolve().parents[2]
REMOVABLE = {
    "yolov3.cfg": 23, "yolov4.cfg": 23, "yolov5n": 7, "yolov8n": 6, "yolov10n": 9, "yolo11n": 13,
    "yolo12n": 26, "yolo26n": 17, "yolov8n-ghost": 10, "rtdetr-l": 2,
}  # fmt: skip
"""Counted by hand in the cfg and YAML files: shortcuts; repeats with add; two a attention block."""
FAST = ("yolov8n",)
ALL = [
    pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in REMOVABLE
]  # fmt: skip


def network(name: str) -> nn.Module:
    return darknet(REPO / "cfg" / name) if name.endswith(".cfg") else stock(name)


@pytest.mark.parametrize("name", ALL)
def test_each_block_alone_is_exact_and_valid(name: str) -> None:
    model = network(name).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found, full = find_blocks(model, SIDE), count(model, SIDE)
    assert len(found.removable) == REMOVABLE[name]
    for block in found.removable:
        short = remove_blocks(model, [block]).model
        assert difference(double(silenced(model, [block])), double(short)) <= 1e-12, block.name
        cut = count(short, SIDE)
        assert full.params - cut.params == block.params > 0, block.name
        assert full.macs - cut.macs == block.macs > 0, block.name
        assert len(find_blocks(short, SIDE).removable) == len(found.removable) - 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_all_blocks_together(name: str) -> None:
    model = network(name)
    found = find_blocks(model, SIDE)
    made = remove_blocks(model, found.removable)
    assert shortened_test(model, found.removable, made.model).max_rel_diff <= 1e-12
    assert trace(made.model).prunable.any()
    assert not find_blocks(made.model, SIDE).removable
    for path, old in made.names.items():  # a layer that stays is under its old name what it was
        module = made.model.get_submodule(path)
        if isinstance(module, nn.BatchNorm2d):
            other = model.get_submodule(old)
            assert isinstance(other, nn.BatchNorm2d)
            assert torch.equal(module.weight, other.weight)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "yolo11n" else [pytest.mark.slow])
        for name in REMOVABLE
        if not name.endswith(".cfg")
    ],
)
def test_stock_ultralytics_opens_each(name: str, tmp_path: Path) -> None:
    model = network(name)
    removable = find_blocks(model, SIDE).removable
    removable = removable if name != "yolo11n" else removable[5:8]  # a bottleneck, two halves
    files = []
    for block in removable:
        short = remove_blocks(model, [block]).model
        files += save(short, tmp_path / f"short-{block.name.replace('.', '-')}.pt")
    found = opened_by_stock(files, tmp_path / "found.pt")
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for file in files:
        ours, _ = load(file)
        with torch.no_grad():
            expected = ours(picture)[0]
        assert difference([expected], [found[str(file)]]) <= 1e-5


def test_a_channel_pruned_network_loses_blocks_as_well() -> None:
    model = stock("yolov8n")
    graph = trace(model)
    remove = plan(graph, score(model, graph, criterion="gamma"), Budget(percent=0.4)).remove(graph)
    thin = cut_units(model, graph, remove)
    found = find_blocks(thin, SIDE)
    made = remove_blocks(thin, found.removable)
    assert len(found.removable) == 6
    assert shortened_test(thin, found.removable, made.model).max_rel_diff <= 1e-12


def test_what_stays_around_a_block_is_stock() -> None:
    model = stock("yolov10n")
    found = find_blocks(model, SIDE)
    by_name = {block.name: block for block in found.removable}
    short = remove_blocks(model, [by_name["model.10.attn"]]).model
    attention = short.get_submodule("model.10")
    assert type(attention).__name__ == "C2PSA" and vars(attention)["i"] == 10
    assert type(attention.m[0]).__name__ == "Bottleneck"  # type: ignore[index]
    gone = remove_blocks(model, [by_name["model.10.attn"], by_name["model.10.ffn"]]).model
    assert len(gone.get_submodule("model.10").m) == 0  # type: ignore[arg-type]


def test_weights_of_a_repeated_output_are_added_up() -> None:
    weight = torch.arange(1.0, 10.0).view(1, 9, 1, 1)  # 1 + 2 | 2 | 2 | 2
    sizes = [(2, 2), (2, 2), (2, 2)]
    assert folded(weight, sizes, [1]).flatten().tolist() == [1, 2, 3, 4 + 6, 5 + 7, 8, 9]
    assert folded(weight, sizes, [0, 1]).flatten().tolist() == [1, 2 + 4 + 6, 3 + 5 + 7, 8, 9]
    assert folded(weight, sizes[:2], [1], tail=2).flatten().tolist() == [
        1, 2, 3, 4 + 6, 5 + 7, 8, 9
    ]  # fmt: skip


def test_blocks_without_an_identity_stay_with_their_reason() -> None:
    found = find_blocks(stock("yolov8n"), SIDE)
    assert set(found.bound) == {f"model.{i}.m.0" for i in (12, 15, 18, 21)}
    assert set(found.bound.values()) == {
        "gives its branch alone, without what it was given (add=False)"
    }
    with pytest.raises(PlanError, match=r"model\.12\.m\.0 cannot go, it gives its branch alone"):
        found.named(["model.12.m.0"])
    with pytest.raises(PlanError, match=r"nowhere is no residual block\. .* begin with model\.2"):
        found.named(["nowhere"])


def test_the_self_test_finds_a_wrong_network() -> None:
    model = stock("yolov8n")
    block = find_blocks(model, SIDE).removable[0]
    short = copy.deepcopy(remove_blocks(model, [block]).model)
    shortened_test(model, [block], short)
    with torch.no_grad():
        short.get_parameter("model.2.cv2.conv.weight")[0, 0] += 1
    with pytest.raises(CutError, match="self-test"):
        shortened_test(model, [block], short)


def test_a_silent_block_is_free() -> None:
    """Where training has switched a branch off, the network without it gives the very same."""
    model = stock("yolov5n").double()
    block: Block = find_blocks(model, SIDE).removable[3]
    with torch.no_grad():
        for name in block.silencing:
            model.get_parameter(name).zero_()
    assert difference(double(model), double(remove_blocks(model, [block]).model)) <= 1e-12


def test_layers_wired_by_number_become_identities() -> None:
    model = randomize(stock("rtdetr-l"))
    block = find_blocks(model, SIDE).removable[0]
    short = remove_blocks(model, [block]).model
    left = short.get_submodule(block.name)
    old = vars(model.get_submodule(block.name))
    assert isinstance(left, nn.Identity)
    assert (vars(left)["i"], vars(left)["f"], vars(left)["np"]) == (old["i"], old["f"], 0)
