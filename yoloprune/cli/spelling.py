"""What users of YOLO tools type, in the spelling of this command line.

``imgsz=320`` is ``--imgsz 320``, and what is no flag of a command but a setting of Ultralytics is
``--set``: ``lr0=0.01``. A flag that does not exist is told with the nearest one that does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

_SETTING = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_SAME = {"lr": "lr0", "batch_size": "batch", "img_size": "imgsz", "source": "images"}
"""Names of other tools."""


def spelled(typed: Sequence[str], command: Any) -> list[str]:
    """Arguments of one command, with ``key=value`` as flags.

    Args:
        typed: what stands after the command's name.
        command: as click knows it.

    Raises:
        typer.BadParameter: a key or a flag is none.
    """
    flags = {name: option for option in command.params for name in _names(option)}
    places = [option.name for option in command.params if not _names(option)]
    first: list[str] = []
    found: list[str] = []
    last: list[str] = []
    for word, is_value in _words(typed, flags):
        setting = None if is_value else _SETTING.fullmatch(word)
        if setting is not None and not Path(word).exists():
            key = _SAME.get(setting[1], setting[1])
            if key in places:
                (first if key == places[0] else last).append(setting[2])
            else:
                found += _as_flags(setting[1], setting[2], flags)
        else:
            if not is_value and word.startswith("--") and len(word) > 2:
                _check(word.partition("=")[0], flags)
            found.append(word)
    return [*first, *found, *last]


def _names(option: Any) -> list[str]:
    return [name for name in (*option.opts, *option.secondary_opts) if name.startswith("-")]


def _words(typed: Sequence[str], flags: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Each word, and whether it is the value of the flag before it or stands behind ``--``."""
    waiting = rest = False
    for word in typed:
        yield word, waiting or rest
        if waiting or rest:
            waiting = False
            continue
        rest = word == "--"
        option = flags.get(word)
        waiting = option is not None and not (option.is_flag or option.count)


def _as_flags(key: str, value: str, flags: Mapping[str, Any]) -> list[str]:
    """One setting."""
    flag = f"--{key.replace('_', '-')}"
    option = flags.get(flag)
    if option is None:
        if "--set" in flags and key in ultralytics_settings():
            return ["--set", f"{key}={value}"]
        raise typer.BadParameter(f"{key}={value}: {_unknown(key, flags, value)}")
    if not option.is_flag:
        return [flag, value]
    if value.lower() in _TRUE:
        return [flag]
    if value.lower() in _FALSE:
        return [name for name in option.secondary_opts if name.startswith("--")][:1]
    raise typer.BadParameter(f"{key}={value}: expected True or False.")


def _check(flag: str, flags: Mapping[str, Any]) -> None:
    """Refuse a flag that is none, where more can be said than click says."""
    key = flag[2:].replace("-", "_")
    if flag in flags or flag == "--help":
        return
    if "--set" in flags and key in ultralytics_settings():
        raise typer.BadParameter(
            f"{flag}: is no flag, but a setting of Ultralytics: write {key}=VALUE."
        )
    raise typer.BadParameter(f"{flag}: {_unknown(key, flags)}")


def _unknown(key: str, flags: Mapping[str, Any], value: str = "VALUE") -> str:
    """What to say of a key that is neither flag nor setting."""
    settings = ultralytics_settings() if "--set" in flags else frozenset()
    there = {flag[2:].replace("-", "_"): flag for flag in flags if flag.startswith("--")}
    wanted = _SAME.get(key, key)
    known = [*there, *sorted(settings)]
    near = difflib.get_close_matches(wanted, known, n=2, cutoff=0.6)
    near = [wanted] if wanted in known else near
    meant = [there.get(name, f"{name}={value}") for name in near]
    also = " nor a setting of Ultralytics" if "--set" in flags else ""
    hint = f"Did you mean {' or '.join(meant)}?" if meant else "See --help."
    return f"is no flag of this command{also}. {hint}"


def ultralytics_settings() -> frozenset[str]:
    """Names of all settings that the installed Ultralytics knows; it is not imported for them."""
    import yaml

    spec = find_spec("ultralytics")
    folders = () if spec is None else tuple(spec.submodule_search_locations or ())
    for folder in folders:
        file = Path(folder, "cfg", "default.yaml")
        if file.is_file():
            return frozenset(yaml.safe_load(file.read_text(encoding="utf-8")))
    return frozenset()


def share(value: float | None) -> float | None:
    """A share of a whole, in 0 … 1.

    Raises:
        typer.BadParameter: it is none; a number that looks like percent is told as a share.
    """
    if value is not None and not 0 <= value <= 1:
        meant = f" Did you mean {value / 100:g}?" if 1 < value <= 100 else ""
        raise typer.BadParameter(f"is a share from 0 to 1, got {value:g}.{meant}")
    return value
