from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from yoloprune.errors import MeasureError
from yoloprune.measure.bench_result import (
    BenchChange,
    BenchCount,
    BenchFailure,
    BenchModel,
    BenchResult,
    BenchRow,
)

SHARP = (1.0, 1.01, 0.99, 1.005, 0.995)


def row(model: str, ms: float, **more: Any) -> BenchRow:
    settings: dict[str, Any] = {
        "model": model, "file": f"{model}.onnx", "bytes": 6_000_000, "runtime": "onnxruntime",
        "runtime_version": "1.2", "device": "cpu", "precision": "fp32", "batch": 1, "threads": 1,
        "times_ms": tuple(ms * share for share in SHARP * 6), "turns": 6,
    } | more  # fmt: skip
    return BenchRow(**settings)


def metrics(ap: float) -> dict[str, float | None]:
    return {"AP": ap, "AP50": 0.9, "AP75": 0.5, "APs": None, "APm": 0.4, "APl": 0.6, "AR100": 0.7}


def result(*rows: BenchRow, **more: Any) -> BenchResult:
    settings: dict[str, Any] = {
        "models": (
            BenchModel(name="dense", path="dense.pt", params=3_000_000, macs=10**9, baseline=True),
            BenchModel(name="slim", path="slim.pt", params=10**6, widths={"model.0.conv": 16}),
        ),
        "rows": rows,
        "imgsz": (320, 320),
    }
    return BenchResult(**settings | more)


def full() -> BenchResult:
    return result(
        row("dense", 20, metrics=metrics(0.612)),
        row("dense", 16, runtime="openvino", metrics=metrics(0.612)),
        row("slim", 10, metrics=metrics(0.604), notes=("a note",), agreement=1e-6),
        row("slim", 4, precision="int8", metrics=metrics(0.599), kept_float=("model.22.dfl",)),
        failures=(BenchFailure(model="slim", runtime="ncnn", precision="fp32", reason="no"),),
        absent={"litert": "pip install ai-edge-litert"},
        data="bccd",
        split="val",
        images=4,
        classes=("Platelets", "RBC", "WBC"),
        counts=(
            BenchCount(model="slim", by="class", name="RBC", truths=9, baseline=8, found=7),
            BenchCount(model="slim", by="size", name="small", truths=2, baseline=1, found=1),
        ),
        changes=(
            BenchChange(
                model="slim", image="a.jpg", lost=2, found=1, thumbnail=b"\xff\xd8\x00",
                boxes_before=((1.0, 2.0, 3.0, 4.5, 1, 0.75),), boxes_after=(),
                width=640, height=480,
            ),
        ),
        environment={"cpu": "one", "cores": 2},
        command="yoloprune bench slim.pt --baseline dense.pt",
        date="2026-11-28T00:00:00+00:00",
        seconds=12.5,
    )  # fmt: skip


def test_numbers_of_a_row() -> None:
    times = (10.0, 12.0, 11.0, 13.0, 50.0)
    one = row("dense", 1, times_ms=times, turns=1, batch=8)
    assert (one.median_ms, one.iqr_ms) == (12.0, 2.0)
    assert one.p95_ms == pytest.approx(13 + 0.8 * (50 - 13))
    assert one.per_second == pytest.approx(8 / 0.012)
    assert one.noisy
    assert not row("dense", 20).noisy
    assert one.key == ("dense", "onnxruntime", "cpu", "fp32", 8, 1)


@pytest.mark.parametrize("times", [(), (1.0, 0.0), (float("nan"),), (float("inf"),)])
def test_times_that_no_clock_gives_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(MeasureError, match="dense: times_ms: expected positive numbers"):
        row("dense", 1, times_ms=times, turns=1)


def test_turns_divide_the_passes() -> None:
    with pytest.raises(MeasureError, match="turns: got 4, expected to divide 30"):
        row("dense", 1, turns=4)


def test_a_row_is_compared_under_its_own_conditions() -> None:
    found = full()
    slim = found.row("slim", "onnxruntime", "fp32", 1, 1)
    assert slim is not None
    against = found.versus(slim)
    assert against is not None and against.clear
    assert against.ratio == pytest.approx(2)
    int8 = found.row("slim", "onnxruntime", "int8", 1, 1)
    assert int8 is not None and found.versus(int8) is None  # the baseline has no int8 row
    assert found.row("slim", "onnxruntime", "fp32", 1, 1, device="cuda") is None


