"""Byte order marks, memory that a cfg may ask for, and the size that a cfg carries."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from yoloprune.darknet.cfg import cfg_bytes, parse_cfg, read_cfg
from yoloprune.darknet.network import DarknetModel, current_cfg, resize
from yoloprune.errors import CfgError
from yoloprune.limits import MEMORY_VARIABLE, max_memory

NET = "[net]\nwidth={0}\nheight={0}\nchannels=3\n"
HEAD = (
    "[convolutional]\nfilters=18\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1,2\nanchors=1,1,2,2,3,3\nclasses=1\nnum=3\n"
)
CONV = "[convolutional]\nfilters={0}\nsize={1}\nstride={2}\npad=1\nactivation=linear\n"


@pytest.mark.parametrize("head", ["", "# made by an editor\n", "\n\n"])
def test_a_byte_order_mark_is_skipped_and_kept(head: str, tmp_path: Path) -> None:
    path = tmp_path / "m.cfg"
    data = b"\xef\xbb\xbf" + (head + NET.format(64) + CONV.format(8, 3, 2) + HEAD).encode()
    path.write_bytes(data)
    cfg = read_cfg(path)
    assert cfg_bytes(cfg) == data
    assert cfg.net.line == 1 + head.count("\n")
    assert DarknetModel(cfg).net_size == (64, 64)


def test_utf16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.cfg"
    path.write_text(NET.format(64) + HEAD, encoding="utf-16")
    with pytest.raises(CfgError, match="is UTF-16, expected UTF-8"):
        read_cfg(path)


COSTLY = {
    "wide layers": NET.format(32) + (CONV.format(65536, 1, 1) + CONV.format(2048, 1, 1)) * 3 + HEAD,
    "large kernels": NET.format(32) + (CONV.format(512, 255, 1) + CONV.format(3, 1, 1)) * 6 + HEAD,
    "a huge picture": NET.format(16384) + CONV.format(64, 1, 1) * 3 + HEAD,
    "upsampling": NET.format(32)
    + CONV.format(256, 1, 1)
    + "[upsample]\nstride=64\n" * 1
    + CONV.format(4096, 1, 1)
    + CONV.format(18, 64, 64)
    + HEAD,
    "routes that double": NET.format(416)
    + CONV.format(64, 1, 1)
    + "[route]\nlayers=-1,-1\n" * 9
    + HEAD,
}


@pytest.mark.parametrize("kind", COSTLY)
def test_a_cfg_that_asks_for_too_much_is_refused_before_it_gets_it(kind: str) -> None:
    begun = time.process_time()
    with pytest.raises(CfgError, match=r"GiB of memory, expected at most|asks for \d+ weights"):
        DarknetModel(parse_cfg(COSTLY[kind], "m.cfg"))
    assert time.process_time() - begun < 5


def test_the_limit_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    text = NET.format(64) + CONV.format(512, 3, 2) + CONV.format(512, 3, 1) + HEAD
    monkeypatch.setenv(MEMORY_VARIABLE, "20M")
    with pytest.raises(CfgError, match=f"set {MEMORY_VARIABLE} higher, such as 2G"):
        DarknetModel(parse_cfg(text))
    for wanted, found in (("1g", 1 << 30), ("1.5 GiB", 3 << 29), ("100", 100), ("2TB", 2 << 40)):
        monkeypatch.setenv(MEMORY_VARIABLE, wanted)
        assert max_memory(CfgError) == found
    for wanted in ("much", "-1G", "0", "1Q", "9" * 99):
        monkeypatch.setenv(MEMORY_VARIABLE, wanted)
        with pytest.raises(CfgError, match="expected bytes such as 16G"):
            max_memory(CfgError)


def test_a_cfg_carries_the_size_of_its_model() -> None:
    text = NET.format(64) + CONV.format(8, 3, 2) + HEAD
    model = DarknetModel(parse_cfg(text))
    assert cfg_bytes(current_cfg(model)) == text.encode()
    resize(model, (96, 128))
    changed = cfg_bytes(current_cfg(model)).decode()
    assert changed == text.replace("width=64", "width=128").replace("height=64", "height=96")
    assert DarknetModel(parse_cfg(changed)).net_size == (96, 128)
    with pytest.raises(CfgError, match=r"needs sides that 2 divides, got \(97, 96\)"):
        resize(model, (97, 96))


def test_a_comment_goes_with_the_value_that_it_was_said_of() -> None:
    text = (
        "# yolov4-tiny, 416 pixels\n[net]\nwidth=64 # as trained\nheight = 64\nchannels=3\n"
        + CONV.format(8, 3, 2).replace("filters=8", "filters=8   # eight")
        + HEAD
    )
    model = DarknetModel(parse_cfg(text))
    resize(model, (64, 32))
    changed = cfg_bytes(current_cfg(model)).decode()
    assert changed == text.replace("width=64 # as trained", "width=32")
