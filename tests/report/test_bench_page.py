"""The page of a bench: every figure on it is one of the record."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from tests.report.pages import Page
from yoloprune.measure.bench_result import (
    BenchChange,
    BenchCount,
    BenchFailure,
    BenchModel,
    BenchResult,
    BenchRow,
)
from yoloprune.report.bench import write_bench_card, write_bench_page
from yoloprune.report.figures import number, quantity, times

STEADY = (1.0, 1.01, 0.99, 1.005, 0.995)
LOUD = tuple(1 + 0.2 * np.random.default_rng(0).standard_normal(30))
APS = {"dense": 0.574, "slim": 0.549, "tiny <b>": 0.480}


def row(model: str, ms: float, **more: Any) -> BenchRow:
    ap = APS[model]
    settings: dict[str, Any] = {
        "model": model, "file": f"{model}.onnx", "bytes": 6_220_000, "runtime": "onnxruntime",
        "runtime_version": "1.27", "device": "cpu", "precision": "fp32", "batch": 1, "threads": 1,
        "times_ms": tuple(ms * share for share in STEADY * 6), "turns": 6,
        "metrics": {
            "AP": ap, "AP50": 0.85, "AP75": 0.6, "APs": None, "APm": 0.5, "APl": 0.6, "AR100": 0.7,
        },
    } | more  # fmt: skip
    return BenchRow(**settings)


def jpeg() -> bytes:
    image = np.full((60, 80, 3), 120, dtype=np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def change(model: str, image: str = "a.jpg", **more: Any) -> BenchChange:
    settings: dict[str, Any] = {
        "model": model, "image": image, "lost": 1, "found": 2, "thumbnail": jpeg(),
        "boxes_before": ((10.0, 10.0, 50.0, 50.0, 0, 0.9), (60.0, 10.0, 90.0, 50.0, 1, 0.8)),
        "boxes_after": ((11.0, 10.0, 50.0, 50.0, 0, 0.7), (100.0, 70.0, 140.0, 110.0, 9, 0.6)),
        "width": 160, "height": 120,
    } | more  # fmt: skip
    return BenchChange(**settings)


def result(**more: Any) -> BenchResult:
    widths = {"a": 32, "b": 64}
    settings: dict[str, Any] = {
        "models": (
            BenchModel(
                name="dense", path="w/dense.pt", params=3_010_000, macs=1_010_000_000,
                baseline=True, widths=widths,
            ),
            BenchModel(
                name="slim", path="w/slim.pt", params=1_400_000, macs=502_000_000,
                widths={"a": 24, "b": 16},
            ),
            BenchModel(name="tiny <b>", path="w/tiny.pt", params=600_000, macs=250_000_000),
        ),
        "rows": (
            row("dense", 20.0, runtime="torch", agreement=0.0),
            row("dense", 14.0), row("dense", 14.0, batch=8, device="cpu"),
            row("slim", 10.0, runtime="torch", agreement=0.0),
            row("slim", 8.0, agreement=2e-6, pre_ms=2.25, post_ms=1.5, peak_mb=333.0),
            row("slim", 8.0, batch=8),
            row(
                "slim", 4.0, precision="int8", kept_float=("model.22.dfl", "<i>stem</i>"),
                notes=("a <u>note</u>",),
            ),
            row("tiny <b>", 13.9, times_ms=tuple(13.9 * share for share in LOUD)),
        ),
        "failures": (
            BenchFailure(model="slim", runtime="ncnn", precision="fp32", reason="no <op>"),
        ),
        "absent": {"litert": "pip install ai-edge-litert"},
        "data": "bccd.yaml", "split": "val", "images": 87, "imgsz": (320, 256),
        "classes": ("<RBC>", "WBC"),
        "counts": (
            BenchCount(model="slim", by="class", name="<RBC>", truths=90, baseline=80, found=77),
            BenchCount(model="slim", by="size", name="small", truths=20, baseline=10, found=11),
        ),
        "changes": (change("slim"),),
        "environment": {"cpu": "one <cpu>", "cores": 2},
        "command": "yoloprune bench 'x <y>.pt' --baseline dense.pt",
        "date": "2026-11-28T00:00:00+00:00",
        "seconds": 12.5,
    }  # fmt: skip
    return BenchResult(**settings | more)


def written(tmp_path: Path, found: BenchResult) -> Page:
    page = Page(write_bench_page(tmp_path / "bench.html", found).read_text("utf-8"))
    page.check()
    return page


def test_every_row_of_the_record_is_a_row_of_the_table(tmp_path: Path) -> None:
    found = result()
    page = written(tmp_path, found)
    head, *rows = page.cells(1)
    assert len(rows) == len(found.rows)
    for cells, one in zip(rows, found.rows, strict=True):
        told = dict(zip(head, cells, strict=True))
        against = found.versus(one)
        assert told["model"] == one.model.replace("<b>", "&lt;b&gt;")
        assert (told["runtime"], told["precision"], told["batch"]) == (
            one.runtime, one.precision, str(one.batch),
        )  # fmt: skip
        noisy = " noisy" if one.model.startswith("tiny") else ""
        assert told["ms, median"] == f"{number(one.median_ms)} IQR {number(one.iqr_ms)}{noisy}"
        assert told["p95, ms"] == number(one.p95_ms)
        assert told["pictures/s"] == number(one.per_second)
        assert told["AP"].split()[0] == f"{one.ap:.3f}"
        assert told["file"] == quantity(one.bytes, "B")
        if one.model == "dense":
            assert told["speed-up"] == ""
        elif against is None:
            assert told["speed-up"] == "–"
        else:
            words = times(against.ratio) if against.clear else "no clear change"
            assert told["speed-up"] == f"{words} {against.low:.2f} to {against.high:.2f}"
    assert "device" not in head and "threads" not in head  # the same in all rows
    assert "all on cpu, 1 thread" in page.text
    slim = dict(zip(head, rows[4], strict=True))
    assert (slim["AP"], slim["off torch by"]) == ("0.549 −0.025", "2e-06")
    assert (slim["reading, ms"], slim["NMS, ms"], slim["peak, MB"]) == ("2.25", "1.50", "333")
    kept = "a &lt;u&gt;note&lt;/u&gt; 2 layers kept in float model.22.dfl, &lt;i&gt;stem&lt;/i&gt;"
    assert rows[6][-1] == kept


def test_a_ratio_within_its_interval_is_no_change(tmp_path: Path) -> None:
    page = written(tmp_path, result())
    (tiny,) = [cells for cells in page.cells(1) if cells[0].startswith("tiny")]
    assert any(cell.startswith("no clear change") for cell in tiny)
    assert "1 row of 8 vary by more than 10 %" in page.text


def test_the_head_says_what_came_out_and_how_it_was_measured(tmp_path: Path) -> None:
    found = result()
    page = written(tmp_path, found)
    (line,) = re.findall(r"<h1[^>]*>(.*?)</h1>", page.html)
    assert line == found.takeaway()
    for said in (
        "Times are medians of 30 passes of the network alone at 320 × 256 pixels on one <cpu>",
        "measured on the very file that was timed, on 87 pictures of the val split of bccd.yaml.",
        "Not installed, hence not measured: litert (pip install ai-edge-litert).",
        "slim, ncnn fp32 no <op>",
        "yoloprune bench 'x <y>.pt' --baseline dense.pt",
        "2026-11-28T00:00:00+00:00",
    ):
        assert said in page.text, said


def test_models_stand_with_the_fastest_that_they_run(tmp_path: Path) -> None:
    head, dense, slim, tiny = written(tmp_path, result()).cells(0)
    assert head[0] == "model"
    assert dense == [
        "dense baseline", "0.574", "1.01 G", "3.01 M", "14.0 ms AP 0.574", "onnxruntime fp32",
        "1.00×",
    ]  # fmt: skip
    assert slim == [
        "slim", "0.549 −0.025", "502 M 50 %", "1.40 M", "4.00 ms AP 0.549", "onnxruntime int8",
        "3.50×",
    ]  # fmt: skip
    assert tiny[:4] == ["tiny &lt;b&gt;", "0.480 −0.094", "250 M 25 %", "600 k"]


def test_charts_hold_every_point_once_for_each_width(tmp_path: Path) -> None:
    page = written(tmp_path, result())
    titles = re.findall(r"<title>([^<]*AP 0[^<]*)</title>", page.html)
    assert titles.count("slim, onnxruntime int8: 4.00 ms, AP 0.549") == 2
    assert titles.count("dense: 1.01 G MACs, AP 0.574") == 2
    assert len(titles) == 2 * (8 + 3)
    assert "1 chart of other conditions" in page.text  # batch 8


def test_layers_of_a_cut_stand_beside_those_of_the_baseline(tmp_path: Path) -> None:
    page = written(tmp_path, result())
    assert "<title>b: 64 → 16 channels</title>" in page.html
    assert page.html.count("Layers of slim</h2>") == 1
    assert "Layers of tiny" not in page.html  # whose layers are not known
    side = {
        "target": "ort", "path": "the blocked layout", "convs": 9, "exempt": [],
        "off": [{"layer": "b", "reason": "odd"}],
    }  # fmt: skip
    models = list(result().models)
    sides = {"before": {**side, "off": []}, "after": side}
    models[1] = replace(models[1], fast_path=sides)
    page = written(tmp_path, result(models=tuple(models)))
    assert "leave the blocked layout of ort: 0 of 9 before, 1 of 9 after." in page.text
    assert page.html.count('class="off"') == 3  # two drawings and the key


def test_pictures_show_who_sees_what(tmp_path: Path) -> None:
    page = written(tmp_path, result())
    boxes = re.findall(r'<rect class="box (\w+)" x="([\d.]+)"[^>]*><title>([^<]*)', page.html)
    assert boxes == [
        ("both", "11.0", "&lt;RBC&gt; 0.70, seen by both"),
        ("lost", "60.0", "WBC 0.80, no longer seen"),
        ("new", "100.0", "class 9 0.60, newly seen"),
    ]
    assert "1 object lost, 2 invented a.jpg" in page.text
    assert ["&lt;RBC&gt;", "90", "80", "77", "−3"] in page.cells(2)
    assert ["small", "20", "10", "11", "+1"] in page.cells(3)


def test_a_page_with_pictures_of_many_models_stays_small(tmp_path: Path) -> None:
    heavy = b"\xff\xd8" + bytes(60_000)
    changes = tuple(
        change(model, f"{i}.jpg", thumbnail=heavy)
        for model in ("slim", "tiny <b>")
        for i in range(30)
    )
    page = written(tmp_path, result(changes=changes))
    shown = re.findall(r"<br>(\d+)\.jpg", page.html)
    assert 10 < len(shown) < 25
    assert sorted(shown) == sorted(
        2 * [str(i) for i in range(len(shown) // 2)] + shown[len(shown) // 2 * 2 :]
    )


@pytest.mark.parametrize(
    "more",
    [
        {"rows": ()},
        {"rows": (row("dense", 1.0, metrics=None), row("slim", 0.5, metrics=None))},
        {"rows": (row("slim", 0.5),)},
        {"counts": (), "changes": (), "absent": {}, "failures": (), "data": None, "date": ""},
    ],
)
def test_what_was_not_measured_is_left_out(more: dict[str, Any], tmp_path: Path) -> None:
    page = written(tmp_path, result(**more))
    assert "nan" not in page.text and "None" not in page.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = written(tmp_path, result())
    assert not re.search(r"<(b|i|u|op|cpu|RBC)>", page.html.replace("figcaption><b>", ""))
    assert page.html.count("<script") == 1


def test_the_card_holds_the_models_and_their_metrics(tmp_path: Path) -> None:
    found = result()
    text = write_bench_card(tmp_path / "bench-card.md", found).read_text("utf-8")
    for said in (
        found.takeaway().replace("<", "&lt;"),
        "| dense (baseline) | 0.574 | 1.01 G | 3.01 M | 14.0 ms | onnxruntime fp32 | 1.00× |",
        "| slim | 0.549 | 502 M | 1.40 M | 4.00 ms | onnxruntime int8 | 3.50× |",
        "| tiny &lt;b> | 0.480 |",
        "on the very file that was timed",
        "yoloprune bench 'x <y>.pt' --baseline dense.pt",
    ):
        assert said in text, said
    assert "How to use it" not in text  # the files are those of others
    models = yaml.safe_load(text.split("---\n", 2)[1])["model-index"]
    assert [one["name"] for one in models] == ["dense", "slim", "tiny <b>"]
    told = models[1]["results"][0]["metrics"]
    assert [(one["name"], one["value"]) for one in told] == [("AP50:95", 0.549), ("AP50", 0.85)]
    text = write_bench_card(tmp_path / "empty.md", result(rows=())).read_text("utf-8")
    assert "| slim | – | 502 M | 1.40 M | – | – | – |" in text and "model-index" not in text


def test_scales_of_each_model_stand_beside_the_baselines(tmp_path: Path) -> None:
    counts = {"dense": [4, 6], "slim": [0, 5], "tiny <b>": [2, 0]}
    record = {"gamma": {"low": 0.0, "high": 1.0, "counts": counts}}
    page = written(tmp_path, result(spreads=record))
    assert "10 dense, 5 slim. The outer bars" in page.text
    assert "10 dense, 2 tiny <b>. The outer bars" in page.text
    told = set(re.findall(r"<title>(slim: [^<]* to [^<]*)</title>", page.html))
    assert told == {"slim: 5, 0.5 to 1"}
