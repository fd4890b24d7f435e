"""Names that look like markup, mathematics or control codes, through every command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load, save

CLASSES = ["disc [i]x[/i]", "[/x]", r"$\frac{$ %s {0}"]
FOLDER = "folder [b] %20 ü"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained network and pictures, with such names, in such a folder."""
    monkeypatch.chdir(tmp_path)
    here = Path(FOLDER)
    data = write_shapes(here / "data", ShapesSpec(images=4, val=2, size=64))
    names = "".join(f"  {i}: '{name}'\n" for i, name in enumerate(CLASSES))
    data.write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
    model, _ = load("yoloprune-demo.cfg")
    model.names = dict(enumerate(CLASSES))  # type: ignore[assignment]
    save(model, here / "net [b].cfg")
    return here


def yoloprune(*args: object) -> str:
    done: Any = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_names_are_printed_as_they_are(folder: Path) -> None:
    model, data = folder / "net [b].cfg", folder / "data/shapes.yaml"
    assert yoloprune("info", model, "--imgsz", 64).startswith(f"{FOLDER}/net [b].cfg at 64×64\n")
    said = yoloprune("val", model, "--data", data, "--imgsz", 64)
    assert said.startswith(f"{FOLDER}/net [b].cfg on {FOLDER}/data/shapes.yaml (val, 2 pictures)")
    picture = next((folder / "data/images/val").iterdir())
    said = yoloprune("predict", model, picture, "--conf", 0.01, "-o", folder / "drawn")
    assert said.startswith(f"{picture}: ")
    assert sum(f"  {name} " in said for name in CLASSES) >= 2
    assert list((folder / "drawn").iterdir())
    out = folder / "slim [/b]"
    said = yoloprune("slim", model, "--percent", 0.3, "--imgsz", 64, "-o", out, "--data", data)
    assert f"wrote {out}/net [b]-slim-report.html\n" in said
    assert "net [b]" in (out / "net [b]-slim-report.html").read_text()
    wrong = CliRunner().invoke(app, ["info", f"{folder}/[/none].cfg"])
    assert wrong.exit_code == 1
    assert f"{FOLDER}/[/none].cfg" in wrong.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ultralytics' plots
def test_a_training_with_such_names_ends(folder: Path) -> None:
    model, data = folder / "net [b].cfg", folder / "data/shapes.yaml"
    said = yoloprune(
        "train", model, "--data", data, "--imgsz", 64, "--epochs", 1, "--batch", 4,
        "--device", "cpu", "-o", folder / "run [i]",
    )  # fmt: skip
    assert f"wrote {folder}/run [i]/weights/best.cfg\n" in said
    recipe = folder / "r [b].yaml"
    recipe.write_text(
        "model: 'net [b].cfg'\ndata: data/shapes.yaml\nimgsz: 64\nbatch: 4\ndevice: cpu\n"
        "slim: {percent: 0.3, search: 0}\nfinetune: {epochs: 1}\n"
    )
    said = yoloprune("run", recipe, "-o", folder / "rounds [i]")
    assert f"results in {folder}/rounds [i]\n" in said
    assert f"wrote {folder}/rounds [i]/rounds.png\n" in said
