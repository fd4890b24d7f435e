"""The report page: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.pages import Page
from yoloprune.channels.graph import ChannelGraph, Group, TensorAxis
from yoloprune.prune.budget import Budget
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import plan
from yoloprune.prune.score import Scores
from yoloprune.prune.sensitivity import Measurement, Sensitivity
from yoloprune.report.sides import compare
from yoloprune.report.slim import layers_of, write_slim_page

RESULT: dict[str, Any] = {
    "model": "runs/<b>net.cfg",
    "before": {
        "params": 6_056_606, "macs": 3_450_000_000, "bytes": 24_251_276, "latency_ms": 20.0,
        "latency_iqr_ms": 0.5, "AP": 0.402, "AP50": 0.6, "by": {"AP": "pycocotools"},
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
    "data": "data/<u>.yaml",
    "split": "val",
    "command": "yoloprune slim <net> --percent 0.5",
    "date": "2026-11-28T01:02:03",
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
            TensorAxis(tensor="<u>second</u>.weight", dim=0, units=units[12:], role="out"),
        ),
        fields=(),
        balances=(),
        groups=(
            Group(index=0, units=units[:12], layers=("first",)),
            Group(index=1, units=units[12:], layers=("<u>second</u>",)),
        ),
    )
    scores = Scores(values=np.arange(32) / 32, criterion="gamma")
    budget = Budget(percent=0.5, min_channels=4)
    return plan(graph, scores, budget, Origin(path="net.weights", sha256="ab" * 32)), graph, scores


@pytest.fixture
def page(tmp_path: Path) -> Page:
    path = write_slim_page(tmp_path / "out" / "net-report.html", RESULT, *made())
    assert path == tmp_path / "out" / "net-report.html"
    assert [p.name for p in path.parent.iterdir()] == ["net-report.html"]
    return read(path)


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    page.check()
    return page


def test_the_page_says_what_was_asked_reached_and_measured(page: Page) -> None:
    assert len(page.html) < 60_000
    for said in (
        "<b>net.cfg, slimmed: 3.00× fewer MACs, 4.00× fewer parameters, 2.00× faster, "
        "AP 0.402 → 0.399 (−0.003).",
        "16 of 32 prunable channels removed, in 2 of 2 layers",
        "Not sparse: only 2 of the 16 channels to be removed are near zero",
        "the median of 3 forward passes without non-maximum suppression, batch 2 at 96 × 64 pixels",
        "AP is measured on the val split of data/<u>.yaml by pycocotools",
        "the largest difference is 3.2e-07 of the output's scale. cut is exact",
        "The slim network needs about 5 epochs (AP .399).",
        "Next: yoloprune train slim/net.cfg --epochs 5",
        "gamma, the same share of every group: there are <i>pictures</i>",
        "on 64 pictures without labels, in 12 s. Its error is measured on 16 of them",
        "Parameters 4.00× fewer 6.06 M → 1.51 M",
        "MACs 3.00× fewer 3.45 G → 1.15 G",
        "File size 3.98× smaller 24.3 MB → 6.10 MB",
        "Latency 2.00× faster 20.0 ms → 10.0 ms",
        "20.0 ms IQR 0.50",
        "AP −0.003 0.402 → 0.399",
        "50.0 % of the channels removed",
        "asked: 50.0% of the channels gone",
        "slim/net.cfg slim/net.weights",
        "versions: torch 2.4",
        "list 1, 2",
        "input 96 × 64 pixels",
        "batch 2 timed passes 3",
        "trace 0.30, cut 0.02",
        "yoloprune slim <net> --percent 0.5",
        "date 2026-11-28T01:02:03",
        "sha256 " + "ab" * 32,
    ):
        assert said in page.text, said
    assert "AP50" not in page.text  # measured on one side only


def test_every_layer_is_told_once_with_all_that_is_known_of_it(page: Page) -> None:
    rows = page.cells(1)
    assert rows[1:] == [
        ["1", "first", "", "12", "4", "33 %", "20.0 %", "5.0 %"],
        ["2", "&lt;u&gt;second&lt;/u&gt;", "", "20", "12", "60 %", "90.0 %", "40.0 %"],
    ]
    titles = re.findall(r"<title>(first: [^<]*)</title>", page.html)
    assert set(titles) == {"first: 12 → 4 channels; error 20.0 % → 5.0 %"}


def test_what_comes_from_outside_is_escaped(page: Page) -> None:
    assert "<script>cpu" not in page.html
    assert "<script>cpu</script>" in page.texts
    assert "<b>net" not in page.html and "<u>" not in page.html


def test_accuracy_that_was_not_measured_is_said_to_be_missing(tmp_path: Path) -> None:
    sides = {
        side: {k: v for k, v in RESULT[side].items() if not k.startswith("AP")}
        for side in ("before", "after")
    }
    page = read(write_slim_page(tmp_path / "r.html", RESULT | sides, *made()))
    assert "2.00× faster, accuracy not measured." in page.text


@pytest.mark.parametrize(("scope", "shown"), [("local", 0), ("global", 1)])
def test_ranks_within_groups_are_no_picture(scope: str, shown: int, tmp_path: Path) -> None:
    path = write_slim_page(tmp_path / "r.html", RESULT | {"scope": scope}, *made())
    assert path.read_text("utf-8").count("What decided: |γ| of each unit") == shown


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    first = write_slim_page(tmp_path / "a", RESULT, *made()).read_bytes()
    assert write_slim_page(tmp_path / "b", RESULT, *made()).read_bytes() == first


def test_widths_are_in_network_order() -> None:
    made_plan, graph, _ = made()
    got = [(w.path, w.before, w.after) for w in layers_of(graph, made_plan, {})]
    assert got == [("first", 12, 4), ("<u>second</u>", 20, 12)]


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
    page = read(write_slim_page(tmp_path / "r.html", record, made_plan, graph, scores))
    assert f"{shown}.pt, slimmed" in page.texts
    assert f"one {shown}\ntwo {shown}" in page.texts
    assert "".join(page.texts).count(shown) == 9
    assert not {"\x1b", "\u202e"} & set(page.html)


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
    page = read(write_slim_page(tmp_path / "page.html", {**RESULT, "search": found}, *made()))
    assert said in page.text
    assert ("what it came to is 25 % nearer" in page.text) == kept
    assert ("first … <b>last</b> 12 50 % 25 %" in page.text) == kept


def test_the_page_tells_of_a_bound_on_ap(tmp_path: Path) -> None:
    trial = {"asked": 0.5, "macs": 0.493, "value": 0.41, "drop": 0.012, "held": True}
    found = {
        "bound": 0.03, "figure": "AP", "split": "held-back", "full": 0.422, "chosen": 0,
        "again": 0.0121, "trials": [trial, {**trial, "macs": 0.24, "drop": 0.1, "held": False}],
    }  # fmt: skip
    page = read(write_slim_page(tmp_path / "page.html", {**RESULT, "max_drop": found}, *made()))
    assert "The smallest within a drop of 0.03 2 cuts were tried" in page.text
    assert "measured on held-back" in page.text and "anew it loses 0.0121 of AP" in page.text
    assert "49.3 % 0.4100 0.0120 yes" in page.text and "24.0 % 0.4100 0.1000 no" in page.text
    marks = re.findall(r'class="(?:mark (\w+)|(ring))"', page.html)
    drawn = sorted(kind or ring for kind, ring in marks)
    assert drawn == sorted(2 * ["before", "after", "gone", "ring"])  # for wide and narrow screens


SUITS = {
    "target": "onnx<b>runtime</b>", "path": "the blocked layout", "convs": 9, "avoid": [],
    "exempt": ["first"],
}  # fmt: skip


def test_the_page_tells_what_leaves_the_fast_path(tmp_path: Path) -> None:
    odd = [
        {"layer": name, "reason": "reads 17 channels, no multiple of 4"}
        for name in ("<i>x</i>", "first")
    ]
    sides = {"before": {**SUITS, "off": odd[:1]}, "after": {**SUITS, "off": odd}}
    page = read(write_slim_page(tmp_path / "p.html", {**RESULT, "fast_path": sides}, *made()))
    assert (
        "leave the blocked layout of onnx<b>runtime</b>: 1 of 9 before, 2 of 9 after. What reads "
        "the picture (first) is exempt"
    ) in page.text
    why = "reads 17 channels, no multiple of 4"
    assert f"<i>x</i> {why} {why} first on it {why}" in page.text
    assert page.html.count('<path d="') == 2 == page.html.count('class="off"') - 1
    sides["after"]["off"] = sides["before"]["off"] = []
    page = read(write_slim_page(tmp_path / "q.html", {**RESULT, "fast_path": sides}, *made()))
    assert "fast path, and why" not in page.text and 'class="off"' not in page.html


def test_scales_and_weights_stand_before_and_after(tmp_path: Path) -> None:
    spread = {"low": 0.0, "high": 1.0, "counts": {"before": [3, 9], "after": [0, 7]}}
    page = read(
        write_slim_page(tmp_path / "p.html", {**RESULT, "spreads": {"gamma": spread}}, *made())
    )
    assert "Scales of the BatchNorms, |γ| 12 before, 7 after." in page.text
    told = re.findall(r"<title>((?:before|after): [^<]*)</title>", page.html)
    assert sorted(set(told)) == ["after: 7, 0.5 to 1", "before: 3, 0 to 0.5", "before: 9, 0.5 to 1"]
    assert "Weights of the convolutions" not in page.text


def test_sensitivity_stands_part_by_part_the_darker_the_more_is_lost(tmp_path: Path) -> None:
    def one(part: str, share: float, before: float, after: float | None) -> Measurement:
        return Measurement(
            part=part, share=share, removed=share, macs=0.9, before=before, after=after, seconds=1
        )

    found = Sensitivity(
        model="net.pt", identity="", by="AP", full=0.5, criterion="l1",
        measured=(
            one("first", 0.25, 0.3, 0.01), one("first", 0.5, 0.4, 0.16),
            one("<i>", 0.5, 0.04, None),
        ),
    )  # fmt: skip
    path = write_slim_page(tmp_path / "p.html", RESULT, *made(), None, found)
    page = read(path)
    head, *rows = page.cells(3)
    assert head == ["part", "25 % gone", "50 % gone", "channels cut"]
    assert rows == [["first", "0.0100", "0.1600", "8"], ["&lt;i&gt;", "–", "0.0400", "0"]]
    dark = re.findall(r'data-v="([\d.]+)" style="--v: ([\d.]+)"', page.html)
    assert [d for v, d in dark if "." in v] == ["0.25", "1.00", "0.50"]
    assert "AP lost, after repair" in page.text


def test_an_error_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    bad = [{"path": "first", "before": float("nan"), "after": 0.1}]
    record = RESULT | {"repair": RESULT["repair"] | {"layers": bad}}
    page = read(write_slim_page(tmp_path / "p.html", record, *made()))
    assert "nan" not in page.html
