"""The weights file: bytes survive, and a file of any other length is refused by name."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import darknet_nets
import numpy as np
import pytest
import torch

from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel, load_weights, save_weights, weight_fields
from yoloprune.darknet.weights import Field, Header, expected_bytes, read_weights, write_weights
from yoloprune.errors import WeightsError

CFG = """\
[net]
width=16
height=16
channels=3
[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky
[convolutional]
filters=4
size=1
activation=linear
[shortcut]
from=-2
weights_type=per_channel
weights_normalization=relu
[convolutional]
filters=7
size=1
activation=linear
[yolo]
mask=0
anchors=4,4
classes=2
num=1
"""
# What Darknet's save_weights_upto writes for it: floats of each run, and the layer they are of.
RUNS = [
    (0, 4),  # beta
    (0, 4),  # gamma
    (0, 4),  # rolling mean
    (0, 4),  # rolling variance
    (0, 4 * 3 * 3 * 3),
    (1, 4),
    (1, 4 * 4),
    (2, 2 * 4),
    (3, 7),
    (3, 7 * 4),
]
NEW, OLD = struct.pack("<3iQ", 0, 2, 5, 1 << 40), struct.pack("<3iI", 0, 1, 0, 32_013_312)
FLOATS = sum(count for _, count in RUNS)


def body(seed: int = 0) -> bytes:
    generator = np.random.default_rng(seed)
    return generator.standard_normal(FLOATS).astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("header", "seen"), [(NEW, 1 << 40), (OLD, 32_013_312)], ids=["new", "old"]
)
def test_bytes_survive_both_headers(header: bytes, seen: int, tmp_path: Path) -> None:
    (tmp_path / "a.weights").write_bytes(header + body())
    model = darknet_nets.build(CFG)
    load_weights(model, tmp_path / "a.weights")
    assert model.header.seen == seen
    save_weights(model, tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == header + body()


def test_header_version_decides_its_size() -> None:
    assert Header(0, 1).size == 16
    assert Header(0, 2).size == Header(1, 0).size == 20
    assert Header(major=0, minor=2, revision=5, seen=7).pack() == struct.pack("<3iQ", 0, 2, 5, 7)


def test_a_fresh_model_is_written_with_the_new_header(tmp_path: Path) -> None:
    model = darknet_nets.build(CFG)
    save_weights(model, tmp_path / "a.weights")
    data = (tmp_path / "a.weights").read_bytes()
    assert data[:20] == struct.pack("<3iQ", 0, 2, 5, 0)
    assert len(data) == 20 + 4 * FLOATS == expected_bytes(weight_fields(model))


def test_values_land_where_darknet_puts_them(tmp_path: Path) -> None:
    counting = np.arange(FLOATS, dtype="<f4")
    (tmp_path / "a.weights").write_bytes(NEW + counting.tobytes())
    model = darknet_nets.build(CFG)
    load_weights(model, tmp_path / "a.weights")
    runs = np.split(counting, np.cumsum([count for _, count in RUNS])[:-1])
    first, second, shortcut, third, _ = model.model
    tensors = [
        *(first.bn.bias, first.bn.weight, first.bn.running_mean, first.bn.running_var),
        *(first.conv.weight, second.conv.bias, second.conv.weight, shortcut.weights),
        *(third.conv.bias, third.conv.weight),
    ]
    for tensor, run in zip(tensors, runs, strict=True):
        assert np.array_equal(tensor.detach().numpy().ravel(), run)
    assert model.model[1].conv.weight[2, 1, 0, 0] == runs[6][2 * 4 + 1]  # filter by filter


def test_nan_and_odd_bits_survive(tmp_path: Path) -> None:
    odd = np.array([0x7FC00001, 0xFFFFFFFF, 0x00000001, 0x80000000], "<u4").tobytes()
    (tmp_path / "a.weights").write_bytes(NEW + odd * (FLOATS // 4) + odd[: 4 * (FLOATS % 4)])
    model = darknet_nets.build(CFG)
    load_weights(model, tmp_path / "a.weights")
    save_weights(model, tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == (tmp_path / "a.weights").read_bytes()


def test_real_weights_survive(shared: Path, tmp_path: Path) -> None:
    model = DarknetModel(read_cfg(shared / "weights" / "yolo-fastest-1.1.cfg"))
    source = shared / "weights" / "yolo-fastest-1.1.weights"
    load_weights(model, source)
    save_weights(model, tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == source.read_bytes()
    assert expected_bytes(weight_fields(model), model.header) == source.stat().st_size


@pytest.mark.parametrize("header", [NEW, OLD], ids=["new", "old"])
def test_cut_anywhere(header: bytes, tmp_path: Path) -> None:
    """At every byte, hence at every boundary of a field too."""
    data, path = header + body(), tmp_path / "a.weights"
    model = darknet_nets.build(CFG)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ends = len(header) + 4 * np.cumsum([count for _, count in RUNS])
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError) as caught:
            load_weights(model, path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        if length < 12:
            assert f"has {length} bytes, expected a header" in message
        elif length < len(header):
            assert f"ends at byte {length}, inside its header" in message
        else:
            run = int(np.searchsorted(ends, length, side="right"))
            kind = "shortcut" if RUNS[run][0] == 2 else "convolutional"
            assert f"ends at byte {length}, layer #{RUNS[run][0]} [{kind}]" in message
            assert f"needs {ends[run] - length} more." in message
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.header == Header()


@pytest.mark.parametrize("extra", [1, 4, 4096])
def test_too_long(extra: int, tmp_path: Path) -> None:
    path = tmp_path / "a.weights"
    path.write_bytes(NEW + body() + bytes(extra))
    model = darknet_nets.build(CFG)
    before = model.model[0].conv.weight.clone()
    whole = 20 + 4 * FLOATS
    with pytest.raises(
        WeightsError, match=f"has {extra} bytes after the last layer, got"
    ) as caught:
        load_weights(model, path)
    assert f"got {whole + extra} bytes, expected {whole}." in str(caught.value)
    assert torch.equal(model.model[0].conv.weight, before)


def test_of_another_cfg(tmp_path: Path) -> None:
    save_weights(darknet_nets.build(darknet_nets.TINY), tmp_path / "tiny.weights")
    with pytest.raises(WeightsError, match="Is this the cfg that it was trained with"):
        load_weights(darknet_nets.build(CFG), tmp_path / "tiny.weights")
    save_weights(darknet_nets.build(CFG), tmp_path / "cfg.weights")
    with pytest.raises(WeightsError, match=r"ends at byte \d+, layer #0 \[convolutional\]"):
        load_weights(darknet_nets.build(darknet_nets.TINY), tmp_path / "cfg.weights")


def test_no_weights_file(tmp_path: Path) -> None:
    path = tmp_path / "a.weights"
    with pytest.raises(WeightsError, match="a.weights: cannot be read: No such file"):
        read_weights(path, [])
    path.write_text("<!DOCTYPE html><html>404: no such page, sorry</html>")
    with pytest.raises(WeightsError, match="a.weights: is no Darknet weights file, got version"):
        read_weights(path, [])


def test_a_fused_model_is_not_written(tmp_path: Path) -> None:
    model = darknet_nets.build(CFG).fuse(verbose=False)
    with pytest.raises(WeightsError, match=r"#0 \[convolutional\]: is fused"):
        save_weights(model, tmp_path / "a.weights")
    assert not list(tmp_path.iterdir())


def test_batch_normalize_means_nothing_but_in_a_convolution(tmp_path: Path) -> None:
    """Darknet reads past it; it must not pass for a model that was fused."""
    model = darknet_nets.build(CFG.replace("from=-2\n", "from=-2\nbatch_normalize=1\n"))
    save_weights(model, tmp_path / "a.weights")
    assert (tmp_path / "a.weights").stat().st_size == 20 + 4 * FLOATS


def test_half_and_double_models_are_written_as_float32(tmp_path: Path) -> None:
    model = darknet_nets.build(CFG).double()
    save_weights(model, tmp_path / "a.weights")
    again = darknet_nets.build(CFG, seed=1).half()
    load_weights(again, tmp_path / "a.weights")
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.float().half(), other)


def test_writing_takes_arrays_as_they_lie(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float64).reshape(2, 3).T
    write_weights(tmp_path / "a.weights", Header(), [array])  # type: ignore[list-item]
    stored = np.frombuffer((tmp_path / "a.weights").read_bytes()[20:], "<f4")
    assert stored.tolist() == [0, 3, 1, 4, 2, 5]


def test_what_is_no_regular_file_is_not_read() -> None:
    with pytest.raises(WeightsError, match="is no regular file"):
        read_weights(Path(os.devnull), [])


def test_a_file_too_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.weights"
    path.write_bytes(Header().pack())
    os.truncate(path, 1 << 40)
    with pytest.raises(WeightsError, match=f"has {(1 << 40) - 24} bytes after the last layer"):
        read_weights(path, [Field("#0 [convolutional]", 1)])
