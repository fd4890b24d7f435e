"""``yoloprune.evaluate`` and ``run_recipe``: what their commands do, as objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from nets import Chain
from typer.testing import CliRunner

import yoloprune as yp
from tests.train import slims
from yoloprune.cli.main import app

MODEL = "yoloprune-demo.cfg"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slims.pictures(tmp_path_factory.mktemp("data"), "detect", count=6, classes=3)


def test_evaluate_gives_the_numbers_of_val(data: Path) -> None:
    found = yp.evaluate(MODEL, data, imgsz=96, conf=1e-6, device="cpu")
    words = ["val", MODEL, "--data", str(data), "--imgsz", "96", "--conf", "1e-6", "--json", "-"]
    done = CliRunner().invoke(app, [*words, "--device", "cpu", "--quiet"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert found.record["metrics"] == told["metrics"] == found.metrics
    assert found.record["images"] == 6 and found.record.keys() == told.keys()
    assert set(found.by_class) == {"class 0", "class 1", "class 2"}
    model, _ = yp.load(MODEL)
    again = yp.evaluate(model, str(data), imgsz=96, conf=1e-6)
    assert again.metrics == found.metrics
    assert repr(again).startswith("<Evaluation of DarknetModel on ")
    assert "(val, 6 pictures): AP 0." in repr(again)
    table = found.table()
    assert {row["metric"]: row["value"] for row in table} == found.metrics
    assert "<td>pycocotools</td>" in found._repr_html_()


@pytest.mark.parametrize(
    ("model", "how", "says"),
    [
        (Chain(), {}, "^model: Chain is no YOLO"),
        (MODEL, {"split": "vla"}, "vla"),
        (MODEL, {"conf": 2}, "^conf: got 2, expected"),
        (MODEL, {"imgsz": -3}, "got -3"),
        (3, {}, "^model: got int, expected a file"),
    ],
)
def test_what_cannot_be_measured_is_said(
    model: Any, how: dict[str, Any], says: str, data: Path
) -> None:
    with pytest.raises(yp.YoloPruneError, match=says):
        yp.evaluate(model, data, **how)


def test_missing_data_is_told_before_the_model_is_loaded() -> None:
    with pytest.raises(yp.YoloPruneError, match=r"^no-such\.yaml: "):
        yp.evaluate("no-such.pt", "no-such.yaml")


def recipe(data: Path, **changes: Any) -> dict[str, Any]:
    """One round without any training."""
    slim = {"percent": 0.4, "search": 0, "criterion": "l2"}
    return {"model": MODEL, "data": data, "imgsz": 96, "device": "cpu", "slim": slim, **changes}


def test_a_recipe_is_a_mapping_or_a_file_and_goes_on(data: Path, tmp_path: Path) -> None:
    first = yp.run_recipe(recipe(data), tmp_path / "run")
    assert first.record["accepted"] == "round1"
    assert [path.name for path in first.files][:2] == ["result.cfg", "result.weights"]
    rows = {row["name"]: row for row in first.table()}
    assert 0 < rows["round1"]["macs"] < rows["dense"]["macs"]
    assert "round1 ←" in str(first.table()) and repr(first).startswith("<RecipeRun round1: AP 0.")
    before = first.files[1].stat().st_mtime_ns
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump({**recipe(data), "data": str(data)}))
    again = yp.run_recipe(file, tmp_path / "run")
    assert again.record == first.record and again.files[1].stat().st_mtime_ns == before
    for name, value in first.model.state_dict().items():
        assert value.equal(again.model.state_dict()[name]), name
    with pytest.raises(
        yp.YoloPruneError, match="seed: 0 → 1.*another folder with out, .* with overwrite"
    ):
        yp.run_recipe(recipe(data, seed=1), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slim": {"percent": 3}}, r"^recipe: slim(\.percent)?: .*3"),
        ({"train": None}, "^recipe: train: is empty"),
        ({"sparsity": {}}, "^recipe: sparsity: is unknown, expected one of model"),
        ({"batch": "many"}, "^recipe: batch: got 'many', expected"),
        ({"finetune": {"epochs": 1, "teacher": "x.pt"}}, r"^recipe: finetune\.teacher: no such"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told_by_its_path(
    change: dict[str, Any], says: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(yp.YoloPruneError, match=says):
        yp.run_recipe(recipe(data, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()
