"""Each command ends with what to type next, which a shell and this program take as it is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.cli.next_steps import after_training, flags_of, model_words
from yoloprune.cli.resuming import resumable
from yoloprune.cli.spelling import spelled
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load, save

DEMO = Path(__file__).parents[2] / "cfg" / "yoloprune-demo.cfg"


def run(*args: object) -> list[str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def next_of(lines: list[str]) -> list[str]:
    """What to type next, if this program understands it."""
    (line,) = (line for line in lines if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[0] == "yoloprune"
    command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    command.make_context(words[1], spelled(words[2:], command))
    return words[1:]


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder whose name has a space."""
    folder = tmp_path / "my nets"
    save(load(DEMO, scratch=True)[0], folder / "net.cfg")
    monkeypatch.chdir(tmp_path)
    return Path("my nets/net.cfg")


def test_a_full_network_is_looked_at_then_cut_and_handed_over(net: Path) -> None:
    words = next_of(run("info", net, "--imgsz", 64))
    assert words == ["slim", str(net), "--macs", "0.5", "--dry-run"]
    words = next_of(run(*words, "--imgsz", 64, "-o", "plans"))
    assert words == ["slim", str(net), "--plan", "plans/net-plan.json"]
    run(*words, "-o", "thin", "--imgsz", 64)
    words = next_of(run("info", "thin/net-slim.cfg", "--imgsz", 64))
    assert words == ["export", "thin/net-slim.cfg", "--format", "onnx"]


def test_what_is_measured_is_cut_by_the_same_data(net: Path) -> None:
    data = write_shapes(Path("data"), ShapesSpec(images=2, val=2, size=64))
    words = next_of(run("val", net, "--data", data, "--imgsz", 64))
    assert words == ["slim", str(net), "--macs", "0.5", "--data", str(data)]


def test_weights_of_another_name_are_named() -> None:
    def words(weights: str | None) -> list[str]:
        source: Any = SimpleNamespace(model=Path("a.cfg"), weights=weights and Path(weights))
        return model_words(source)

    assert words(None) == words("elsewhere/a.weights") == ["a.cfg"]
    assert words("b.weights") == ["a.cfg", "--weights", "b.weights"]


@pytest.mark.parametrize(
    ("typed", "how", "expected"),
    [
        (["--percent", "0.6", "--min-channels=4", "--epochs", "3"], {"sparse": True},
         "slim w.pt --percent 0.6 --min-channels 4 --data d.yaml"),
        (["--macs", "0.5"], {"sparse": True}, "slim w.pt --macs 0.5 --data d.yaml"),
        ([], {"slim": True}, "export w.pt --format onnx"),
        ([], {}, "slim w.pt --macs 0.5 --data d.yaml"),
    ],
)  # fmt: skip
def test_after_a_training_comes_the_cut_that_it_was_for(
    typed: list[str], how: dict[str, bool], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = get_command(app).commands["train"]  # type: ignore[attr-defined]
    context = command.make_context("train", ["x.pt", "--data", "d.yaml", *typed])
    after_training(context, "w.pt", "d.yaml", **{"slim": False, "sparse": False, **how})
    assert next_of(capsys.readouterr().out.splitlines()) == shlex.split(expected)
    assert flags_of(context, ()) == []


def test_json_on_standard_output_has_no_next_line(net: Path) -> None:
    done = CliRunner().invoke(app, ["info", str(net), "--imgsz", "64", "--json", "-"])
    assert json.loads(done.stdout)["totals"] and "next: " in done.stderr


def test_quiet_stands_beside_a_plan(net: Path) -> None:
    run("slim", net, "--macs", 0.5, "--dry-run", "--imgsz", 64, "-o", "plans")
    run("slim", net, "--plan", "plans/net-plan.json", "-q", "--imgsz", 64, "-o", "thin")


@pytest.mark.parametrize(
    ("typed", "missing"),
    [
        (["x.pt", "data=d.yaml"], "--resume -o 'my run'"),
        (["x.pt", "data=d.yaml", "-o", "my run"], "--resume"),
        (["x.pt", "data=d.yaml", "--resume", "-o", "my run"], ""),
    ],
)
def test_a_training_that_is_stopped_says_how_it_goes_on(
    typed: list[str], missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "yoloprune")
    group: Any = get_command(app)
    parent = group.make_context("yoloprune", ["train", *typed], resilient_parsing=True)
    _, command, rest = group.resolve_command(parent, ["train", *typed])
    context = command.make_context("train", spelled(rest, command), parent=parent)

    def stop() -> None:
        with resumable(context, Path("my run")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert caplog.messages == []  # nothing is there to go on with
    Path("my run/weights").mkdir(parents=True)
    Path("my run/weights/last.pt").touch()
    with pytest.raises(KeyboardInterrupt):
        stop()
    line = shlex.join(["yoloprune", "train", *typed])
    assert caplog.messages == [f"to go on: {line} {missing}".strip()]
