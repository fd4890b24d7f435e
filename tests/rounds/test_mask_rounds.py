"""Rounds of masks: what each adds, when they end, and that a kill changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.errors import MaskError, RecipeError
from yoloprune.mask.masking import masks_of
from yoloprune.mask.sparsity import sparsity
from yoloprune.mask.spec import MaskSpec
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load
from yoloprune.rounds import masks
from yoloprune.rounds.masks import MaskRounds, run_mask_rounds
from yoloprune.rounds.state import State

REPO = Path(__file__).parents[2]
SETTINGS = {"plots": False, "workers": 0}
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data"), ShapesSpec(images=8, val=6, seed=3))


def dense() -> tuple[Any, Any]:
    return load("yoloprune-demo.cfg", REPO / "weights/yoloprune-demo-dense.weights")


def options(data: Path, out: Path, **more: Any) -> MaskRounds:
    spec = MaskSpec(method="l1_unstructured", amount=0.3)
    given = {"spec": spec, "rounds": 2, "epochs": 1, "imgsz": 96, "batch": 4, **more}
    return MaskRounds(data=str(data), out=out, device="cpu", settings=SETTINGS, **given)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run_mask_rounds(*dense(), options(data, out))
    return out


def test_each_round_masks_more_of_what_is_left(undisturbed: Path) -> None:
    record = json.loads((undisturbed / "run.json").read_text())
    rows = record["rounds_done"]
    assert [row["name"] for row in rows] == ["dense", "round1", "round2"]
    assert [row["sparsity"]["conv"] for row in rows] == pytest.approx([0, 0.3, 0.51], abs=0.002)
    assert len({(row["params"], row["macs"]) for row in rows}) == 1
    assert record["accepted"] == "round2" and record["stopped"] == "2 rounds are done"
    assert all(0 <= row["untrained"]["AP"] <= 1 for row in rows[1:])
    result = load(*map(Path, record["files"]["model"]))[0]
    assert sparsity(result).share("conv") == pytest.approx(0.51, abs=0.002)
    first = load(undisturbed / "round1/yoloprune-demo-round1.cfg")[0]
    for name, stays in masks_of(first).items():  # the zeros of round 1 are zeros of round 2
        assert (result.get_parameter(name).detach().numpy()[~stays] == 0).all(), name
    assert not torch.equal(first.model[0].conv.weight, dense()[0].model[0].conv.weight)
    assert (undisturbed / "yoloprune-demo-masked-rounds.png").stat().st_size > 5000
    assert (undisturbed / "yoloprune-demo-masked-masks.npz").is_file()


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("dense", marks=pytest.mark.slow),
        pytest.param("round1/masked", marks=pytest.mark.slow),
        pytest.param("round1", marks=pytest.mark.slow),
        "round2/masked",
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    stage: str, data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    real = State.enter

    def enter(self: State, name: str, *rest: Any) -> None:
        real(self, name, *rest)
        if name == stage:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(State, "enter", enter)
        with pytest.raises(KilledError):
            run_mask_rounds(*dense(), options(data, tmp_path))
    with monkeypatch.context() as patch:
        done = []
        patch.setattr(masks, "mask_model", lambda *a: done.append(a) or _real_mask(*a))
        run_mask_rounds(*dense(), options(data, tmp_path))
    assert len(done) == {"dense": 2, "round1/masked": 1, "round1": 1, "round2/masked": 0}[stage]
    file = "yoloprune-demo-masked.weights"
    assert (tmp_path / file).read_bytes() == (undisturbed / file).read_bytes()


_real_mask = masks.mask_model


def test_the_last_good_round_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter((0.5, 0.4, 0.49, 0.1, 0.2))  # dense; masked and tuned of each round
    monkeypatch.setattr(masks, "quality", lambda *_, **__: {"AP": next(values), "by": {}})
    record = run_mask_rounds(*dense(), options(data, tmp_path, max_drop=0.05, rounds=3))
    assert record["accepted"] == "round1"
    assert record["stopped"] == "AP fell by 0.3000, more than 0.05"
    assert [row["name"] for row in record["rounds_done"]] == ["dense", "round1", "round2"]
    result = (tmp_path / "yoloprune-demo-masked.weights").read_bytes()
    assert result == (tmp_path / "round1/yoloprune-demo-round1.weights").read_bytes()


def test_another_run_is_refused_and_a_finished_one_told(data: Path, undisturbed: Path) -> None:
    with pytest.raises(RecipeError, match="changed since: epochs: 1 → 2"):
        run_mask_rounds(*dense(), options(data, undisturbed, epochs=2))
    before = (undisturbed / "run.json").stat().st_mtime_ns
    again = run_mask_rounds(*dense(), options(data, undisturbed))
    assert again["accepted"] == "round2"
    assert (undisturbed / "run.json").stat().st_mtime_ns == before


def test_the_command_goes_round_and_on(data: Path, tmp_path: Path) -> None:
    words = [
        *("mask", "yoloprune-demo.cfg", "--method", "l1_unstructured", "--amount", "30%"),
        *("--weights", str(REPO / "weights/yoloprune-demo-dense.weights"), "--data", str(data)),
        *("--rounds", "1", "--epochs", "1", "--max-drop", "0.9", "--imgsz", "96"),
        *("--train-batch", "4", "--set", "plots=false", "--set", "workers=0", "--device", "cpu"),
        *("-o", str(tmp_path / "out"), "--json", str(tmp_path / "a.json")),
    ]
    runner = CliRunner(env={"COLUMNS": "200"})
    first = runner.invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "stopped: 1 round is done; the result is round1" in first.stdout
    assert "96×96" in first.stdout and "round1 ←" in first.stdout
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["imgsz"] == [96, 96] and record["rounds_done"][1]["amount"] == 0.3
    again = runner.invoke(app, words)
    assert again.exit_code == 0 and "the result is round1" in again.stdout
    other = runner.invoke(app, [*words, "--amount", "0.4"])
    assert other.exit_code == 1 and "changed since: mask.amount: 0.3 → 0.4" in other.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rounds": 0}, "--rounds: must be at least 1, got 0"),
        ({"max_drop": 1.0}, "--max-drop: got 1, expected 0 to below 1"),
        ({"spec": MaskSpec(method="n_m")}, "--rounds: masks of --method n_m do not grow"),
    ],
)
def test_rounds_that_are_none(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=message):
        options(tmp_path, tmp_path, **more)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rounds", "2", "--epochs", "1"), "--data: is missing, which --rounds needs"),
        (("--rounds", "2", "--data", "d.yaml"), "--epochs: is missing, which --rounds needs"),
        (
            ("--rounds", "2", "--epochs", "1", "--data", "d.yaml", "--split", "test"),
            "--split, --batch: are not for --rounds, which measures on val",
        ),
        (("--epochs", "2"), "--epochs, --max-drop, --set: are of fine-tuning. Give --rounds, too"),
    ],
)
def test_flags_that_belong_together(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    words = ["mask", "yoloprune-demo.cfg", "--method", "l1_unstructured", "--amount", "0.3"]
    done = CliRunner().invoke(app, [*words, *flags, "-o", str(tmp_path / "out")])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert message in done.stderr and not (tmp_path / "out").exists()
