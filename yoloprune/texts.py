"""Text files that are not trusted: read up to a limit, as UTF-8, and YAML of plain values.

A file may be a device that never ends, a list of gigabytes, or a YAML of a few hundred bytes
whose aliases stand for billions of values. All of it is refused before the work.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoloprune.errors import YoloPruneError

Error = Callable[[str], YoloPruneError]
"""Makes the error of the kind of file that is read."""
Where = tuple[str | int, ...]
_UNITS = {"s": 1, "m": 60, "h": 3600}

TEXT_VARIABLE = "YOLOPRUNE_MAX_TEXT_MB"
"""Environment variable: the largest text file that is read, in megabytes."""
MAX_TEXT_MB = 256
MAX_YAML_MB = 0.5
"""YAML is read slowly; real ones have kilobytes."""
MAX_YAML_VALUES = 1_000_000
"""Values that a YAML may stand for, its aliases written out."""


def read_text(path: Path, error: Error, *, most_mb: float = MAX_TEXT_MB) -> str:
    """Read a text file, without the byte order mark that some editors write.

    Args:
        path: the file.
        error: what to raise.
        most_mb: megabytes that it may have; ``$YOLOPRUNE_MAX_TEXT_MB`` is taken instead.

    Raises:
        YoloPruneError: it is missing, no regular file, too large, or not UTF-8.
    """
    data = read_bytes(path, error, most_mb=most_mb)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise error(f"{path}: is UTF-16, expected UTF-8. Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise error(f"{path}: is not text in UTF-8 (byte {exc.start}).") from exc


def read_bytes(path: Path, error: Error, *, most_mb: float = MAX_TEXT_MB) -> bytes:
    """Read a regular file of a limited size.

    Args:
        path: the file.
        error: what to raise.
        most_mb: megabytes that it may have; ``$YOLOPRUNE_MAX_TEXT_MB`` is taken instead.

    Raises:
        YoloPruneError: it is missing, no regular file, or too large.
    """
    limit = _limit(most_mb, error)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise error(f"{path}: is no regular file.")
            data = file.read(int(limit * 1e6) + 1)
    except FileNotFoundError as exc:
        raise error(f"{path}: no such file.") from exc
    except (OSError, ValueError) as exc:  # a name with a null byte is a ValueError
        raise error(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc}).") from exc
    if len(data) > limit * 1e6:
        raise error(
            f"{path}: has more than {limit:g} MB, which no such file needs. If it is right, set "
            f"{TEXT_VARIABLE} higher."
        )
    return data


def _limit(most_mb: float, error: Error) -> float:
    wanted = os.environ.get(TEXT_VARIABLE)
    if not wanted:
        return most_mb
    try:
        limit = float(wanted)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e6:
        raise error(f"{TEXT_VARIABLE}: expected a number of megabytes, got {wanted!r}.")
    return limit


def cut(text: str, most: int) -> str:
    """A text, or as much of it as ``most`` characters hold with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


@dataclass(frozen=True, slots=True)
class YamlText:
    """What a YAML says, and where.

    Attributes:
        value: plain values: mappings, lists, texts, numbers, dates, None.
        lines: path of keys → line, from 1, of each key; ``()`` is the first.
    """

    value: Any
    lines: Mapping[Where, int]


def read_yaml(path: Path, error: Error, *, unique: bool = False) -> YamlText:
    """Read a YAML file of plain values; see :func:`parse_yaml`."""
    return parse_yaml(read_text(path, error, most_mb=MAX_YAML_MB), path, error, unique=unique)


def parse_yaml(text: str, path: Path, error: Error, *, unique: bool = False) -> YamlText:
    """Read YAML of plain values; no tag of it makes an object.

    Args:
        text: the YAML.
        path: what errors call it.
        error: what to raise.
        unique: refuse a key that stands twice; else the last one counts, as YAML's readers have it.

    Raises:
        YoloPruneError: it is no YAML, has a value that is none of its tag or a key that is no
            single word, or stands for too many values; with the line.
    """
    import yaml

    reader = _reader()
    try:
        node = yaml.compose(text, Loader=reader)
        if node is None:
            return YamlText(None, {(): 1})
        _check_size(node, path, error)
        lines = _lines(node, path, error, unique)
        loader = reader("")
        try:
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = " ".join(str(getattr(exc, "problem", None) or exc).split())
        raise error(f"{where}: is no YAML ({reason[:160]}).") from exc
    except RecursionError as exc:
        raise error(f"{path}: is nested too deeply to be a file of plain values.") from exc
    except ValueError as exc:  # "\\U00110000", which is no character
        raise error(f"{path}: is no YAML ({exc}).") from exc
    return YamlText(value, lines)


def _reader() -> Any:
    """PyYAML's safe loader, which says the line of every value that is none of its tag."""
    import yaml

    class Reader(yaml.SafeLoader):
        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as exc:
                shown = str(node.value)[:40] if isinstance(node, yaml.ScalarNode) else node.id
                kind = node.tag.rpartition(":")[2]
                raise yaml.constructor.ConstructorError(
                    None, None, f"{shown!r} is no {kind}", node.start_mark
                ) from exc

    return Reader


