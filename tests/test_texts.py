"""Text files that are not trusted: what is refused, with its line, before it costs anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yoloprune.errors import DataError
from yoloprune.texts import (
    TEXT_VARIABLE,
    kind_of,
    parse_amount,
    parse_time,
    parse_yaml,
    read_text,
    read_yaml,
)

HERE = Path("t.yaml")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfdisc\r\nring\n")
    assert read_text(path, DataError) == "disc\r\nring\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("disc".encode("utf-16"), "is UTF-16, expected UTF-8"),
        (b"caf\xe9", r"is not text in UTF-8 \(byte 3\)"),
    ],
)
def test_other_encodings_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "a.txt", DataError)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
def test_devices_and_pipes_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/dev/zero: is no regular file"):
        read_text(Path("/dev/zero"), DataError)
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path, DataError)
    with pytest.raises(DataError, match="no such file"):
        read_text(tmp_path / "none", DataError)
    with pytest.raises(DataError, match="cannot be read"):
        read_text(Path("a\0b"), DataError)


def test_a_limit_that_the_user_can_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 2_000_001)
    with pytest.raises(DataError, match=f"more than 2 MB.*set {TEXT_VARIABLE} higher"):
        read_text(path, DataError, most_mb=2)
    monkeypatch.setenv(TEXT_VARIABLE, "3")
    assert len(read_text(path, DataError, most_mb=2)) == 2_000_001
    monkeypatch.setenv(TEXT_VARIABLE, "much")
    with pytest.raises(DataError, match="expected a number of megabytes, got 'much'"):
        read_text(path, DataError)


def test_a_sparse_file_of_gigabytes_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(DataError, match="more than 0.5 MB"):
        read_yaml(path, DataError)


def bombs() -> dict[str, str]:
    nested = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    nested += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    maps = "a0: &a0 {k: 1}\n"
    maps += "".join(
        f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 9)
    )
    merged = "a0: &a0 {k: 1, l: 2}\n"
    merged += "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 9)
    )
    return {"lists": nested, "maps": maps, "merges": merged, "wide": f"a: &a [{'x,' * 2000}]\n"
            f"b: [{'*a,' * 2000}]\n"}  # fmt: skip


@pytest.mark.parametrize("kind", ["lists", "maps", "merges", "wide"])
def test_aliases_that_stand_for_millions_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match=r"t.yaml:\d+: stands for more than 1000000 values"):
        parse_yaml(bombs()[kind], HERE, DataError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [*x]", "t.yaml:1: an alias stands inside itself"),
        ("a: 1\nb: 2001-99-99", "t.yaml:2: is no YAML .'2001-99-99' is no timestamp"),
        ("a: !!bool maybe", "t.yaml:1: is no YAML .'maybe' is no bool"),
        ("a: !!int x1", "t.yaml:1: is no YAML .'x1' is no int"),
        ("a: !!float x", "t.yaml:1: is no YAML"),
        ("a: !!python/object/apply:os.system [touch PWNED]", "t.yaml:1: is no YAML"),
        ("a: !!python/name:os.system", "t.yaml:1: is no YAML"),
        ("a: !new 1", "t.yaml:1: is no YAML"),
        ("? [1]\n: 2", "t.yaml:1: a key must be a word"),
        ("a: [1", "t.yaml:1: is no YAML"),
        ("[" * 4000, "t.yaml: is nested too deeply"),
        ("a: 1\n\tb: 2", "t.yaml:2: is no YAML"),
        ("a: \x07", "t.yaml: is no YAML"),
        (r'a: "\U00110000"', "t.yaml: is no YAML"),
    ],
)
def test_faults_have_their_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_yaml(text, HERE, DataError)
    assert "\n" not in str(caught.value)


def test_plain_yaml_arrives_with_its_lines() -> None:
    read = parse_yaml("a: 1\nb:\n  c: [x, 2.5]\n  d: &d {e: null}\nf: *d\n", HERE, DataError)
    assert read.value == {"a": 1, "b": {"c": ["x", 2.5], "d": {"e": None}}, "f": {"e": None}}
    assert read.lines[("b", "d", "e")] == 4
    assert parse_yaml("", HERE, DataError).value is None


def test_a_key_that_stands_twice_counts_last_or_is_refused() -> None:
    assert parse_yaml("a: 1\na: 2\n", HERE, DataError).value == {"a": 2}
    with pytest.raises(DataError, match="t.yaml:2: a: stands twice, first in line 1"):
        parse_yaml("a: 1\na: 2\n", HERE, DataError, unique=True)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"  \n<!DOCTYPE HTML><p>", "a web page"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b'{"a": 1}', "JSON"),
        (b"PK\x03\x04", None),
        (b"\x80\x02}q\x00.", None),
    ],
)
def test_what_a_file_evidently_is(data: bytes, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(data)
    found = kind_of(tmp_path / "f")
    assert found is None if kind is None else str(found).startswith(kind)
    assert kind_of(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("3m", 180), ("1.5h", 5400)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1m", "3 days", "nan", "inf", "1e999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "of_bytes", "amount"),
    [
        ("0.5", False, 0.5),
        ("50%", True, 0.5),
        (".25", False, 0.25),
        ("2.1G", False, 2.1e9),
        ("3 m", False, 3e6),
        ("2.5e6", False, 2.5e6),
        ("0.5M", False, 5e5),
        ("2MB", True, 2e6),
        ("1.5MiB", True, 1.5 * 2**20),
        ("800k", True, 8e5),
    ],
)
def test_amounts_and_shares(text: str, of_bytes: bool, amount: float) -> None:
    assert parse_amount(text, of_bytes=of_bytes) == pytest.approx(amount, rel=1e-15)


@pytest.mark.parametrize("text", ["", "1", "0", "-1", "200%", "100%", "2MB", "9ms", "x", "1e999"])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a share nor an amount"):
        parse_amount(text)
