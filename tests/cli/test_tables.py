"""Tables on terminals of any width: whole columns go, digits never."""

from __future__ import annotations

import importlib
import io
import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from yoloprune.cli.app import app, command
from yoloprune.cli.tables import Column, show_line, show_table
from yoloprune.errors import YoloPruneError
from yoloprune.prune.budget import Budget
from yoloprune.report.figures import short

EVIL = "a [/x] [i]b[/i] %20 ü\x1b[2J\u202egnp"
EVIL_SHOWN = "a [/x] [i]b[/i] %20 ü\\x1b[2J\\u202egnp"
LONG = "/".join(["a folder [b] with a long name"] * 8)


class Terminal(io.StringIO):
    """What is printed, and whether it says that it is a terminal."""

    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


Screen = Callable[[int | None], Terminal]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Standard output as a terminal of some columns, or a pipe for None."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def of(width: int | None) -> Terminal:
        monkeypatch.setenv("COLUMNS", str(width or 30))
        file = Terminal(width is not None)
        monkeypatch.setattr(sys, "stdout", file)
        return file

    return of


def unstyled(text: str) -> str:
    return text.replace("\x1b[1m", "").replace("\x1b[0m", "")


def table_of(text: str) -> list[list[str]]:
    """The cells of a printed table, its header first; what goes on in a further line is joined."""
    rows: list[list[str]] = []
    for line in unstyled(text).splitlines():
        if line[:1] in ("┃", "│"):
            rows.append([cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")])
    return rows


COLUMNS = (
    Column("layer", justify="left"),
    Column("out", optional=1),
    Column("MACs", optional=2),
    Column("why", justify="left", wraps=True, optional=3),
)
ROWS = [
    ("model.10.cv1.conv", "1024", "123,456,789", "output of the model"),
    ("model.22", "7", "1", "read by 12345678 others, all of which stay"),
]


@pytest.mark.parametrize("width", [None, 200])
def test_with_room_every_cell_is_there_in_one_line(width: int | None, screen: Screen) -> None:
    out = screen(width)
    show_table("t", COLUMNS, ROWS)
    assert table_of(out.getvalue()) == [[c.name for c in COLUMNS], *map(list, ROWS)]
    assert "left out" not in out.getvalue()


def test_words_go_on_in_the_next_line_before_a_column_goes(screen: Screen) -> None:
    out = screen(80)
    show_table("t", COLUMNS, ROWS)
    rows = table_of(out.getvalue())
    assert [len(row) for row in rows] == [4] * len(rows)
    whys = " ".join(row[3] for row in rows[2:])
    assert whys == "read by 12345678 others, all of which stay"
    assert "left out" not in out.getvalue()
    assert all(cell_len(line) <= 80 for line in unstyled(out.getvalue()).splitlines())


def test_a_narrow_terminal_loses_whole_columns_and_is_told(screen: Screen) -> None:
    out = screen(40)
    show_table("t", COLUMNS, ROWS)
    assert table_of(out.getvalue()) == [["layer", "out"], *(list(row[:2]) for row in ROWS)]
    last = out.getvalue().splitlines()[-1]
    assert last == "columns left out on this narrow terminal: MACs, why"


def test_what_must_stay_is_never_cut(screen: Screen) -> None:
    out = screen(10)
    show_table(LONG, COLUMNS, ROWS)
    lines = out.getvalue().splitlines()
    assert lines[0] == LONG
    assert table_of(out.getvalue()) == [["layer"], ["model.10.cv1.conv"], ["model.22"]]
    assert lines[-1].endswith(": out, MACs, why")


@pytest.mark.parametrize("width", [None, 40, 200])
def test_names_are_no_markup_and_do_nothing_to_the_terminal(
    width: int | None, screen: Screen
) -> None:
    out = screen(width)
    show_table(EVIL, [Column(EVIL), Column("n", optional=1)], [[EVIL, "1"]])
    show_line(EVIL)
    text = unstyled(out.getvalue())
    assert text.count(EVIL_SHOWN) == 4
    assert not {"\x1b", "\u202e"} & set(text)


def test_wide_characters_take_two_columns(screen: Screen) -> None:
    columns = [Column("name"), Column("n", optional=1)]
    for width, shown in ((24, [["name", "n"], ["球" * 8, "1"]]), (23, [["name"], ["球" * 8]])):
        out = screen(width)
        show_table("t", columns, [["球" * 8, "1"]])
        assert table_of(out.getvalue()) == shown


def test_colours_in_a_pipe_do_not_make_it_narrow(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = screen(None)
    show_table("t", COLUMNS, ROWS)
    assert table_of(out.getvalue())[1:] == [list(row) for row in ROWS]


LAYER = {
    "name": "model.10.m.0.attn.qkv.conv", "type": "Conv2d", "out_channels": 1024,
    "out_shape": [1, 1024, 160, 160], "prunable": 1023, "params": 1234567, "macs": 12345678901,
    "gamma": {"p05": 0.000123, "p50": 1.23, "p95": 12.3}, "groups": [1, 2], "reason": EVIL,
}  # fmt: skip
SIDE = {
    "params": 61949149, "macs": 65.9e9, "bytes": 247840632, "latency_ms": 1234.56,
    "latency_iqr_ms": 123.45, "AP": 0.4567, "AP50": 0.6789,
}  # fmt: skip
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
METRICS = {name: 0.1234 + i / 1e3 for i, name in enumerate(NAMES)}
TOTALS = {
    "params": 1, "macs": 1, "channels": 1, "prunable_channels": 1, "units": 1,
    "prunable_units": 1, "bn_channels": 1, "prunable_bn_channels": 1,
}  # fmt: skip
SUITS = {
    "target": EVIL, "path": EVIL, "convs": 2, "off": [{"layer": EVIL, "reason": EVIL}],
    "exempt": [EVIL], "avoid": [{"op": EVIL, "layers": [EVIL], "why": EVIL, "source": EVIL}],
}  # fmt: skip
RECORDS: dict[str, dict[str, Any]] = {
    "info": {
        "model": EVIL, "imgsz": [640, 640], "layers": [LAYER], "balances": [EVIL],
        "unreached": [EVIL], "totals": TOTALS, "blocks": {
            "removable": [{"name": EVIL, "kind": EVIL, "params": 1, "macs": 1}],
            "bound": {EVIL: EVIL},
        },
        "fast_path": SUITS,
    },
    "val": {
        "model": EVIL, "data": EVIL, "split": "val", "images": 5000, "imgsz": [640, 640],
        "metrics": METRICS, "task": "detect", "boxes": True,
        "by": dict.fromkeys(METRICS, "pycocotools"),
    },
    "slim": {
        "model": EVIL, "imgsz": [640, 640], "before": SIDE, "after": SIDE, "criterion": "gamma",
        "scope": "global", "why": EVIL, "repair": None, "verdict": {"words": EVIL, "next": EVIL},
        "asked": {"percent": 0.5}, "search": None, "max_drop": None, "blocks": None,
        "latency": None,
        "self_test": {"max_rel_diff": 1e-7},
        "reached": {
            "prunable_channels": 1, "channels": 1, "percent": 0.5, "units": 1, "threshold": 0.1,
        },
        "files": {"model": [EVIL], "plan": EVIL, "report": EVIL},
        "fast_path": {"before": SUITS, "after": SUITS},
    },
    "run": {
        "data": EVIL, "images": 5000, "imgsz": [640, 640], "accepted": "dense", "stopped": EVIL,
        "rounds": [{"name": "dense", **SIDE}, {"name": "round1", "percent": 0.5, **SIDE}],
        "files": {"model": [EVIL], "picture": EVIL},
    },
    "predict": {"images": [
        {"file": EVIL, "boxes": [{"name": EVIL, "confidence": 0.5, "xyxy": [1, 2, 3, 4]}]}
    ]},
    "train": {"files": {"model": [EVIL], "sparsity": EVIL}},
    "export": {"file": EVIL, "format": EVIL, "check": None, "int8": None},
}  # fmt: skip
SHOWN = {
    ("info", 40): ["layer"],
    ("info", 80): ["layer", "out", "prunable", "params", "MACs"],
    ("val", 40): ["AP50:95", "AP50", "AP75", "APs"],
    ("val", 80): ["AP50:95", "AP50", "AP75", "APs", "APm", "APl", "AR100"],
    ("slim", 40): ["", "before", "after"],
    ("slim", 80): ["", "before", "after", "change"],
    ("run", 40): ["", "gone", "AP50:95", "MACs"],
    ("run", 80): ["", "gone", "AP50:95", "parameters", "MACs", "bytes", "latency, ms"],
}
CELLS = {
    "info": ["1024×160×160", "1023", "1.23 M", "12.3 G", "0.000123", "1.23", "12.3", EVIL_SHOWN],
    "val": [f"{value:.4f}" for value in METRICS.values()],
    "slim": ["61.9 M", "65.9 G", "248 M", "1234.56 ± 123.45", "0.4567", "0.6789", "÷ 1.00"],
    "run": ["dense ←", "50%", "0.4567", "0.6789", "61.9 M", "248 M", "1234.56 ± 123.45"],
    "predict": [], "train": [], "export": [],
}  # fmt: skip


def show(name: str) -> None:
    record = RECORDS[name]
    plan = SimpleNamespace(budget=Budget(percent=0.5))
    shown = SimpleNamespace(summary=record, plan=plan) if name == "slim" else record
    module = importlib.import_module(f"yoloprune.cli.{name}")
    if name == "predict":
        module.show_picture(record["images"][0], every=True)
    else:
        module._show(shown)


@pytest.mark.parametrize("name", RECORDS)
def test_in_a_pipe_nothing_is_missing(name: str, screen: Screen) -> None:
    out = screen(None)
    show(name)
    cells = [cell for row in table_of(out.getvalue()) for cell in row]
    assert set(CELLS[name]) <= set(cells)
    assert "…" not in out.getvalue()
    assert EVIL_SHOWN in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(("name", "width"), SHOWN)
def test_on_a_terminal_columns_go_whole(name: str, width: int, screen: Screen) -> None:
    out = screen(width)
    show(name)
    rows = table_of(out.getvalue())
    assert rows[0] == SHOWN[name, width]
    everything = screen(None)
    show(name)
    whole = table_of(everything.getvalue())
    gone = [cell for cell in whole[0] if cell not in rows[0]]
    assert ("left out on this narrow terminal: " + ", ".join(gone) in out.getvalue()) == bool(gone)
    words = {word for row in rows for cell in row for word in cell.split()}
    for i, head in enumerate(whole[0]):
        if head in rows[0]:
            assert {word for row in whole for word in row[i].split()} <= words
    lines = unstyled(out.getvalue()).splitlines()
    assert all(cell_len(line) <= width for line in lines if line[:1] in "┃│")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(999, "999"), (999.7, "1 k"), (999_499, "999 k"), (999_600, "1 M"), (1.5e9, "1.5 G")],
)
def test_a_count_is_never_a_power_of_ten(value: float, shown: str) -> None:
    assert short(value) == shown


def test_an_error_and_a_log_line_do_nothing_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "registered_commands", [])

    @command
    def falls() -> None:
        logging.getLogger("yoloprune.x").warning("%s\n", EVIL)
        raise YoloPruneError(f"{EVIL}  b\r\nc")

    handlers = list(logging.getLogger().handlers)
    try:
        done = CliRunner().invoke(app, ["falls"])
    finally:
        logging.getLogger().handlers[:] = handlers
    assert done.exit_code == 1
    assert done.stderr == f"warning: {EVIL_SHOWN}\\x0a\nyoloprune: {EVIL_SHOWN}  b\\x0d\\x0ac\n"


def test_a_file_gets_the_lines_of_a_wide_terminal(screen: Screen) -> None:
    """Where no cell is broken, all rows are laid out in one go."""
    columns = (Column("name", justify="left"), Column("n"), Column("why", "left", wraps=True))
    rows = [("a", "", ""), ("", "10", "two words"), ("", "", ""), ("bcd", "2", "x"), ("e", "", "")]
    shown = []
    for width in (None, 200):
        file = screen(width)
        show_table("title", columns, rows)
        shown.append(unstyled(file.getvalue()))
    assert shown[0] == shown[1]
    assert len(shown[0].splitlines()) == 5 + len(rows)
