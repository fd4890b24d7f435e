"""The report page: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yoloprune.channels.graph import ChannelGraph, Group, TensorAxis
from yoloprune.prune.budget import Budget
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import plan
from yoloprune.prune.score import Scores
from yoloprune.report.slim import compare, layer_widths, write_slim_report

RESULT: dict[str, Any] = {
    "model": "runs/<b>net</b>.cfg",
    "before": {
        "params": 6_056_606, "macs": 3_450_000_000, "bytes": 24_251_276, "latency_ms": 20.0,
        "latency_iqr_ms": 0.5, "AP": 0.402, "AP50": 0.6,
        "latency": {"batch": 2, "times_ms": [20.0, 20.5, 19.5]},
    },
    "after": {
        "params": 1_514_151, "macs": 1_150_000_000, "bytes": 6_100_000, "latency_ms": 10.0,
        "latency_iqr_ms": 0.4, "AP": 0.399, "AP50": None,
    },
    "self_test": {"max_rel_diff": 3.2e-7},
    "files": {"model": ["slim/net.cfg", "slim/net.weights"], "plan": "slim/net-plan.json"},
    "environment": {"cpu": "<script>cpu</script>", "versions": {"torch": "2.4"}, "list": [1, 2]},
    "imgsz": [96, 64],
    "seconds": {"trace": 0.301, "cut": 0.02},
    "scope": "local",
    "why": "there are <i>pictures</i>",
    "warnings": ["not sparse: only 2 of the 16 channels to be removed are near zero"],
    "verdict": {
        "state": "needs training", "words": "needs about 5 epochs (AP .399)",
        "next": "yoloprune train slim/net.cfg --epochs 5",
    },
    "repair": {
        "pictures": 64, "held_out": 16, "seconds": 12.3, "drift": 0.1, "layers": [
            {"path": "first", "before": 0.2, "after": 0.05},
            {"path": "<u>second</u>", "before": 0.9, "after": 0.4},
        ],
    },
}  # fmt: skip


def made() -> tuple[PrunePlan, ChannelGraph, Scores]:
    units = np.arange(32)
    graph = ChannelGraph(
        n_units=32,
        frozen={},
        axes=(
            TensorAxis(tensor="first.weight", dim=0, units=units[:12], role="out"),
            TensorAxis(tensor="second.weight", dim=0, units=units[12:], role="out"),
        ),
        fields=(),
        balances=(),
        groups=(
            Group(index=0, units=units[:12], layers=("first",)),
            Group(index=1, units=units[12:], layers=("second",)),
        ),
    )
    scores = Scores(values=np.arange(32) / 32, criterion="gamma")
    budget = Budget(percent=0.5, min_channels=4)
    return plan(graph, scores, budget, Origin(path="net.weights", sha256="ab" * 32)), graph, scores


class _Page(HTMLParser):
    """Text, tags left open and everything that would be loaded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.loads.append(str(value))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture
def page(tmp_path: Path) -> tuple[str, _Page]:
    path = write_slim_report(tmp_path / "out" / "net-report.html", RESULT, *made())
    assert path == tmp_path / "out" / "net-report.html"
    assert [p.name for p in path.parent.iterdir()] == ["net-report.html"]
    html = path.read_text(encoding="utf-8")
    return html, _Page(html)


def test_the_page_is_whole_and_loads_nothing(page: tuple[str, _Page]) -> None:
    html, parsed = page
    assert parsed.open == []
    assert parsed.loads == []
    assert "script" not in parsed.tags
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    assert len(html) < 300_000


