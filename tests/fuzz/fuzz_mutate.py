"""Seeds, changed: bytes, lines, numbers and words, as few or as many as hypothesis likes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st

Edit = tuple[int, int, int]

NUMBERS = [
    b"0", b"-1", b"1", b"2", b"3", b"7", b"32", b"255", b"65536", b"2147483647", b"-2147483648",
    b"4294967296", b"99999999999999999999999", b"1e308", b"1e-320", b"nan", b"inf", b"-inf",
    b"0x10", b"1_000", b"0.5", b"-0.0", b".", b"1e", b"9" * 5000, b"\xd9\xa3",
]  # fmt: skip
WORDS = [
    b"", b" ", b"\t", b"\n", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"\xe2\x80\xae",
    b"[net]\n", b"[yolo]\n", b"[convolutional]\n", b"[route]\nlayers=-1\n", b"#", b"=", b",", b":",
    b"- ", b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system ['touch PWNED']",
    b"!!binary aaa", b"2020-99-99", b"2020-01-01", b"? [1]", b"{", b"}", b"[", b"]", b'"', b"'",
    b"null", b"true", b"~", b"yes", b"/", b"..", b"/dev/zero", b"/dev/null", b"/proc/self/mem",
    b"%s%n", b"$(touch PWNED)", b"__import__('os').system('touch PWNED')", b"a" * 300, b"[" * 3000,
]  # fmt: skip

edits = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 16) - 1)),
    min_size=1,
    max_size=8,
)


def mutate(data: bytes, changes: Sequence[Edit], others: Sequence[bytes] = ()) -> bytes:
    """A file with some changes.

    Args:
        data: the file.
        changes: what (0 … 9), where (of 65536) and with what.
        others: files to take pieces from.
    """
    for kind, at, what in changes:
        if kind < 4:
            data = _bytes(data, kind, at, what, others)
        elif kind < 7:
            data = _lines(data, kind, at, what)
        else:
            data = _token(data, kind, at, what)
    return data


def _bytes(data: bytes, kind: int, at: int, what: int, others: Sequence[bytes]) -> bytes:
    i = at * len(data) >> 16
    if kind == 0:
        return data[:i] + data[i + 1 + what % 64 :]
    if kind == 1:
        return data[:i] + WORDS[what % len(WORDS)] + data[i:]
    if kind == 2:
        return data[:i] + bytes([what & 255]) + data[i + 1 :]
    if others and what & 1:
        other = others[what % len(others)]
        return data[:i] + other[what * len(other) >> 17 :]
    return data[:i]


def _lines(data: bytes, kind: int, at: int, what: int) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    i, j = at * len(lines) >> 16, what % len(lines)
    if kind == 4:
        del lines[i : i + 1 + what % 3]
    elif kind == 5:
        lines[j:j] = lines[i : i + 1 + what % 8]
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


def _token(data: bytes, kind: int, at: int, what: int) -> bytes:
    pattern, stock = (rb"-?\d[\d.]*", NUMBERS) if kind < 9 else (rb"[\w./-]+", WORDS)
    places = list(re.finditer(pattern, data))
    if not places:
        return data
    place = places[at * len(places) >> 16]
    return data[: place.start()] + stock[what % len(stock)] + data[place.end() :]
