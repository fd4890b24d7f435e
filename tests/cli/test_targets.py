"""``--target`` through the commands, and the list of targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import yoloprune.cli.train as training
from yoloprune.cli.main import app
from yoloprune.measure.targets import TARGETS, find_target

DEMO = "yoloprune-demo.cfg"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def yoloprune(*args: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args])


def slim(*args: object) -> dict[str, Any]:
    """The record of a cut of the demo network."""
    done = yoloprune("slim", DEMO, "--percent", 0.4, "--imgsz", 64, "--json", "it.json", *args)
    assert done.exit_code == 0, done.stderr
    record: dict[str, Any] = json.loads(Path("it.json").read_text())
    return {**record, "said": done.stdout}


def test_every_target_is_listed() -> None:
    done = yoloprune("targets", "--json", "all.json")
    assert done.exit_code == 0
    record = json.loads(Path("all.json").read_text())["targets"]
    assert [one["name"] for one in record] == [target.name for target in TARGETS]
    for target in TARGETS:
        assert f" {target.name} " in done.stdout


def test_of_one_target_each_fact_is_told_with_its_source() -> None:
    done = yoloprune("targets", "RK3588")
    target = find_target("rknn")
    facts = [*target.facts, *(item.fact for item in target.avoid)]
    assert len(facts) == 4
    for fact in facts:
        assert f"{fact.says}. {fact.known.capitalize()}: {fact.source}\n" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("targets", "toaster"),
        ("info", DEMO, "--target", "toaster"),
        ("slim", DEMO, "--target", "toaster"),
        ("train", DEMO, "--data", "d.yaml", "--target", "toaster"),
    ],
)
def test_an_unknown_target_is_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    done = yoloprune(*command)
    assert done.exit_code == 1
    assert done.stderr.startswith("yoloprune: --target: unknown, got 'toaster', expected one of on")
    assert done.stderr.count("\n") == 1
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_info_counts_what_leaves_the_fast_path() -> None:
    done = yoloprune("info", DEMO, "--imgsz", 64, "--json", "info.json")
    assert "onnxruntime: none of 20 convs leaves the blocked layout\n" in done.stdout
    assert "channel slice" not in done.stdout
    record = json.loads(Path("info.json").read_text())["fast_path"]
    assert (record["convs"], record["off"], record["exempt"]) == (20, [], ["model.0.conv"])
    done = yoloprune("info", "yolov4-tiny.cfg", "--imgsz", 64, "--target", "ort")
    assert "onnxruntime: this network has channel slice in 3 layers" in done.stdout
    done = yoloprune("info", "yolov4-tiny.cfg", "--imgsz", 64, "--target", "ascend")
    assert (
        "ascend: 2 of 21 convs leave whole blocks of 16 channels: "
        "model.29.conv gives 255 channels, no multiple of 16; model.36.conv gives 255"
    ) in done.stdout


def test_slim_counts_before_and_after_for_onnxruntime_by_itself() -> None:
    record = slim("--round-to", 1, "-o", "odd")
    sides = record["fast_path"]
    assert sides["before"]["target"] == sides["after"]["target"] == "onnxruntime"
    assert sides["before"]["off"] == []
    off = sides["after"]["off"]
    assert len(off) > 3
    for one in off:
        width = int(one["reason"].split()[1])
        assert width % 4, one
    assert (
        f"that leave the blocked layout: 0 → {len(off)} of 20: {off[0]['layer']}" in record["said"]
    )
    page = Path(record["files"]["report"]).read_text()
    assert f"0 of 20 before, {len(off)} of 20 after" in page
    assert off[-1]["reason"] in page
    record = slim("-o", "eights")
    assert record["asked"]["round_to"] == 8
    assert record["fast_path"]["after"]["off"] == []
    assert not [text for text in record["warnings"] if "onnxruntime" in text]


def test_a_target_sets_the_rounding_unless_it_is_given() -> None:
    record = slim("--target", "htp", "-o", "a")
    assert record["asked"]["round_to"] == 32
    assert record["fast_path"]["after"]["target"] == "qualcomm-htp"
    before, after = (len(record["fast_path"][side]["off"]) for side in ("before", "after"))
    assert after <= before
    record = slim("--target", "htp", "--round-to", 16, "-o", "b")
    assert record["asked"]["round_to"] == 16
    told = "qualcomm-htp: wants multiples of 32, --round-to 16 gives others"
    assert told in record["warnings"]
    assert len(record["fast_path"]["after"]["off"]) > after


def test_slim_warns_of_what_the_target_does_badly() -> None:
    record = slim("--target", "onnxruntime", "-o", "a")
    text = record["warnings"][0]
    assert text.startswith("onnxruntime: this network has channel slice in ")
    assert text.endswith("nchwc_transformer.cc")
    split = slim("--target", "onnxruntime", "--split-routes", "-o", "b")
    assert not [text for text in split["warnings"] if "channel slice" in text]


def test_train_takes_a_target_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def record(model: Any, source: Any, folder: Path, asked: Any, *rest: Any) -> None:
        seen.update(asked)

    monkeypatch.setattr(training, "_carry_out", record)
    arguments = ("train", DEMO, "--data", "d.yaml", "--percent", 0.3, "--imgsz", 64)
    done = yoloprune(*arguments, "--target", "onnxruntime-avx512", "-o", "a")
    assert done.exit_code == 0, done.stderr
    assert seen["sparsity"].budget.round_to == 16
    assert "warning: onnxruntime-avx512: this network has channel slice" in done.stderr
    done = yoloprune(*arguments, "-o", "b")
    assert seen["sparsity"].budget.round_to == 8
    assert "channel slice" not in done.stderr
