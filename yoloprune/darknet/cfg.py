"""Darknet ``.cfg`` text ⇄ sections, losing nothing: comments, order, spacing, unknown keys.

The rules are those of AlexeyAB's Darknet (``src/parser.c`` ``read_cfg``, ``src/option_list.c``):
blanks inside a line mean nothing, a line that starts with ``#`` or ``;`` is a comment, the
first of two equal keys wins. Values are parsed strictly here, where Darknet's ``atoi`` reads
what it can and takes 0 for the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from yoloprune.errors import CfgError
from yoloprune.texts import read_bytes

MAX_CFG_MB = 16

ALIASES = {
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "network": "net",
}
"""Section names that Darknet takes for others (``src/parser.c`` ``string_to_layer_type``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One ``[section]`` of a cfg, with the raw lines that it was read from.

    Attributes:
        kind: name of the section, aliases resolved: ``convolutional``.
        index: number of the layer, as Darknet counts them; -1 for ``[net]``.
        source: name of the file, for messages.
        line: line number of the section's heading, from 1.
        lines: the raw lines with their line ends, the heading first.
        options: key → (value, line number).
    """

    kind: str
    index: int
    source: str
    line: int
    lines: tuple[str, ...]
    options: Mapping[str, tuple[str, int]] = field(repr=False)

    def __deepcopy__(self, memo: object) -> Section:
        """Itself: nothing of it ever changes, and large models are copied often."""
        return self

    def __contains__(self, key: str) -> bool:
        return key in self.options

    def where(self, key: str | None = None) -> str:
        """``file:line [section] #index``, the line being the key's where there is one."""
        line = self.options[key][1] if key is not None and key in self.options else self.line
        return _where(self.source, line, self.kind, self.index)

    def error(self, key: str | None, problem: str) -> CfgError:
        """An error that names this section, or the line of one of its keys."""
        return CfgError(f"{self.where(key)}: {_printable(problem, 400)}")

    def get_str(self, key: str, default: str | None = None) -> str:
        """The text of a key.

        Raises:
            CfgError: the key is absent and has no default.
        """
        if key in self.options:
            return self.options[key][0]
        if default is None:
            raise self.error(None, f"{key}= is missing.")
        return default

    def get_int(
        self,
        key: str,
        default: int | None = None,
        *,
        low: int | None = None,
        high: int | None = None,
    ) -> int:
        """An integer in ``[low, high]``; what is out of bounds or no integer raises CfgError."""
        if key not in self.options and default is not None:
            return default
        return self._integer(key, self.get_str(key), "an integer", low, high)

    def get_float(self, key: str, default: float | None = None) -> float:
        """A finite real number."""
        if key not in self.options and default is not None:
            return default
        return self._real(key, self.get_str(key), "a number")

    def get_ints(self, key: str) -> tuple[int, ...]:
        """A list of integers, parted by commas."""
        return tuple(
            self._integer(key, item, "a list of integers", None, None) for item in self._items(key)
        )

    def get_floats(self, key: str) -> tuple[float, ...]:
        """A list of finite real numbers, parted by commas."""
        return tuple(self._real(key, item, "a list of numbers") for item in self._items(key))

    def get_flag(self, key: str, default: bool = False) -> bool:
        """An integer read as true or false, as Darknet does."""
        return bool(self.get_int(key, int(default)))

    def with_options(self, changes: Mapping[str, object]) -> Section:
        """A copy with some values replaced in their own lines, or appended after the last key.

        A comment behind a value that is replaced goes with it, since it may be untrue now.
        """
        lines = list(self.lines)
        end = "\r\n" if lines[0].endswith("\r\n") else "\n"
        last = max((line for _, line in self.options.values()), default=self.line) - self.line
        for key in changes.keys() & self.options.keys():
            at = self.options[key][1] - self.line
            match = _VALUE.match(lines[at])
            assert match, "a line with a key has an equals sign"
            # what stands behind the value was said of the old one
            rest = match[3]
            if str(changes[key]) != match[2] and rest.strip():
                rest = "\n" * rest.endswith("\n")
            lines[at] = f"{match[1]}{changes[key]}{rest}"
        added = [f"{key}={value}{end}" for key, value in changes.items() if key not in self.options]
        if added and not lines[last].endswith("\n"):  # the file's last line
            lines[last] += end
        lines[last + 1 : last + 1] = added
        return self._of(lines)

    def without(self, *keys: str) -> Section:
        """A copy without the lines of these keys, repeated ones included."""
        return self._of([raw for raw in self.lines if (_key_value(raw) or ("",))[0] not in keys])

    def _of(self, lines: list[str]) -> Section:
        options = _options(lines, self.source, self.line, self.kind, self.index)
        return replace(self, lines=tuple(lines), options=options)

    def _items(self, key: str) -> list[str]:
        items = self.get_str(key).split(",")
        return items[:-1] if len(items) > 1 and not items[-1] else items

    def _integer(self, key: str, text: str, what: str, low: int | None, high: int | None) -> int:
        if not _INTEGER.fullmatch(text):
            raise self.error(key, f"{key} must be {what}, got '{_printable(text)}'.")
        value = int(text)
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"in {low}..{high}"
            raise self.error(key, f"{key} must be {bounds}, got {text}.")
        if not -INT_BOUND <= value < INT_BOUND:
            raise self.error(key, f"{key} must be an integer of 32 bits, got {text}.")
        return value

    def _real(self, key: str, text: str, what: str) -> float:
        if not _REAL.fullmatch(text) or not math.isfinite(float(text)):
            raise self.error(key, f"{key} must be {what}, got '{_printable(text)}'.")
        return float(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cfg:
    """A whole cfg file.

    Attributes:
        source: name of the file, for messages.
        head: raw lines above the first section.
        net: the ``[net]`` section.
        layers: the layer sections, in order: ``layers[i].index == i``.
    """

    source: str
    head: tuple[str, ...]
    net: Section
    layers: tuple[Section, ...]

    def __deepcopy__(self, memo: object) -> Cfg:
        """Itself: nothing of it ever changes, and large models are copied often."""
        return self

    @property
    def text(self) -> str:
        """The file's text; for a cfg that was read and not changed, what was read."""
        sections = (self.net, *self.layers)
        return "".join(self.head) + "".join(line for s in sections for line in s.lines)

    def with_layers(self, layers: tuple[Section, ...]) -> Cfg:
        """A copy with other layers; line numbers are those of the text that results."""
        text = "".join(self.head) + "".join(self.net.lines)
        text += "".join(line for section in layers for line in section.lines)
        return parse_cfg(text, self.source)

    def with_net(self, changes: Mapping[str, object]) -> Cfg:
        """A copy with some ``[net]`` values replaced."""
        net = self.net.with_options(changes)
        return replace(self, net=net).with_layers(self.layers)


INT_BOUND = 1 << 31
_HEADING = re.compile(r"^\s*\[([^\]]*)\]")
_VALUE = re.compile(r"^([^=]*=[^\S\r\n]*)([^#\n]*?)(\s*(?:#[^\n]*)?\n?)$")
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _printable(text: str, longest: int = 40) -> str:
    """Text from a file, safe to show on a terminal and in one line."""
    shown = text if len(text) <= longest else f"{text[:longest]}…"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)


def _where(source: str, line: int, kind: str, index: int) -> str:
    number = "" if index < 0 else f" #{index}"
    return f"{source}:{line} [{_printable(kind)}]{number}"


def _key_value(raw: str) -> tuple[str, str, str] | None:
    """Key, equals sign and value of a raw line; None for a comment or a blank line."""
    text = re.sub(r"\s", "", raw)
    return None if not text or text[0] in "#;" else text.partition("=")


def _options(
    lines: list[str], source: str, first: int, kind: str, index: int
) -> dict[str, tuple[str, int]]:
    """The keys of a section's raw lines; the first of two equal keys wins, as in Darknet."""
    options: dict[str, tuple[str, int]] = {}
    for number, raw in enumerate(lines[1:], start=first + 1):
        parts = _key_value(raw)
        if parts is None:
            continue
        key, equals, value = parts
        if not equals:
            where = _where(source, number, kind, index)
            raise CfgError(f"{where}: expected key=value, got '{_printable(raw.strip())}'.")
        options.setdefault(key, (value.partition("#")[0], number))
    return options


def parse_cfg(text: str, source: str = "cfg") -> Cfg:
    """Parse the text of a Darknet cfg.

    Args:
        text: the whole file, line ends included.
        source: what to call it in messages.

    Raises:
        CfgError: no ``[net]`` comes first, no layer follows, or a line is no ``key=value``.
    """
    mark = ("\ufeff",) if text.startswith("\ufeff") else ()  # some editors write one
    raw = re.findall(r"[^\n]*\n|[^\n]+", text[len(mark) :])
    starts = [i for i, line in enumerate(raw) if _HEADING.match(line)]
    if not starts:
        raise CfgError(f"{source}: no [section] in it, expected a Darknet cfg.")
    sections = []
    stray = next((i for i, line in enumerate(raw[: starts[0]], 1) if _key_value(line)), None)
    if stray is not None:
        shown = _printable(raw[stray - 1].strip())
        raise CfgError(f"{source}:{stray}: text before the first [section], got '{shown}'.")
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(raw)], strict=True), -1):
        match = _HEADING.match(raw[start])
        assert match
        behind = raw[start][match.end() :].strip()
        if behind and behind[0] not in "#;":
            raise CfgError(
                f"{source}:{start + 1}: text behind a [section], got '{_printable(behind)}'. Give "
                "it a line of its own."
            )
        name = re.sub(r"\s", "", match[1])
        kind = ALIASES.get(name, name)
        lines = raw[start:end]
        sections.append(
            Section(
                kind=kind,
                index=index,
                source=source,
                line=start + 1,
                lines=tuple(lines),
                options=_options(lines, source, start + 1, kind, index),
            )
        )
    net, *layers = sections
    if net.kind != "net":
        raise CfgError(f"{net.where()}: the first section must be [net].")
    if not layers:
        raise CfgError(f"{source}: no layer follows [net].")
    return Cfg(source=source, head=(*mark, *raw[: starts[0]]), net=net, layers=tuple(layers))


def read_cfg(path: str | Path) -> Cfg:
    """Read a Darknet ``.cfg`` file.

    Raises:
        CfgError: the file cannot be read, is binary, or is malformed.
    """
    path = Path(path)
    data = read_bytes(path, CfgError, most_mb=MAX_CFG_MB)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CfgError(f"{path}: is UTF-16, expected UTF-8. Save it as UTF-8.")
    if b"\0" in data:
        raise CfgError(f"{path}: is a binary file, expected the text of a Darknet cfg.")
    return parse_cfg(data.decode("utf-8", errors="surrogateescape"), path.name)


def cfg_bytes(cfg: Cfg) -> bytes:
    """The bytes of a cfg, the inverse of :func:`read_cfg`."""
    return cfg.text.encode("utf-8", errors="surrogateescape")