def test_takeaway_holds_the_fastest_against_the_best_runtime_of_the_baseline() -> None:
    assert full().takeaway() == (
        "slim in onnxruntime int8, 1 thread is 4.00 times as fast as dense in its own best "
        "runtime in fp32 (openvino): 4.0 against 16.0 ms a picture, at an AP 0.013 lower "
        "(0.599 against 0.612)."
    )


def test_takeaway_passes_over_what_lost_too_much() -> None:
    found = full()
    worse = [replace(one, metrics=metrics(0.4)) if one.precision == "int8" else one
             for one in found.rows]  # fmt: skip
    said = replace(found, rows=tuple(worse)).takeaway()
    assert said.startswith("slim in onnxruntime fp32, 1 thread is 1.60 times as fast as dense")


def test_takeaway_names_no_change_and_missing_rows_and_ap() -> None:
    wobbly = {"times_ms": (9.0, 10.0, 11.0, 12.0), "turns": 1}
    said = result(row("dense", 10, **wobbly), row("slim", 10, **wobbly)).takeaway()
    assert "is not clearly faster or slower (95 % interval 0." in said
    assert said.endswith("AP was not measured.")
    assert result(row("dense", 10)).takeaway() == "dense: nothing was timed beside it."


def test_json_holds_all_and_is_read_back(tmp_path: Path) -> None:
    found = full()
    file = tmp_path / "bench.json"
    file.write_text(found.to_json())
    assert BenchResult.read(file) == found
    data = json.loads(file.read_text())
    assert data["version"] == 1
    assert data["rows"][2]["versus"]["clear"] is True
    assert data["rows"][0]["times_ms"] == list(found.rows[0].times_ms)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version: this yoloprune reads 1, got 2"),
        ({"imgsz": [320]}, "imgsz"),
        ({"rows": [{}]}, "rows.0.model: Field required"),
        ({"models": []}, "expected one model to be the baseline"),
    ],
)
def test_what_is_no_result_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MeasureError, match=said):
        BenchResult.from_dict(full().to_dict() | change)


def test_broken_thumbnails_and_other_json_are_refused(tmp_path: Path) -> None:
    data = full().to_dict()
    data["changes"][0]["thumbnail"] = "*"
    with pytest.raises(MeasureError, match="a thumbnail is no base64"):
        BenchResult.from_dict(data)
    with pytest.raises(MeasureError, match="expected an object, got list"):
        BenchResult.from_dict([])
    (tmp_path / "bench.json").write_text("{")
    with pytest.raises(MeasureError, match="is no JSON"):
        BenchResult.read(tmp_path / "bench.json")


def test_names_stand_once_and_rows_are_of_them() -> None:
    twice = BenchModel(name="dense", path="other.pt", params=1)
    with pytest.raises(MeasureError, match="stands twice, got dense, slim, dense"):
        result(models=(*full().models, twice))
    with pytest.raises(MeasureError, match="a row is of 'other', which is no model of it"):
        result(row("other", 3))


def test_csv_has_a_line_a_row() -> None:
    lines = list(csv.DictReader(io.StringIO(full().to_csv())))
    assert [line["model"] for line in lines] == ["dense", "dense", "slim", "slim"]
    assert float(lines[2]["ratio"]) == pytest.approx(2)
    assert lines[3]["kept_float"] == "model.22.dfl"
    assert (lines[2]["AP"], lines[2]["APs"], lines[2]["macs"]) == ("0.604", "", "")
    assert result().to_csv() == ""


def test_markdown_says_it_in_words_then_rows_then_what_is_missing() -> None:
    text = full().to_markdown()
    assert text.splitlines()[0].startswith("slim in onnxruntime int8, 1 thread is 4.00 times")
    assert "| dense (baseline) | onnxruntime fp32 | 1 | 1 | 20.00 |" in text
    assert "2.00 x (" in text
    assert "- Not measured: slim in ncnn fp32: no" in text
    assert "- Not measured: litert: pip install ai-edge-litert" in text
    assert "IQR exceeds 10 %" not in text


def test_names_do_nothing_to_a_table() -> None:
    models = (BenchModel(name="a|b\n<i>", path="x", params=1, baseline=True),)
    noisy = row("a|b\n<i>", 1, times_ms=(1.0, 2.0, 3.0), turns=1)
    text = result(noisy, models=models).to_markdown()
    assert "| a\\|b\\x0a&lt;i> (baseline) |" in text
    assert "2.00 !" in text and "IQR exceeds 10 %" in text