def test_the_page_says_what_was_asked_reached_and_measured(page: tuple[str, _Page]) -> None:
    text = re.sub(r"\s+", " ", " ".join(page[1].text))
    for said in (
        "16 of 32 prunable channels removed, in 2 of 2 layers",
        "Not sparse: only 2 of the 16 channels to be removed are near zero",
        "cut is exact The slim network needs about 5 epochs (AP .399).",
        "Next: yoloprune train slim/net.cfg --epochs 5",
        "gamma, the same share of every group: there are <i>pictures</i>",
        "on 64 pictures without labels, in 12 s. Error on 16 of them",
        "<u>second</u> 90.0% 40.0% first 20.0% 5.0%",
        "Parameters 4.0× smaller 6.06 M → 1.51 M",
        "MACs 3.0× smaller 3.45 G → 1.15 G",
        "File size 4.0× smaller 24.3 MB → 6.10 MB",
        "Latency 2.0× faster 20.0 ms → 10.0 ms",
        "20.0 ms IQR 0.50",
        "AP −0.003 0.402 → 0.399",
        "50.0 % reached",
        "asked: 50.0% of the channels gone",
        "first 12 4 33 %",
        "second 20 12 60 %",
        "largest relative difference 3.2e-07",
        "slim/net.cfg slim/net.weights",
        "versions: torch 2.4",
        "list 1, 2",
        "input 96 × 64 pixels",
        "batch 2 timed passes 3",
        "trace 0.30, cut 0.02",
        "sha256 " + "ab" * 32,
    ):
        assert said in text, said
    assert "AP50" not in text  # measured on one side only


def test_what_comes_from_outside_is_escaped(page: tuple[str, _Page]) -> None:
    html, parsed = page
    assert "<script>" not in html
    assert "<script>cpu</script>" in parsed.text
    assert "<b>net" not in html


@pytest.mark.parametrize(("scope", "shown"), [("local", 0), ("global", 1)])
def test_ranks_within_groups_are_no_picture(scope: str, shown: int, tmp_path: Path) -> None:
    path = write_slim_report(tmp_path / "r.html", RESULT | {"scope": scope}, *made())
    assert path.read_text("utf-8").count("<h2>Scores</h2>") == shown


def test_both_themes_are_defined_and_the_plots_use_them(page: tuple[str, _Page]) -> None:
    html = page[0]
    themes = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    names = [set(re.findall(r"(--[\w-]+):", theme)) for theme in themes]
    assert len(names) == 3  # light, dark, print
    assert names[0] == names[1] == names[2]
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) <= names[0]
    svg = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "#0a0b0" not in svg
    assert {"--before", "--after", "--gone"} <= set(re.findall(r"var\((--\w+)\)", svg))
    ids = re.findall(r'<(?:clipPath|path) id="([^"]+)"', svg)
    assert len(ids) == len(set(ids))


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    first = write_slim_report(tmp_path / "a", RESULT, *made()).read_bytes()
    assert write_slim_report(tmp_path / "b", RESULT, *made()).read_bytes() == first


def test_widths_are_in_network_order() -> None:
    made_plan, graph, _ = made()
    got = [(w.path, w.before, w.after) for w in layer_widths(graph, made_plan)]
    assert got == [("first", 12, 4), ("second", 20, 12)]


def test_a_model_that_got_slower_or_larger_is_not_praised() -> None:
    slower, larger = compare(
        {"latency_ms": 10.0, "bytes": 100}, {"latency_ms": 12.5, "bytes": 150}
    )[::-1]
    assert (slower.headline, slower.verdict, slower.change) == ("1.25× slower", "bad", "+25.0 %")
    assert (larger.headline, larger.verdict, larger.after) == ("1.50× larger", "bad", "150 B")


