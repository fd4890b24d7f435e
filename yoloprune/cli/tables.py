"""Tables for people, made from the same records as the JSON.

Names of files and classes are shown as they are: nothing in them is markup, and what a terminal
would act on is escaped. No digit is ever cut off: what is not a terminal gets the full width,
and a narrow terminal loses whole columns, which are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from yoloprune.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

# The box around a table: a space on either side of each cell, and a rule before each and at last.
_AROUND = 3


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: stands above it.
        justify: ``right`` for numbers.
        optional: 0 for a column that always stays; of the others, those with the highest number
            are left out first where a terminal is too narrow.
        wraps: whether its cells may go on in a further line, between words.
    """

    name: str
    justify: Literal["left", "right"] = "right"
    optional: int = 0
    wraps: bool = False


def show_line(text: str) -> None:
    """A line for people; a terminal that is too narrow breaks it by itself."""
    print(plain(text))


def show_table(
    title: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    console: Console | None = None,
) -> None:
    """Print a table, below its title.

    Args:
        title: a line of its own, never cut.
        columns: from left to right.
        rows: a text for each column.
        console: where to; standard output if None.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    cells = [[plain(column.name) for column in columns]]
    cells += [[plain(cell) for cell in row] for row in rows]
    # Not rich's is_terminal, which FORCE_COLOR sets, too, where nobody looks at 80 columns.
    room = console.width if console.file.isatty() else None
    widths = _widths(columns, cells, room)
    console.file.write(plain(title) + "\n")
    # The console's own width would cut what is wider; the terminal just breaks such lines.
    console.width = max(sum(widths.values()) + _AROUND * len(widths) + 1, console.width)
    table = Table()
    for i, width in widths.items():
        table.add_column(
            Text(cells[0][i]), justify=columns[i].justify, width=width,
            no_wrap=not columns[i].wraps, overflow="fold",
        )  # fmt: skip
    # Where no cell goes on in a further line, one row of many lines looks like many rows.
    blocks = [cells[1:]] if room is None and len(cells) > 1 else [[row] for row in cells[1:]]
    for block in blocks:
        table.add_row(*(Text("\n".join(row[i] for row in block)) for i in widths))
    console.print(table)
    gone = [column.name for i, column in enumerate(columns) if i not in widths]
    if gone:
        names = ", ".join(gone)
        console.file.write(f"columns left out on this narrow terminal: {plain(names)}\n")


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], room: int | None
) -> dict[int, int]:
    """Number of each column that is shown → its width in characters of a terminal."""
    from rich.cells import cell_len

    full = {i: max(cell_len(row[i]) for row in cells) for i in range(len(columns))}
    if room is None:
        return full
    least = {
        i: max(cell_len(word) for row in cells for word in row[i].split(" "))
        if column.wraps
        else full[i]
        for i, column in enumerate(columns)
    }
    shown = list(full)
    while _total(least[i] for i in shown) > room:
        optional = [i for i in shown if columns[i].optional]
        if not optional:
            break
        shown.remove(max(optional, key=lambda i: (columns[i].optional, i)))
    widths = {i: least[i] for i in shown}
    spare = max(room - _total(widths.values()), 0)
    for i in sorted(shown, key=lambda i: full[i]):  # short cells in one line, before long ones
        more = min(full[i] - widths[i], spare)
        widths[i] += more
        spare -= more
    return widths


def _total(widths: Iterable[int]) -> int:
    """Width of a whole table."""
    return sum(width + _AROUND for width in widths) + 1


def size_of(imgsz: list[int]) -> str:
    """Width and height of an input."""
    return f"{imgsz[1]}×{imgsz[0]}"


def time_of(side: Mapping[str, Any], key: str) -> str:
    """A median with its spread."""
    spread = side.get("latency_iqr_ms")
    return f"{side[key]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
