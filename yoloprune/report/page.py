"""Pages: one HTML file each, that needs nothing but itself.

A page is a head, which says what came out and how it was measured, and parts, each filled by a
template of its own in ``pages/parts``. Every command's page is made of the same parts, more or
fewer.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.files import write_bytes
from yoloprune.plain import plain
from yoloprune.report import figures

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_PAGES = Path(__file__).parent / "pages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a page.

    Attributes:
        name: of its template in ``pages/parts``.
        title: its headline.
        data: what its template prints; texts are escaped there, ``Markup`` is not.
        anchor: where links lead; the template's name unless that stands on the page twice.
        sortable: whether it holds a table that may be sorted.
    """

    name: str
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    anchor: str = ""
    sortable: bool = False

    @property
    def place(self) -> str:
        """Its anchor."""
        return self.anchor or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What stands above the parts.

    Attributes:
        title: of the browser's tab.
        over: few words above the first line: the command, the date.
        takeaway: what came out, in words with figures.
        method: how it was measured, a sentence each.
        badge: a word of praise; may be empty.
        verdict: ``state`` (``good``, ``same``, ``bad``), ``words`` and ``next``; or None.
        notes: what a reader must know.
    """

    title: str
    over: Sequence[str]
    takeaway: str
    method: Sequence[str]
    badge: str = ""
    verdict: Mapping[str, str] | None = None
    notes: Sequence[str] = ()


def write_page(target: Path, head: Head, parts: Sequence[Part]) -> Path:
    """Write a page.

    Args:
        target: the file; its folder is made if need be.
        head: what stands above.
        parts: in order.

    Returns:
        The file that was written.

    Raises:
        YoloPruneError: the folder cannot be written to.
    """
    write_bytes(target, render(head, parts).encode())
    return target


def render(head: Head, parts: Sequence[Part]) -> str:
    """The text of a page."""
    from markupsafe import Markup

    script = _read("sort.js") if any(part.sortable for part in parts) else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template("page.html.j2")
    return template.render(
        head=head,
        parts=parts,
        style=Markup(_read("style.css")),  # these two are files of this package
        script=Markup(script),
        # The page may load nothing and run nothing but its own script.
        policy=f"script-src 'sha256-{digest}'" if script else "script-src 'none'",
    )


def _read(name: str) -> str:
    return (_PAGES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(figures, name)
        for name in ("milliseconds", "number", "plural", "quantity", "share", "signed", "times")
    }
    environment.filters["lines"] = _lines
    return environment


def _shown(value: object) -> object:
    """What an expression of a template prints: one line."""
    return plain(value) if type(value) is str else value


def _lines(texts: Sequence[str]) -> Markup:
    """Texts, one a line."""
    from markupsafe import Markup, escape

    return Markup("\n").join(escape(plain(text)) for text in texts)