def test_a_difference_within_the_spread_is_said_to_be_none() -> None:
    before = {"latency_ms": 10.0, "latency_iqr_ms": 0.2}
    (row,) = compare(before, {"latency_ms": 9.5, "latency_iqr_ms": 0.6})
    assert (row.verdict, row.headline) == ("same", "no clear change")
    assert "within the spread" in row.hint
    (row,) = compare(before, {"latency_ms": 9.5, "latency_iqr_ms": 0.3})
    assert (row.verdict, row.hint, row.spread) == ("good", "", ("IQR 0.20", "IQR 0.30"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(999, "999"), (1000, "1.00 k"), (891_433, "891 k"), (3_011_433, "3.01 M"), (28.6e9, "28.6 G")],
)
def test_counts_have_three_digits(value: float, shown: str) -> None:
    assert compare({"params": value}, {"params": value})[0].before == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("folder [b] %20 ü", "folder [b] %20 ü"),
        ("<b>&amp; {{ 7 * 7 }}", "<b>&amp; {{ 7 * 7 }}"),
        ("a\nb\x1b[2J\u202e", "a\\x0ab\\x1b[2J\\u202e"),
        ("caf\udce9", "caf\\xe9"),  # a path that is no UTF-8
    ],
)
def test_a_page_shows_any_name_and_can_be_written(name: str, shown: str, tmp_path: Path) -> None:
    made_plan, graph, scores = made()
    made_plan = replace(made_plan, source=Origin(path=f"{name}.pt"), notes=(f"note {name}",))
    record = RESULT | {
        "model": f"{name}.pt",
        "files": {"model": [f"one {name}", f"two {name}"]},
        "environment": {name: name},
        "warnings": [f"note {name}"],
    }
    html = write_slim_report(tmp_path / "r.html", record, made_plan, graph, scores).read_text(
        "utf-8"
    )
    texts = _Page(html).text
    assert f"{shown}.pt, slimmed" in texts
    assert f"one {shown}\ntwo {shown}" in texts
    assert "".join(texts).count(shown) == 8 - name.count("_")
    assert not {"\x1b", "\u202e"} & set(html)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (
            True,
            "A search of 61 s pruned 50 parts alone, to begin by what each loses and costs, then "
            "tried 7",
        ),
        (False, "A search of 61 s pruned 50 parts alone and tried 7 cuts of the same budget. None"),
    ],
)
def test_the_page_tells_of_a_search(kept: bool, said: str, tmp_path: Path) -> None:
    stage = {"layers": ["first", "<b>last</b>"], "channels": 12, "even": 0.5, "found": 0.25}
    found = {
        "kept": kept, "trials": 7, "gains": 0, "parts": 50, "seconds": 61.2,
        "even_unseen": 0.8, "found_unseen": 0.6, "stages": [stage],
    }  # fmt: skip
    file = write_slim_report(tmp_path / "page.html", {**RESULT, "search": found}, *made())
    text = re.sub(r"\s+", " ", " ".join(_Page(file.read_text(encoding="utf-8")).text))
    assert said in text
    assert ("what it came to is 25% nearer" in text) == kept
    assert ("first … <b>last</b> 12 50% 25%" in text) == kept


def test_the_page_tells_of_a_bound_on_ap(tmp_path: Path) -> None:
    trial = {"asked": 0.5, "macs": 0.493, "value": 0.41, "drop": 0.012, "held": True}
    found = {
        "bound": 0.03, "figure": "AP", "split": "held-back", "full": 0.422, "chosen": 0,
        "again": 0.0121, "trials": [trial, {**trial, "macs": 0.24, "drop": 0.1, "held": False}],
    }  # fmt: skip
    file = write_slim_report(tmp_path / "page.html", {**RESULT, "max_drop": found}, *made())
    parsed = _Page(file.read_text())
    text = re.sub(r"\s+", " ", " ".join(parsed.text))
    assert parsed.open == [] and parsed.loads == []
    assert "The smallest within a drop of 0.03 2 cuts were tried" in text
    assert "measured on held-back" in text and "anew it loses 0.0121 of AP" in text
    assert "49.3% 0.4100 0.0120 yes" in text and "24.0% 0.4100 0.1000 no" in text


SUITS = {
    "target": "onnx<b>runtime</b>", "path": "the blocked layout", "convs": 9, "avoid": [],
    "exempt": ["first"],
}  # fmt: skip


def test_the_page_tells_what_leaves_the_fast_path(tmp_path: Path) -> None:
    odd = [{"layer": "<i>x</i>", "reason": "reads 17 channels, no multiple of 4"}]
    sides = {"before": {**SUITS, "off": []}, "after": {**SUITS, "off": odd}}
    html = write_slim_report(
        tmp_path / "p.html", {**RESULT, "fast_path": sides}, *made()
    ).read_text()
    parsed = _Page(html)
    assert parsed.open == []
    text = re.sub(r"\s+", " ", " ".join(parsed.text))
    assert "Fast path of onnx<b>runtime</b>" in text
    assert (
        "leave the blocked layout: 0 of 9 before, 1 of 9 after. What reads the picture (first)"
        in text
    )
    assert "<i>x</i> on it reads 17 channels, no multiple of 4" in text
    sides["after"]["off"] = []
    html = write_slim_report(
        tmp_path / "q.html", {**RESULT, "fast_path": sides}, *made()
    ).read_text()
    assert "Each of them, and why" not in html
