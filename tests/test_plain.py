"""What may be shown of a name that somebody else chose."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoloprune.plain import plain


@pytest.mark.parametrize(
    "text",
    ["folder [b] %20 ü", "disc [i]x[/i]", "$x^2$", "كرة\u200cها", "球 👩‍🚀", "a  b", "C:\\x"],
)
def test_a_name_is_shown_as_it_is(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\tc\0", "a\\x0d\\x0ab\\x09c\\x00"),
        ("\x7f\x9b2J", "\\x7f\\x9b2J"),
        ("exe.\u202egnp.", "exe.\\u202egnp."),
        ("\u2066a\u2069\u2028", "\\u2066a\\u2069\\u2028"),
        ("\ufeffdisc", "\\ufeffdisc"),
        (os.fsdecode(b"caf\xe9.cfg"), "caf\\xe9.cfg"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_line_end_that_is_meant_stays() -> None:
    assert plain("a\nb\r", keep="\n") == "a\nb\\x0d"


@given(st.text(st.characters(codec=None)))
def test_what_is_shown_is_one_line_and_can_be_written(text: str) -> None:
    shown = plain(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not {unicodedata.bidirectional(c) for c in shown} & turning
    assert plain(shown) == shown
