"""What README and docs tell a reader to do, in the order of each page.

A page shows commands in ``console`` blocks, Python in ``python`` blocks, and files in blocks with a
``title``. A comment right above a block says what it needs that is not here:

- ``<!-- data: ... -->``: a trained network, pictures and a data set of the reader's own;
- ``<!-- needs: ... -->``, ``<!-- not run: ... -->``: what no test can have, with the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^(?:<!-- *(?P<mark>data|needs|not run)\b(?P<why>[^>]*)-->\n+)?"
    r"^```(?P<kind>console|python|yaml)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a page.

    Attributes:
        line: where it stands, from 1.
        kind: ``console``, ``python`` or ``yaml``.
        mark: what stands in the comment above it, empty where there is none.
        title: name of the file that it shows, if any.
        text: what is in it.
    """

    line: int
    kind: str
    mark: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Of a console block: what stands behind each ``$``, comments left out."""
        joined = self.text.replace("\\\n", " ")
        lines = [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
        return [re.sub(r"\s{2,}#.*$|\s#\s.*$", "", line).strip() for line in lines]


def pages(repo: Path) -> list[Path]:
    """README and every page that a person wrote."""
    return [repo / "README.md", *sorted((repo / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that say what to do."""
    text = page.read_text()
    return [
        Block(
            line=text.count("\n", 0, found.start("kind")) + 1,
            kind=found["kind"],
            mark=found["mark"] or "",
            title=found["title"] or "",
            text=found["text"],
        )
        for found in _BLOCK.finditer(text)
    ]
