"""Errors in the words of whom they are for: of arguments from Python, of flags elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from yoloprune.errors import YoloPruneError

P = ParamSpec("P")
T = TypeVar("T")

REPLACE = "Choose another folder, or give overwrite=True."
"""What to do where results are in the way."""
_CODE = re.compile(r"(`[^`]*`)")
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
_SHORT = re.compile(r"(?<![\w-])-o\b")
_NAMES = {"out": "out", "no-repair": "repair=False", "no-compensate": "compensate=False"}


def in_arguments(text: str) -> str:
    """A message with arguments for flags: ``--min-channels`` becomes ``min_channels``.

    What stands between backticks is a command, and stays one.
    """
    parts = _CODE.split(text)
    return "".join(
        part if part.startswith("`") else _SHORT.sub("out", _FLAG.sub(_argument, part))
        for part in parts
    )


def _argument(flag: re.Match[str]) -> str:
    return _NAMES.get(flag[1], flag[1].replace("-", "_"))


def speaks_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Let the errors of a public function name its arguments; class and traceback stay."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except YoloPruneError as exc:
            exc.args = tuple(in_arguments(a) if isinstance(a, str) else a for a in exc.args)
            raise

    return inner
