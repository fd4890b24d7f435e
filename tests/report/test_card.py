"""Model cards: a head that YAML reads, figures of the record, and names that stay text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.report.test_slim import RESULT
from yoloprune.report.card import Card, render_card
from yoloprune.report.slim import write_slim_card

CARD = Card(
    name="net-slim",
    origin="runs/net.pt",
    takeaway="net.pt, slimmed: 2.01× fewer MACs.",
    files=["out/net-slim.pt"],
    figures=[("", "before", "after"), ("MACs", "1.01 G", "502 M")],
    method=["Measured once.", "And again."],
    command="yoloprune slim net.pt --macs 0.5",
    date="2026-11-28T01:02:03+00:00",
    metrics={"net-slim": {"AP": 0.54871, "AP50": 0.8456}},
    data="data/bccd.yaml",
    split="val",
)


def head(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def test_the_head_is_what_hubs_read() -> None:
    assert head(render_card(CARD)) == {
        "library_name": "ultralytics",
        "pipeline_tag": "object-detection",
        "tags": ["yolo", "pruning", "yoloprune"],
        "model-index": [
            {
                "name": "net-slim",
                "results": [
                    {
                        "task": {"type": "object-detection"},
                        "dataset": {"type": "bccd", "name": "bccd", "split": "val"},
                        "metrics": [
                            {"type": "AP", "name": "AP50:95", "value": 0.5487},
                            {"type": "AP50", "name": "AP50", "value": 0.8456},
                        ],
                    }
                ],
            }
        ],
    }


def test_what_was_not_measured_is_not_claimed() -> None:
    for missing in (replace(CARD, metrics={}), replace(CARD, data=None)):
        assert "model-index" not in head(render_card(missing))


@pytest.mark.parametrize(
    ("metrics", "task"),
    [
        ({"AP": 0.5, "mask_AP": 0.4}, "image-segmentation"),
        ({"AP": 0.5, "keypoint_AP": 0.4}, "keypoint-detection"),
        ({"top1": 0.8}, "image-classification"),
        ({"rotated_AP": 0.8}, "object-detection"),
    ],
)
def test_a_task_is_told_by_its_figures(metrics: dict[str, float], task: str) -> None:
    assert head(render_card(replace(CARD, metrics={"m": metrics})))["pipeline_tag"] == task


def test_the_licence_is_left_to_the_user() -> None:
    text = render_card(CARD)
    assert "# license: to be filled in" in text and "license" not in head(text)
    assert "## Licence\n\nNot stated here" in text


def test_darknet_files_are_told_to_be_such() -> None:
    text = render_card(replace(CARD, files=["a/net-slim.cfg", "a/net-slim.weights"]))
    assert head(text)["library_name"] == "darknet"
    assert "`net-slim.cfg`, `net-slim.weights`. The files are stock Darknet" in text
    assert "$ yoloprune predict net-slim.cfg pictures/" in text


EVIL = "a|b`c```<script>\n---\nlicense: mit\x1b #[x](y)_*"


def test_hostile_names_stay_text() -> None:
    evil = replace(
        CARD, name=EVIL, origin=EVIL, takeaway=EVIL, files=[f"{EVIL}.pt"], command=EVIL,
        figures=[("", EVIL), (EVIL, "1")], metrics={EVIL: {"AP": 0.5}}, method=[EVIL],
        data=f"{EVIL}.yaml", notes=[EVIL],
    )  # fmt: skip
    text = render_card(evil)
    assert text.count("\n---\n") == 1 and "\x1b" not in text
    assert set(head(text)) == {"library_name", "pipeline_tag", "tags", "model-index"}
    spans = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text.split("\n---\n")[1], flags=re.DOTALL)
    assert "<script>" not in spans
    (row,) = [line for line in text.splitlines() if line.startswith("| a")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_the_card_of_a_cut_holds_the_figures_of_its_record(tmp_path: Path) -> None:
    text = write_slim_card(tmp_path / "net-card.md", RESULT).read_text("utf-8")
    for said in (
        "# net\n",
        "| Parameters | 6.06 M | 1.51 M | −75.0 % |",
        "| Latency | 20.0 ms | 10.0 ms | −50.0 % |",
        "| AP | 0.402 | 0.399 | −0.003 |",
        "> It needs about 5 epochs (AP .399).",
        "the median of 3 forward passes",
        "```console\nyoloprune slim <net> --percent 0.5\n```",
        "on 2026-11-28:",
        "`net.cfg`, `net.weights`.",
    ):
        assert said in text, said
    (result,) = head(text)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "AP", "name": "AP50:95", "value": 0.399}]
