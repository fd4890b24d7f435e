"""``yoloprune diff`` as users meet it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.prune.budget import Budget
from yoloprune.prune.plan import Origin, PrunePlan, Reached

PLAN = PrunePlan(
    criterion="gamma",
    budget=Budget(percent=0.5),
    reached=Reached(percent=0.5, channels=6, prunable_channels=12, units=6, threshold=0.1),
    layers={"model.0.conv": (0, 1, 5), "model.[b].conv": (2, 3, 4)},
    source=Origin(path="n.pt", sha256="ab" * 32),
)


def diff(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in ("diff", *args)])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    PLAN.write(tmp_path / "a.json")
    other = replace(PLAN, layers={"model.0.conv": (1, 7)}, budget=Budget(macs=0.5, round_to=8))
    replace(other, source=Origin(path="m.pt", sha256="cd" * 32)).write(tmp_path / "b.json")
    return tmp_path / "a.json", tmp_path / "b.json"


def test_both_sides_and_every_layer(files: tuple[Path, Path], tmp_path: Path) -> None:
    done = diff(*files, "--json", tmp_path / "d.json")
    assert done.exit_code == 0, done.output
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert ["model.0.conv", "3", "2", "1", "2", "1", "25%"] in lines
    assert ["model.[b].conv", "3", "0", "0", "3", "0", "0%"] in lines
    assert ["all", "6", "2", "1", "5", "1", "14%"] in lines
    asked = ["asked", "50.0% of the channels gone", "at most 50.0% of the multiply-adds"]
    assert asked in lines and ["round_to", "1", "8"] in lines
    assert "different models: A was made for n.pt (abababababab…), B for m.pt (cdcd" in done.stdout
    assert "1 channels go in both, 5 in A only, 1 in B only (14% overlap); 2 of 2" in done.stdout
    record = json.loads((tmp_path / "d.json").read_text())
    assert (record["a"], record["b"]) == tuple(map(str, files))
    assert record["layers"][0]["only_b"] == [7] and record["same_model"] is False


def test_a_plan_is_like_itself(files: tuple[Path, Path]) -> None:
    done = diff(files[0], files[0])
    assert done.exit_code == 0
    assert "the same channels go" in done.stdout and "different models" not in done.stdout


def test_what_is_no_plan_is_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text('{"version": 2}')
    for bad, message in (
        (tmp_path / "no.json", "no.json: source: is missing."),
        (tmp_path / "none.json", "none.json: no such file."),
        (Path(__file__), "is not a JSON plan"),
    ):
        done = diff(files[0], bad)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr and done.stdout == ""
    assert diff(files[0]).exit_code == 2


def test_blocks_are_named(tmp_path: Path) -> None:
    for name, blocks in (("a", ("m.1", "m.2")), ("b", ("m.2",))):
        replace(PLAN, blocks=blocks).write(tmp_path / f"{name}.json")
    done = diff(tmp_path / "a.json", tmp_path / "b.json")
    assert done.exit_code == 0, done.output
    assert "whole blocks out in both: m.2\n" in done.stdout
    assert "whole blocks out in A only: m.1\n" in done.stdout
    assert "a layer of one name need not be the same layer" in done.stdout
    same = diff(tmp_path / "b.json", tmp_path / "b.json").stdout
    assert "the same blocks and channels go" in same and "need not be" not in same
