"""The page and the card of a recipe: every figure is one of the record."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from tests.report.pages import Page
from yoloprune.report.run import write_run_card, write_run_page

RECORD: dict[str, Any] = {
    "rounds": [
        {
            "name": "dense", "AP": 0.574, "AP50": 0.858, "params": 3_010_000,
            "macs": 1_010_000_000, "bytes": 6_220_000, "prunable_channels": 5200,
            "latency_ms": 20.0, "latency_iqr_ms": 0.5,
        },
        {
            "name": "round1", "AP": 0.571, "AP50": 0.85, "params": 2_000_000,
            "macs": 700_000_000, "bytes": 4_200_000, "latency_ms": 15.0, "latency_iqr_ms": 0.4,
            "percent": 0.25,
        },
        {
            "name": "round2", "AP": 0.52, "AP50": 0.80, "params": 1_400_000,
            "macs": 500_000_000, "bytes": 2_900_000, "latency_ms": 11.0, "latency_iqr_ms": 0.3,
            "percent": 0.5,
        },
    ],
    "accepted": "round1",
    "stopped": "AP fell by more than 0.02 <b>",
    "model": "w/<i>net.pt",
    "imgsz": [320, 256],
    "data": "<u>.yaml",
    "split": "val",
    "images": 87,
    "layers": [{"path": "<u>a</u>", "before": 32, "after": 24}],
    "spreads": {"gamma": {"low": 0, "high": 1, "counts": {"before": [5], "after": [4]}}},
    "changed": None,
    "recipe": {"slim": {"step": 0.25}, "stop": {"rounds": 2, "max_ap_drop": 0.02}},
    "command": "yoloprune run <recipe>.yaml",
    "date": "2026-11-28T01:02:03+00:00",
    "environment": {"cpu": "one <cpu>", "torch": "2.14"},
    "passes": 50,
    "files": {
        "model": ["out/result.pt"], "picture": "out/rounds.png", "report": "out/report.html",
        "card": "out/result-card.md",
    },
}  # fmt: skip


def written(tmp_path: Path, record: dict[str, Any]) -> Page:
    page = Page(write_run_page(tmp_path / "report.html", record).read_text("utf-8"))
    page.check()
    return page


def test_the_page_says_what_came_out_and_how(tmp_path: Path) -> None:
    page = written(tmp_path, RECORD)
    for said in (
        "<i>net.pt, round1 of 2: 1.44× fewer MACs, 1.50× fewer parameters, 1.33× faster, "
        "AP 0.574 → 0.571 (−0.003).",
        "The result is round1 (AP fell by more than 0.02 <b>).",
        "Next: yoloprune export out/result.pt --format onnx",
        "in one process on one <cpu>: the median of 50 forward passes",
        "on 87 pictures of the val split of <u>.yaml, by pycocotools.",
        "yoloprune run <recipe>.yaml",
        "stop: max ap drop 0.02",
        "date 2026-11-28T01:02:03+00:00",
        "Scales of the BatchNorms, |γ| 5 before, 4 after.",
    ):
        assert said in page.text, said
    assert not re.search(r"<(b|i|u|cpu|recipe)>", page.html)


def test_every_round_is_a_row_and_a_point_in_both_charts(tmp_path: Path) -> None:
    page = written(tmp_path, RECORD)
    _, dense, first, second = page.cells(0)
    assert dense[:6] == ["dense", "", "0.574", "0.858", "20.0 IQR 0.50", "1.01 G 100 %"]
    assert first == [
        "round1 the result", "25 %", "0.571 −0.003", "0.850", "15.0 IQR 0.40", "700 M 69 %",
        "2.00 M 66 %", "4.20 MB 68 %",
    ]  # fmt: skip
    assert second[:3] == ["round2", "50 %", "0.520 −0.054"]
    assert len(re.findall('class="mark (?:before|after)"', page.html)) == 2 * 2 * 3
    assert page.html.count('class="ring"') == page.html.count('class="dash"') == 4
    assert "<title>&lt;u&gt;a&lt;/u&gt;: 32 → 24 channels</title>" in page.html


def test_a_recipe_that_kept_nothing_says_so(tmp_path: Path) -> None:
    record = deepcopy(RECORD) | {"accepted": "dense"}
    page = written(tmp_path, record)
    assert "none of 2 rounds kept within the limits of the recipe." in page.text
    assert "Layer by layer" not in page.text


def test_the_card_holds_the_figures_of_the_result(tmp_path: Path) -> None:
    text = write_run_card(tmp_path / "result-card.md", RECORD).read_text("utf-8")
    for said in (
        "|  | dense | round1 | change |",
        "| MACs | 1.01 G | 700 M | −30.7 % |",
        "| AP | 0.574 | 0.571 | −0.003 |",
        "`result.pt`. The file is a stock Ultralytics checkpoint",
    ):
        assert said in text, said
    (result,) = yaml.safe_load(text.split("---\n", 2)[1])["model-index"][0]["results"]
    assert [one["value"] for one in result["metrics"]] == [0.571, 0.85]
