"""A page read back: its text, what is left open in it, and everything that it would load."""

from __future__ import annotations

import base64
import hashlib
import html as entities
import re
from html.parser import HTMLParser

_EMPTY = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page, parsed.

    Attributes:
        text: what a reader sees, and titles of shapes, spaces made one.
        open: tags that were left open.
        loads: addresses that it would load.
        tags: names of all elements.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.texts: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            here = (value or "").startswith(("#", "data:image/jpeg;base64,"))
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"} and not here:
                self.loads.append(str(value))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.texts.append(data)

    def check(self) -> None:
        """It is whole, loads nothing, forbids itself to, and is small."""
        assert self.open == []
        assert self.loads == []
        assert "@import" not in self.html
        assert re.findall(r"url\((?!#)", self.html) == []
        found = re.findall(r'Content-Security-Policy" content="([^"]*)"', self.html)
        policy = [entities.unescape(text) for text in found]
        assert len(policy) == 1 and policy[0].startswith("default-src 'none'")
        scripts = re.findall(r"<script>(.*?)</script>", self.html, re.DOTALL)
        assert len(scripts) == self.html.count("<script") <= 1
        for script in scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}'" in policy[0]
        used = set(re.findall(r"var\((--[\w-]+)\)", self.html))
        themes = re.findall(r":root \{(.*?)\}", self.html, re.DOTALL)
        defined = [set(re.findall(r"(--[\w-]+):", theme)) for theme in themes]
        assert len(defined) == 3  # light, dark, print
        assert defined[0] == defined[1] == defined[2]
        assert used - {"--v"} <= defined[0]
        assert len(self.html.encode()) < 3_000_000

    def cells(self, table: int) -> list[list[str]]:
        """Texts of a table's cells, row by row."""
        html = re.findall(r"<table.*?</table>", self.html, re.DOTALL)[table]
        rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
        found = (re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows)
        return [[re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", c)).strip() for c in r] for r in found]
