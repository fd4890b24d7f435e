"""Criteria by name, from the command line to the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load, save

REPO = Path(__file__).parents[2]
DENSE = ("yoloprune-demo.cfg", "--weights", REPO / "weights/yoloprune-demo-dense.weights")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data"), ShapesSpec(images=9, val=6, seed=3))


def slim(out: Path, *args: object) -> Any:
    flags = ("-o", out, "--json", out / "slim.json", "--device", "cpu")
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in ("slim", *args, *flags)])


@pytest.mark.parametrize(
    "name",
    [
        "activation",
        "taylor",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("fisher", "hessian")),
    ],
)
def test_labels_of_the_data_teach(name: str, data: Path, tmp_path: Path) -> None:
    how = ("--criterion", name, "--percent", "0.3", "--no-repair", "--calib-images", "8")
    done = slim(tmp_path, *DENSE, *how, "--data", data)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "slim.json").read_text())
    assert (record["criterion"], record["scope"]) == (name, "global")
    told = "as asked" if name == "activation" else f"as asked, by the labels of {data}"
    assert record["why"] == told
    assert record["reached"]["percent"] >= 0.3
    # Live channels go, whatever their scores look like beside each other.
    assert [text[:11] for text in record["warnings"]] == ["not sparse:"]
    page = (tmp_path / "yoloprune-demo-slim-report.html").read_text()
    assert f"{name}, over the whole network" in page and f"{name} of each unit" in page


def test_without_labels_the_network_teaches_itself_and_says_so(data: Path, tmp_path: Path) -> None:
    pictures = data.parent / "images" / "train"
    assert pictures.is_dir()
    how = ("--criterion", "fisher", "--percent", "0.3", "--scope", "isomorphic")
    done = slim(tmp_path, *DENSE, *how, "--calib", pictures)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "slim.json").read_text())
    told = "no labels: what the network itself sees with a score above 0.25 stands for them, in "
    assert told in record["why"] and told in record["warnings"][0]
    assert record["scope"] == "isomorphic"
    page = (tmp_path / "yoloprune-demo-slim-report.html").read_text()
    assert "the same share of every class of groups of one structure" in page


def test_what_was_trained_sparse_is_cut_for_nothing_by_the_loss_too(
    data: Path, tmp_path: Path
) -> None:
    how = ("--criterion", "fisher", "--percent", "0.5", "--round-to", "1", "--no-repair")
    done = slim(tmp_path, "yoloprune-demo.cfg", *how, "--data", data)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "slim.json").read_text())
    assert record["warnings"] == []
    assert record["after"]["AP50"] == pytest.approx(record["before"]["AP50"], abs=0.02)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--criterion", "taylor"), "--criterion taylor: looks at pictures. Name some with --ca"),
        (("--criterion", "activation"), "--criterion activation: looks at pictures. Name some"),
        (("--criterion", "best"), "unknown, got 'best', expected gamma, l1, l2, lamp, fpgm, ran"),
        (("--scope", "wide"), "--scope: unknown, got 'wide', expected global, local, isomorphic"),
        (("--reduce", "min"), "--reduce: unknown, got 'min', expected mean, max, sum, norm"),
    ],
)
def test_what_cannot_be_is_one_line(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = slim(tmp_path / "out", *DENSE, *flags)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_other_classes_and_blank_looks_are_one_line(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    text = data.read_text().replace("names:", "names: [a]\nothers:")
    other.write_text(f"path: {data.parent}\n" + text)
    done = slim(tmp_path / "out", *DENSE, "--criterion", "fisher", "--calib", other)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "names 1 classes, the model knows 3" in done.stderr
    model, _ = load("yoloprune-demo.cfg", scratch=True)
    save(model, tmp_path / "raw.cfg")
    pictures = data.parent / "images" / "train"
    how = ("--criterion", "fisher", "--calib", pictures)
    done = slim(tmp_path / "out", tmp_path / "raw.cfg", *how)
    assert done.exit_code == 1 and "sees nothing with a score above 0.25" in done.stderr
    assert not (tmp_path / "out").exists()