def _check_size(node: Any, path: Path, error: Error) -> None:
    """Count the values that a document stands for, aliases written out; each node is seen once."""
    sizes: dict[int, int] = {}
    stack: list[tuple[Any, bool]] = [(node, False)]
    open_nodes: set[int] = set()
    while stack:
        at, seen = stack.pop()
        inner = _inner(at)
        if seen:
            open_nodes.discard(id(at))
            sizes[id(at)] = 1 + sum(sizes[id(one)] for one in inner)
            if sizes[id(at)] > MAX_YAML_VALUES:
                raise error(
                    f"{path}:{at.start_mark.line + 1}: stands for more than {MAX_YAML_VALUES} "
                    "values, its aliases written out, which no such file needs."
                )
            continue
        if id(at) in sizes:
            continue
        if id(at) in open_nodes:
            raise error(f"{path}:{at.start_mark.line + 1}: an alias stands inside itself.")
        open_nodes.add(id(at))
        stack.append((at, True))
        for one in inner:
            if id(one) in open_nodes:
                raise error(f"{path}:{one.start_mark.line + 1}: an alias stands inside itself.")
            if id(one) not in sizes:
                stack.append((one, False))


def _inner(node: Any) -> list[Any]:
    """The nodes right inside a node."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _lines(node: Any, path: Path, error: Error, unique: bool, at: Where = ()) -> dict[Where, int]:
    """Line, from 1, of every key.

    Raises:
        YoloPruneError: a key is no single value, or stands twice.
    """
    import yaml

    found: dict[Where, int] = {at: node.start_mark.line + 1}
    if not isinstance(node, yaml.MappingNode):
        return found
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise error(f"{path}:{line}: a key must be a word.")
        here = (*at, key.value)
        if unique and here in found and key.tag != "tag:yaml.org,2002:merge":
            name = ".".join(map(str, here))
            raise error(f"{path}:{line}: {name}: stands twice, first in line {found[here]}.")
        found |= _lines(value, path, error, unique, here)
        found[here] = line
    return found


_STARTS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer: run `git lfs pull` first"),
    (b"\x89PNG\r\n", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF", "a Keras or other HDF5 file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)


def kind_of(path: Path) -> str | None:
    """What a file evidently is where it should be a model: for people, or None.

    Downloads that failed leave web pages, checkouts without Git LFS leave pointers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return None
    if not start:
        return "empty"
    word = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if word.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page: the download failed, or needs a login"
    if word.startswith((b'{"', b"{\n", b"[{")):
        return "JSON text"
    return next((kind for mark, kind in _STARTS if start.startswith(mark)), None)


_AMOUNT = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?P<unit>%|[kmgt]?)(?P<bytes>i?b)?",
    re.IGNORECASE,
)
_POWERS = ("", "k", "m", "g", "t")


def parse_amount(text: str, *, of_bytes: bool = False) -> float:
    """A share such as ``0.5`` or ``50%``, or an amount such as ``2.1G``, ``3M``, ``2MB``, ``1GiB``.

    Returns:
        A share as a number below 1, an amount as one above it.

    Raises:
        ValueError: it is neither.
    """
    match = _AMOUNT.fullmatch(text.strip())
    found, share = math.nan, False
    if match is not None and (of_bytes or match["bytes"] is None):
        step = 1024 if (match["bytes"] or "").lower() == "ib" else 1000
        unit = match["unit"].lower()
        found = float(match["number"]) * (0.01 if unit == "%" else step ** _POWERS.index(unit))
        share = unit == "%" or (not unit and match["bytes"] is None and found < 1)
    if not (0 < found < 1 if share else 1 < found < math.inf):
        example = "2MB" if of_bytes else "2.1G"
        raise ValueError(
            f"is neither a share nor an amount, got {text!r}, expected one such as 0.5, 50% or "
            f"{example}."
        )
    return found


_LATENCY = re.compile(r"(?P<number>\d+\.?\d*|\.\d+)\s*(?P<unit>%|s|ms|us|µs)?", re.IGNORECASE)
_MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0, "µs": 1.0}


def parse_latency(text: str) -> float:
    """A share such as ``0.5`` or ``50%``, or a time such as ``12ms``, ``800us``, ``0.1s``.

    Returns:
        A share as a number below 1, a time as microseconds, above one.

    Raises:
        ValueError: it is neither.
    """
    match = _LATENCY.fullmatch(text.strip())
    found, share = math.nan, False
    if match is not None:
        unit = (match["unit"] or "").lower()
        share = unit in ("", "%")
        found = float(match["number"]) * (0.01 if unit == "%" else _MICROSECONDS.get(unit, 1.0))
    if not (0 < found < 1 if share else 1 < found < math.inf):
        raise ValueError(
            f"is neither a share nor a time, got {text!r}, expected one such as 0.5, 50% or 12ms."
        )
    return found


def parse_time(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``3m`` or ``1.5h``.

    Raises:
        ValueError: it is no time.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"is no time, got {text!r}, expected one such as 90s, 3m or 1h.")
    return seconds
