"""Plans as documents, from the command line: carried out, edited, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.prune.plan import PrunePlan

NET = "yoloprune-demo.cfg"


def slim(*args: object, model: str = NET) -> Any:
    flags = ("--device", "cpu")
    every = ("slim", model, *args, *flags)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in every])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cut of the demo network."""
    folder = tmp_path_factory.mktemp("made")
    done = slim("--percent", "0.3", "-o", folder)
    assert done.exit_code == 0, done.output
    return folder


def edited(made: Path, target: Path, change: Callable[[dict[str, list[int]]], Any]) -> Path:
    data = json.loads((made / "yoloprune-demo-slim-plan.json").read_text())
    change(data["layers"])
    target.write_text(json.dumps(data))
    return target


def test_a_plan_repeats_its_cut(made: Path, tmp_path: Path) -> None:
    plan = made / "yoloprune-demo-slim-plan.json"
    out = tmp_path / "again"
    done = slim("--plan", plan, "-o", out, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    for name in ("yoloprune-demo-slim.cfg", "yoloprune-demo-slim.weights", plan.name):
        assert (out / name).read_bytes() == (made / name).read_bytes()
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["criterion"], record["scope"]) == ("gamma", None)
    assert record["why"] == f"as {plan.name} says"
    assert record["warnings"] == []
    assert f"by gamma: as {plan.name} says" in done.stdout
    page = (out / "yoloprune-demo-slim-report.html").read_text()
    assert f"gamma, as {plan.name} says" in page


def test_an_edited_plan_is_carried_out_as_it_says(made: Path, tmp_path: Path) -> None:
    def change(rows: dict[str, list[int]]) -> None:
        rows["model.0.conv"].remove(2)
        del rows["model.1.conv"]

    plan = edited(made, tmp_path / "mine.json", change)
    done = slim("--plan", plan, "-o", tmp_path / "out", "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    written = PrunePlan.read(tmp_path / "out" / "yoloprune-demo-slim-plan.json")
    assert written.layers == PrunePlan.read(plan).layers
    assert written.reached.channels == sum(map(len, written.layers.values()))
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["reached"]["channels"] == written.reached.channels
    assert any("mine.json: was edited" in text for text in record["warnings"])
    text = (tmp_path / "out" / "yoloprune-demo-slim.cfg").read_text()
    widths = [int(line.partition("=")[2]) for line in text.splitlines() if line[:8] == "filters="]
    assert widths[:2] == [16 - 7, 32]


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, list[int]]], Any], str]] = {
    "renamed": (lambda rows: rows.update({"model.1.konv": rows.pop("model.1.conv")}),
                "model.1.konv: no layer of this model has this name. Is model.1.conv meant?"),
    "range": (lambda rows: rows["model.0.conv"].append(16),
              "model.0.conv: has no output channel 16, expected 0 to 15."),
    "half": (lambda rows: rows["model.2.conv"].pop(),
             "model.2.conv: equal numbers must stay on the 2 sides of"),
    "empty": (lambda rows: rows.update({"model.0.conv": list(range(16))}),
              "model.0.conv: all 16 output channels of model.0.conv would go."),
    "twice": (lambda rows: rows["model.0.conv"].append(14),
              "layers.model.0.conv[8]: got 14, expected an index above 14"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_one_line_and_nothing_is_written(
    made: Path, tmp_path: Path, change: Callable[[dict[str, list[int]]], Any], message: str
) -> None:
    plan = edited(made, tmp_path / "bad.json", change)
    done = slim("--plan", plan, "-o", tmp_path / "out")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert f"{plan}: {message}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_row_that_stands_twice_is_named(made: Path, tmp_path: Path) -> None:
    text = (made / "yoloprune-demo-slim-plan.json").read_text()
    plan = tmp_path / "twice.json"
    plan.write_text(text.replace('"layers": {', '"layers": {"model.1.conv": [1],'))
    done = slim("--plan", plan)
    assert done.exit_code == 1
    assert "twice.json: is not a JSON plan (model.1.conv stands twice in one object)" in done.stderr


def test_flags_that_choose_are_named(made: Path, tmp_path: Path) -> None:
    plan = made / "yoloprune-demo-slim-plan.json"
    flags = ("--percent", "0.2", "--bytes", "1M", "--round-to", "8", "--criterion", "l1")
    done = slim("--plan", plan, "-o", tmp_path / "out", *flags, "--seed", "0")
    assert done.exit_code == 1
    told = "--plan: says what goes. Leave --percent, --bytes, --round-to, --criterion, --seed out."
    assert done.stderr == f"yoloprune: {told}\n"
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_what_the_cut_then_does(made: Path, tmp_path: Path) -> None:
    flags = ("--percent", "0.3", "--dry-run", "-o", tmp_path / "dry")
    done = slim(*flags, "--json", tmp_path / "dry.json")
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "dry").iterdir())
    assert names == ["yoloprune-demo-plan.json", "yoloprune-demo-plan.png"]
    plan = made / "yoloprune-demo-slim-plan.json"
    assert (tmp_path / "dry" / names[0]).read_bytes() == plan.read_bytes()
    record = json.loads((tmp_path / "dry.json").read_text())
    assert record["files"]["plan"] == str(tmp_path / "dry" / names[0])
    cut = slim("--plan", plan, "-o", tmp_path / "cut", "--json", tmp_path / "cut.json")
    assert cut.exit_code == 0
    real = json.loads((tmp_path / "cut.json").read_text())
    for side in ("before", "after"):
        for key in ("macs", "params"):
            assert record[side][key] == real[side][key]
    text = (made / "yoloprune-demo-slim.cfg").read_text()
    widths = [int(line.partition("=")[2]) for line in text.splitlines() if line[:8] == "filters="]
    assert [row["after"] for row in record["layers"]] == widths
    assert f"{record['after']['macs']:,}" in done.stdout
    assert "│ model.0.conv  │   16 → 8 │" in done.stdout
    assert "output of the model (24 channels in 2 layers)" in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:26])) <= 80
    assert f"--plan {tmp_path / 'dry' / names[0]}" in done.stdout
    again = slim(*flags)
    assert again.exit_code == 1 and "holds results already" in again.stderr


