"""Rules that give layers shares of their own: a share that goes, or a floor and a ceiling to it.

They come as a mapping from a name or a glob to a rule, usually in a YAML file::

    backbone.*: 0.3                  # three tenths of the channels of each of these layers go
    model.4.*: {min: 0.1, max: 0.5}  # between a tenth and a half
    model.9.cv2.conv: {keep: 64}     # 64 channels stay at least
    head.*: 0                        # nothing goes

Of all rules that match a layer the last one holds, alone. The file is not trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yoloprune.errors import PlanError
from yoloprune.texts import Where, cut, read_yaml

KEYS = ("min", "max", "keep")
_EXPECTED = "a share from 0 to below 1, or a mapping with min, max or keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is asked of the layers that a pattern names.

    Attributes:
        pattern: name of a layer or of a module around layers, or a glob, or an area.
        share: of each layer's channels that goes, in [0, 1); None where there is none …
        min: … but a share that goes at least, in [0, 1) …
        max: … a share that goes at most, in [0, 1] …
        keep: … or a number of channels that stay at least.
        globs: what the pattern stands for where it is an area or a number; empty: itself.
    """

    pattern: str
    share: float | None = None
    min: float | None = None
    max: float | None = None
    keep: int | None = None
    globs: tuple[str, ...] = ()

    @property
    def takes(self) -> bool:
        """Whether something is to go, whatever the budget."""
        return bool(self.share) or bool(self.min)

    @property
    def caps(self) -> bool:
        """Whether it only says how much may go at most."""
        return self.share is None and not self.min

    @property
    def value(self) -> float | dict[str, float]:
        """As a file says it."""
        if self.share is not None:
            return self.share
        found = {key: getattr(self, key) for key in KEYS}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def words(self) -> str:
        """For people."""
        if self.share is not None:
            return f"{self.pattern}: {self.share:g}"
        inner = ", ".join(f"{key}: {getattr(self, key):g}" for key in KEYS if self.given(key))
        return f"{self.pattern}: {{{inner}}}"

    def given(self, key: str) -> bool:
        """Whether ``min``, ``max`` or ``keep`` is set."""
        return getattr(self, key) is not None

    def in_rounds(self, rounds: int) -> Rule:
        """What each of so many cuts takes of what is there, to come to this after the last."""

        def each(share: float | None) -> float | None:
            return None if share is None else 1 - (1 - share) ** (1 / rounds)

        return replace(self, share=each(self.share), min=each(self.min), max=each(self.max))


def read_ratios(path: Path) -> tuple[Rule, ...]:
    """Read a file of rules.

    Raises:
        PlanError: it cannot be read, is no YAML, a rule stands twice, or is none; with the line.
    """
    read = read_yaml(path, PlanError, unique=True)
    return parse_ratios(read.value, str(path), lines=read.lines)


def parse_ratios(
    value: object, where: str, *, lines: Mapping[Where, int] | None = None
) -> tuple[Rule, ...]:
    """Check rules that a file gave as plain values.

    Args:
        value: what should be a mapping.
        where: what errors call it, such as its file.
        lines: of the keys, where they are known.

    Raises:
        PlanError: it is no mapping, is empty, or a rule is none.
    """
    if not isinstance(value, dict):
        raise PlanError(
            f"{where}: got {cut(repr(value), 60)}, expected a mapping such as `backbone.*: 0.3`."
        )
    if not value:
        raise PlanError(f"{where}: has no rule, expected some such as `backbone.*: 0.3`.")
    rules = []
    for key, rule in value.items():
        number = (lines or {}).get((str(key),))
        place = where if number is None else f"{where}:{number}"
        if isinstance(key, bool) or not isinstance(key, int | str) or not str(key).strip():
            raise PlanError(
                f"{place}: got {cut(repr(key), 60)}, expected a layer's name or a glob."
            )
        rules.append(_rule(str(key), rule, f"{place}: {cut(str(key), 60)}"))
    return tuple(rules)


def to_mapping(rules: tuple[Rule, ...]) -> dict[str, float | dict[str, float]]:
    """Rules as a file has them, in their order; the inverse of :func:`parse_ratios`."""
    return {rule.pattern: rule.value for rule in rules}


def _rule(pattern: str, value: Any, where: str) -> Rule:
    if not isinstance(value, dict):
        return Rule(pattern=pattern, share=_share(value, where, _EXPECTED))
    unknown = [key for key in value if key not in KEYS]
    if unknown:
        name = cut(str(unknown[0]), 60)
        raise PlanError(f"{where}.{name}: is unknown, expected one of {', '.join(KEYS)}.")
    if not value:
        raise PlanError(f"{where}: is an empty mapping, expected one with min, max or keep.")
    least = most = None
    if "min" in value:
        least = _share(value["min"], f"{where}.min", "a share from 0 to below 1")
    if "max" in value:
        expected = "a share from 0 to 1"
        most = _share(value["max"], f"{where}.max", expected, whole=True)
    if least is not None and most is not None and least > most:
        raise PlanError(f"{where}: min is above max, got {least:g} and {most:g}. Swap them.")
    keep = value.get("keep")
    if "keep" in value and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        shown = cut(repr(keep), 60)
        raise PlanError(f"{where}.keep: got {shown}, expected a whole number, at least 1.")
    return Rule(pattern=pattern, min=least, max=most, keep=keep)


def _share(value: Any, where: str, expected: str, *, whole: bool = False) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1 or (value == 1 and not whole):
        raise PlanError(f"{where}: got {cut(repr(value), 60)}, expected {expected}.")
    return float(value)
