"""Pages that are made while the others are built: references, changes, and measured results.

MkDocs calls the functions at the end, ``on_…``, by their names.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = re.compile(r"\]\((?:\.\./)+benchmarks/results/([^)\s]+)\)")
"""A link to a measured result, as it stands in a page and as a code host can follow it."""
DRAWING = re.compile(r"^!\[[^\]]*\]\(((?:\.\./)*pictures/[^)\s]+\.svg)\)$", re.MULTILINE)
"""A drawing of ours, which takes its colours from the page once it stands in it."""


def command_reference() -> str:
    """Every command with its arguments and options, read off the application itself."""
    import typer.main

    from yoloprune.cli.main import app

    group: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        f"{group.help} The same text stands behind `yoloprune COMMAND --help`.",
        "",
        "Exit code 0: done; 1: the input is wrong or the work failed, in one line on standard "
        "error; 2: the flags are wrong.",
        "",
    ]
    for name in sorted(group.commands):
        lines += _command(name, group.commands[name])
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    words = " ".join(_place(p) for p in arguments)
    yield from (f"## {name}", "", _cell(command.help), "")
    yield from ("```text", f"yoloprune {name} {words}{' ' if words else ''}[OPTIONS]", "```", "")
    if arguments:
        yield from _table("argument", [(f"`{_place(p)}`", _cell(p.help)) for p in arguments])

    def panel(option: Any) -> str:
        return getattr(option, "rich_help_panel", None) or ""

    order = list(dict.fromkeys(panel(p) for p in options))
    for title, found in groupby(sorted(options, key=lambda p: order.index(panel(p))), key=panel):
        rows = [(_flags(p), _cell(p.help) + _default(p)) for p in found]
        yield from _table(title or "option", rows)


def _table(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    yield from (f"| {title} | |", "|---|---|")
    yield from (f"| {left} | {right} |" for left, right in rows)
    yield ""


def _place(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]")
    return name if argument.required else f"[{name}]"


def _flags(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.metavar or _kind(option)}"


def _kind(option: Any) -> str:
    """What an option takes, where it does not say so: by its type, old Typer's or new."""
    described = getattr(option, "type_descriptor", None)
    name = described.annotation.__name__ if described is not None else option.type.name
    return {"str": "TEXT", "float": "NUMBER", "int": "N"}.get(name, str(name).upper())


def _default(option: Any) -> str:
    if not option.show_default or option.is_flag or option.default in (None, "", (), []):
        return ""
    return f" (`{option.default}`)"


def _cell(text: Any) -> str:
    """Help text as one line of a table."""
    return " ".join(str(text or "").split()).replace("|", "\\|").replace("<", "&lt;")


_MADE = ("Budget", "MaskSpec", "Sparsity")
"""Classes that readers make themselves, and whose arguments they look for; beside all options."""


def python_reference() -> str:
    """A page that lists the public names; mkdocstrings fills in their docstrings."""
    import yoloprune

    lines = [
        "# Python",
        "",
        "Every name is imported as `yoloprune.NAME` (here often `yp.NAME`).",
        "",
    ]
    for title, wanted in (("Functions", str.islower), ("Classes", lambda n: not n.islower())):
        lines += [f"## {title}", ""]
        for name in filter(wanted, yoloprune.__all__):
            if name.startswith("__"):
                continue
            module, _, attribute = yoloprune._HOMES[name].partition(":")
            made = name in _MADE or name.endswith("Options")
            options = ["    options:", "      merge_init_into_class: true"] if made else []
            lines += [f"::: yoloprune.{module}.{attribute or name}", *options, ""]
    return "\n".join(lines)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated, and the results that pages link."""
    sys.path.insert(0, str(ROOT))
    for uri, content in (
        ("reference/cli.md", command_reference()),
        ("reference/python.md", python_reference()),
        ("changelog.md", (ROOT / "CHANGELOG.md").read_text()),
    ):
        files.append(File.generated(config, uri, content=content))
    for path in sorted((ROOT / "benchmarks/results").iterdir()):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave Sphinx' roles out of docstrings that became a page."""
    return re.sub(r":(?:mod|class|func|meth|data|attr):(<code>)~?", r"\1", html)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of results at the copies that stand beside the pages, and draw drawings."""
    folder = posixpath.dirname(page.file.src_uri) or "."
    place = ROOT / "docs" / folder

    def drawn(found: re.Match[str]) -> str:
        return "<figure>" + (place / found[1]).read_text().replace("\n", "") + "</figure>"

    def beside(found: re.Match[str]) -> str:
        return f"]({posixpath.relpath(f'results/{found[1]}', folder)})"

    return DRAWING.sub(drawn, RESULTS.sub(beside, markdown))
