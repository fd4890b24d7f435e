"""The cfg reader and writer: nothing lost, nothing guessed, every error named by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoloprune.darknet.cfg import Section, cfg_bytes, parse_cfg, read_cfg
from yoloprune.errors import CfgError

ODD = (
    "# head\r\n"
    "  ; another comment, indented\n"
    "\n"
    " [ net ]   # the input\r\n"
    "  wi dth = 6 4 \r\n"
    "height=64\n"
    "channels =3# three\n"
    "future_key = what, ever\n"
    "\t\n"
    "[conv]\n"
    "filters= 16   # was 32\n"
    ";size=7\n"
    "size=3\n"
    "size=5\n"
    "activation=leaky\n"
    "# after\n"
    "[yolo]\n"
    "mask = 0, 1,\n"
    "anchors=1.5,2, .5,1e1\n"
    "empty=\n"
    "last=1"
)


def section(options: str, kind: str = "convolutional") -> Section:
    return parse_cfg(f"[net]\n[{kind}]\n{options}", "n.cfg").layers[0]


def shared_and_shipped() -> list[Path]:
    repo = Path(__file__).resolve().parents[2]
    shared = repo.parent / "shared"
    folders = [repo / "cfg", shared / "darknet-cfg", shared / "weights"]
    return sorted(path for folder in folders for path in folder.glob("*.cfg"))


@pytest.mark.parametrize("path", shared_and_shipped(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_real_files_survive_byte_for_byte(path: Path) -> None:
    cfg = read_cfg(path)
    assert cfg_bytes(cfg) == path.read_bytes()
    headings = re.findall(rb"(?m)^\s*\[(\w+)\]", path.read_bytes())
    assert [cfg.net.kind, *(s.kind for s in cfg.layers)] == [h.decode() for h in headings]
    assert cfg_bytes(cfg.with_layers(cfg.layers)) == path.read_bytes()


def test_odd_but_legal_text(tmp_path: Path) -> None:
    (tmp_path / "odd.cfg").write_bytes(ODD.encode() + b"\n# \xff\xfe not utf-8\n")
    cfg = read_cfg(tmp_path / "odd.cfg")
    assert cfg_bytes(cfg) == (tmp_path / "odd.cfg").read_bytes()
    assert (cfg.net.get_int("width"), cfg.net.get_int("channels")) == (64, 3)
    conv, yolo = cfg.layers
    assert conv.kind == "convolutional"  # [conv] is Darknet's short form
    assert (conv.get_int("filters"), conv.get_int("size")) == (16, 3)  # the first of two wins
    assert conv.get_str("activation") == "leaky"
    assert yolo.get_ints("mask") == (0, 1)  # a comma at the end adds nothing
    assert yolo.get_floats("anchors") == (1.5, 2.0, 0.5, 10.0)
    assert conv.where("filters") == "odd.cfg:11 [convolutional] #0"
    assert yolo.where() == "odd.cfg:17 [yolo] #1"
    assert cfg.net.where("width") == "odd.cfg:5 [net]"


def test_with_options_replaces_in_place() -> None:
    cfg = parse_cfg(ODD, "odd.cfg")
    conv = cfg.layers[0].with_options({"filters": 8, "size": 1})
    new = cfg.with_layers((conv, cfg.layers[1]))
    expected = ODD.replace("filters= 16   # was 32", "filters= 8")
    assert new.text == expected.replace("size=3", "size=1")
    assert new.layers[0].get_int("size") == 1
    assert cfg.text == ODD  # the old one is as it was


def test_with_options_appends_after_the_last_key() -> None:
    conv = section("filters=1\r\nsize=3\n\n# next\n").with_options({"b": 1, "a": 2})
    assert conv.lines == (
        "[convolutional]\n",
        "filters=1\r\n",
        "size=3\n",
        "b=1\n",
        "a=2\n",
        "\n",
        "# next\n",
    )
    assert parse_cfg("[net]\n[x]").layers[0].with_options({"a": 1}).lines == ("[x]\n", "a=1\n")


def test_with_options_minds_a_missing_line_end() -> None:
    cfg = parse_cfg(ODD)
    yolo = cfg.layers[1].with_options({"classes": 3})
    assert "".join(yolo.lines).endswith("last=1\nclasses=3\n")
    assert yolo.get_int("classes") == 3


@pytest.mark.parametrize(
    "line", ["filters=\n", "filters= # none\n", "filters=\r\n", "filters=\t\n"]
)
def test_with_options_fills_an_empty_value(line: str) -> None:
    conv = section(line + "size=3\n").with_options({"filters": 64})
    assert conv.get_int("filters") == 64
    assert conv.get_int("size") == 3
    assert len(conv.lines) == 3


def test_without_removes_repeated_keys() -> None:
    conv = section("groups=2\n size=3\ngroups = 4\n#groups=8\n").without("groups")
    assert "groups" not in conv
    assert "".join(conv.lines) == "[convolutional]\n size=3\n#groups=8\n"


def test_with_net() -> None:
    cfg = parse_cfg(ODD).with_net({"width": 128, "letter_box": 1})
    assert cfg.net.get_int("width") == 128
    assert cfg.net.get_int("letter_box") == 1
    assert cfg.layers[0].line == 11  # counted in the new text
    assert len(cfg.layers) == 2


# --- anything that Darknet would read -----------------------------------------------------------

blanks = st.text(" \t", max_size=2)
ends = st.sampled_from(["\n", "\r\n", " \n"])
comments = st.builds(
    lambda b, m, t, e: b + m + t + e,
    blanks,
    st.sampled_from("#;"),
    st.text(st.characters(blacklist_characters="\n\0", blacklist_categories=["Cs"]), max_size=12),
    ends,
)
keys = st.sampled_from(["filters", "size", "stride", "zzz", "from", "a_b"])
values = st.one_of(st.integers(-99, 999).map(str), st.sampled_from(["1,2", "leaky", ".5", "-1,-4"]))
tails = st.sampled_from(["", " # note", "#x=3"])


@st.composite
def option_lines(draw: st.DrawFn) -> tuple[str, str | None, str | None]:
    key, value = draw(keys), draw(values)
    text = draw(blanks) + key + draw(blanks) + "=" + draw(blanks) + value + draw(tails) + draw(ends)
    return text, key, value


lines = st.one_of(
    option_lines(), st.tuples(comments, st.none(), st.none()), st.tuples(ends, st.none(), st.none())
)
sections = st.tuples(
    st.builds(
        lambda b, k, c, e: (f"{b}[{k}]{c}{e}", k),
        blanks,
        st.sampled_from(["convolutional", "route", "unheard_of"]),
        st.sampled_from(["", " # [yolo]"]),
        ends,
    ),
    st.lists(lines, max_size=6),
)


@settings(deadline=None)
@given(
    st.lists(comments, max_size=2),
    st.lists(lines, max_size=4),
    st.lists(sections, min_size=1, max_size=4),
)
def test_any_cfg_survives_and_is_read_as_darknet_does(
    head: list[str],
    net: list[tuple[str, str | None, str | None]],
    layers: list[tuple[tuple[str, str], list[tuple[str, str | None, str | None]]]],
) -> None:
    everything = [(("[net]\n", "net"), net), *layers]
    text = "".join(head) + "".join(h[0] + "".join(ln[0] for ln in body) for h, body in everything)
    cfg = parse_cfg(text)
    assert cfg_bytes(cfg) == text.encode()
    for parsed, ((_, kind), body) in zip((cfg.net, *cfg.layers), everything, strict=True):
        first: dict[str, str] = {}
        for _, key, value in body:
            if key is not None and value is not None:
                first.setdefault(key, value)
        assert parsed.kind == kind
        assert {key: value for key, (value, _) in parsed.options.items()} == first
        for key in first:
            number = parsed.options[key][1]
            assert text.split("\n")[number - 1].strip().startswith(key)


@settings(deadline=None)
@given(st.lists(lines, max_size=6), st.sampled_from(["filters", "new"]), st.integers(0, 9))
def test_with_options_changes_one_value_only(
    body: list[tuple[str, str | None, str | None]], key: str, value: int
) -> None:
    old = section("".join(line for line, _, _ in body))
    new = old.with_options({key: value})
    assert new.get_int(key) == value
    for other in old.options.keys() - {key}:
        assert new.get_str(other) == old.get_str(other)
    if key in old:
        at = old.options[key][1] - old.line
        assert len(new.lines) == len(old.lines)
        assert [x for i, x in enumerate(new.lines) if i != at] == [
            x for i, x in enumerate(old.lines) if i != at
        ]
        if old.get_str(key) == str(value):
            assert new.lines[at] == old.lines[at]
        assert new.lines[at].endswith("\n") == old.lines[at].endswith("\n")
    else:
        assert [line for line in new.lines if not line.startswith(f"{key}=")] == list(old.lines)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "n.cfg: no [section] in it, expected a Darknet cfg."),
        ("# nothing\n", "n.cfg: no [section] in it, expected a Darknet cfg."),
        ("[net]\nwidth=1\n", "n.cfg: no layer follows [net]."),
        ("[convolutional]\n[net]\n", "n.cfg:1 [convolutional]: the first section must be [net]."),
        ("x\n[net]\n[yolo]\n", "n.cfg:1: text before the first [section], got 'x'."),
        (
            "[net]\n\n[yolo]\nmask 1\n",
            "n.cfg:4 [yolo] #0: expected key=value, got 'mask 1'.",
        ),
        (
            "[net]\nwidth\n[yolo]\n",
            "n.cfg:2 [net]: expected key=value, got 'width'.",
        ),
        (
            "[net]\n[conv]\n[yolo\n",
            "n.cfg:3 [convolutional] #0: expected key=value, got '[yolo'.",
        ),
    ],
)
def test_malformed_text(text: str, message: str) -> None:
    with pytest.raises(CfgError) as caught:
        parse_cfg(text, "n.cfg")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text", ["abc", "", "3.5", "1_0", "0x10", "٣", "nan", "--1", "1 2x", "9" * 400, "9" * 5000]
)
def test_bad_integers(text: str) -> None:
    with pytest.raises(
        CfgError, match=r"^n\.cfg:4 \[convolutional\] #0: filters must be "
    ) as caught:
        section(f"#\nfilters = {text}\n").get_int("filters", 1)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    "text", ["abc", "", "nan", "inf", "1e999", "1_0.5", "1,5", "0x1p3", "9" * 400]
)
def test_bad_numbers(text: str) -> None:
    with pytest.raises(CfgError, match=r"^n\.cfg:3 \[yolo\] #0: scale must be a number, got '"):
        section(f"scale={text}\n", "yolo").get_float("scale")


@pytest.mark.parametrize("text", ["1,x", "1,,2", ",1", "", ","])
def test_bad_lists(text: str) -> None:
    with pytest.raises(CfgError, match=r"^n\.cfg:3 \[yolo\] #0: mask must be a list of integers"):
        section(f"mask={text}\n", "yolo").get_ints("mask")


def test_bounds_and_missing_keys() -> None:
    conv = section("filters=70\nbig=2147483648\n")
    with pytest.raises(CfgError, match=r"n\.cfg:3 .* filters must be in 1\.\.64, got 70\.$"):
        conv.get_int("filters", low=1, high=64)
    with pytest.raises(CfgError, match=r"filters must be at least 71, got 70\.$"):
        conv.get_int("filters", low=71)
    with pytest.raises(CfgError, match=r"n\.cfg:4 .* big must be an integer of 32 bits"):
        conv.get_int("big")
    with pytest.raises(CfgError, match=r"^n\.cfg:2 \[convolutional\] #0: size= is missing\.$"):
        conv.get_int("size")
    assert conv.get_int("size", 3) == 3
    assert conv.get_flag("size", True)
    assert "size" not in conv and "filters" in conv


def test_what_a_file_says_cannot_play_tricks_on_a_terminal() -> None:
    with pytest.raises(CfgError) as caught:
        section("filters=\x1b[31m\udcff\n").get_int("filters")
    assert str(caught.value).endswith(r"got '\x1b[31m\xdcff'.")
    str(caught.value).encode()


def test_files_that_are_no_cfg(tmp_path: Path) -> None:
    with pytest.raises(CfgError, match="nothing.cfg: no such file"):
        read_cfg(tmp_path / "nothing.cfg")
    with pytest.raises(CfgError, match="cannot be read .Is a directory"):
        read_cfg(tmp_path)
    (tmp_path / "b.cfg").write_bytes(b"[net]\nwidth=1\n\0\0\x7f")
    with pytest.raises(CfgError, match="b.cfg: is a binary file, expected the text"):
        read_cfg(tmp_path / "b.cfg")


def test_options_behind_a_heading_are_not_lost() -> None:
    text = "[net]\nwidth=32\n\n[maxpool]size=2\nstride=2\n"
    with pytest.raises(CfgError, match=r"n\.cfg:4: text behind a \[section\], got 'size=2'"):
        parse_cfg(text, "n.cfg")
    assert len(parse_cfg(text.replace("size=2", " # size=2"), "n.cfg").layers) == 1