def test_a_dry_run_of_a_plan_writes_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = made / "yoloprune-demo-slim-plan.json"
    done = slim("--plan", plan, "--dry-run")
    assert done.exit_code == 0, done.output
    assert list(tmp_path.iterdir()) == []
    assert "nothing was written" in done.stdout and f"as {plan.name} says" in done.stdout
    bad = edited(made, tmp_path / "bad.json", lambda rows: rows["model.0.conv"].append(16))
    done = slim("--plan", bad, "--dry-run", "-o", tmp_path / "out")
    assert done.exit_code == 1 and "model.0.conv: has no output channel 16" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_limit_that_does_not_hold_is_told(made: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["budget"]["macs"] = 0.01

    data = json.loads((made / "yoloprune-demo-slim-plan.json").read_text())
    change(data)
    (tmp_path / "mine.json").write_text(json.dumps(data))
    done = slim("--plan", tmp_path / "mine.json", "--dry-run", "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert ": not met" in done.stdout
    limits = {row["name"]: row for row in json.loads((tmp_path / "r.json").read_text())["limits"]}
    assert (limits["percent"]["holds"], limits["macs"]["holds"]) == (True, False)
    assert limits["macs"]["asked"] == pytest.approx(0.01 * 134_758_400)


def test_a_dry_run_with_blocks_is_what_its_plan_does(tmp_path: Path) -> None:
    done = slim("--blocks", 1, "--macs", 0.6, "--dry-run", "-o", tmp_path, "--json", tmp_path / "r")
    assert done.exit_code == 0, done.output
    assert "without 1 of 2 blocks (model.2" in done.stdout
    assert "both tables are without them" in done.stdout and "not met" not in done.stdout
    record = json.loads((tmp_path / "r").read_text())
    full = json.loads(info(tmp_path))["totals"]["macs"]
    (limit,) = record["limits"]
    assert limit["asked"] == pytest.approx(0.6 * full) and limit["holds"]
    plan = tmp_path / "yoloprune-demo-plan.json"
    made = slim("--plan", plan, "-o", tmp_path / "cut", "--json", tmp_path / "c")
    assert made.exit_code == 0, made.output
    assert "1 block gone, at most 60.0% of the multiply-adds" in made.stdout
    cut = json.loads((tmp_path / "c").read_text())
    assert (
        cut["after"]["macs"]
        == record["after"]["macs"]
        <= 0.6 * full
        == 0.6 * (cut["before"]["macs"])
    )
    assert [one["harm"] for one in cut["blocks"]["removed"]] == [None]
    page = (tmp_path / "cut" / "yoloprune-demo-slim-report.html").read_text()
    assert "whole blocks out" in page and cut["blocks"]["removed"][0]["name"] in page


def info(folder: Path) -> str:
    done = CliRunner().invoke(app, ["info", NET, "--json", str(folder / "info.json")])
    assert done.exit_code == 0, done.output
    return (folder / "info.json").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--blocks", 99), "--blocks: the network can spare 2 blocks, got 99."),
        (("--blocks", 1, "--plan", "p.json"), "--plan: says what goes. Leave --blocks out."),
        (("--blocks", 1, "--latency", 0.5, "--runtime", "torch"), "--latency: 0.5 is a share of"),
    ],
)
def test_blocks_that_cannot_go(tmp_path: Path, flags: tuple[object, ...], message: str) -> None:
    done = slim(*flags, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"yoloprune: {message}") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
