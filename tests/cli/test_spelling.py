"""What users of YOLO tools type, and what they are told when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.cli.spelling import spelled, ultralytics_settings


def command(name: str) -> Any:
    return get_command(app).commands[name]  # type: ignore[attr-defined]


def run(*args: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(args))


def test_settings_become_flags() -> None:
    typed = ["yolov8n.pt", "data=coco8.yaml", "epochs=50", "imgsz=320", "lr0=0.01", "--seed", "3"]
    flags = [
        "yolov8n.pt",
        "--data",
        "coco8.yaml",
        "--epochs",
        "50",
        "--imgsz",
        "320",
        "--set",
        "lr0=0.01",
        "--seed",
        "3",
    ]
    assert spelled(typed, command("train")) == flags


def test_arguments_have_names_too() -> None:
    typed = ["source=a.jpg", "conf=0.5", "model=net.cfg"]
    assert spelled(typed, command("predict")) == ["net.cfg", "--conf", "0.5", "a.jpg"]


def test_values_of_flags_are_left_alone() -> None:
    typed = ["net.pt", "--set", "lr0=0.1", "--set=lrf=0.1", "-o", "a=b", "--", "x=y"]
    assert spelled(typed, command("train")) == typed


def test_files_with_such_names_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "epochs=3.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert spelled(["epochs=3.pt"], command("train")) == ["epochs=3.pt"]


def test_switches() -> None:
    assert spelled(["resume=True"], command("train")) == ["--resume"]
    assert spelled(["resume=False"], command("train")) == []
    assert spelled(["repair=False"], command("slim")) == ["--no-repair"]
    with pytest.raises(typer.BadParameter, match="expected True or False"):
        spelled(["resume=3"], command("train"))


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["train", "x.pt", "--lr0", "0.1"], "write lr0=VALUE"),
        (["train", "x.pt", "epoch=3"], "Did you mean --epochs"),
        (["train", "x.pt", "momentun=3"], "Did you mean momentum=3"),
        (["train", "x.pt", "lr=0.1"], "Did you mean lr0=0.1?"),
        (["slim", "x.pt", "lr0=3"], "is no flag of this command"),
        (["slim", "x.pt", "--percnt", "0.5"], "Did you mean --percent?"),
        (["slim", "x.pt", "--percent", "50"], "Did you mean 0.5?"),
        (["train", "x.pt", "--percent", "60"], "Did you mean 0.6?"),
        (["slim", "x.pt", "--max-drop", "1.5"], "Did you mean 0.015?"),
        (["train", "x.pt", "--until", "2"], "Did you mean 0.02?"),
        (["slim", "x.pt", "--percent", "-3"], "is a share from 0 to 1, got -3."),
    ],
)
def test_wrong_flags_end_in_two_with_the_nearest_right_one(typed: list[str], hint: str) -> None:
    result = run(*typed)
    assert result.exit_code == 2
    assert hint in " ".join(result.output.replace("│", " ").split())


def test_settings_are_read_from_the_installed_ultralytics() -> None:
    assert {"lr0", "imgsz", "close_mosaic"} <= ultralytics_settings()


def test_help_and_version() -> None:
    assert run("-h").output == run("--help").output
    assert run("slim", "-h").exit_code == 0
    assert run("--version").output.startswith("yoloprune 0.")


def test_json_on_standard_output_stands_alone() -> None:
    result = run("info", "yoloprune-demo.cfg", "--json", "-")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["model"].endswith("yoloprune-demo.cfg")
    assert "blocks may go" in result.stderr and "blocks may go" not in result.stdout


def test_the_doctor_names_what_is_there_and_what_is_not() -> None:
    result = run("doctor", "--json", "-")
    record = json.loads(result.stdout)
    assert record["packages"]["torch"] and record["cores"] >= 1 and record["devices"]
    assert set(record["runtimes"]) >= {"onnxruntime", "openvino", "tensorrt"}
    assert "Python" in result.stderr
