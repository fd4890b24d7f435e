"""The small files that must be refused, or read right; and that nothing of them ever ran."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app

REPO = Path(__file__).parents[2]
DEMO = REPO / "cfg" / "yoloprune-demo.cfg"


@pytest.fixture
def cases(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the cases, worked in; afterwards no code of theirs has run and nothing is new."""
    folder = tmp_path / "cases"
    shutil.copytree(shared / "cases", folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = set(folder.rglob("*"))
    yield folder
    assert not list(tmp_path.rglob("PWNED"))
    assert set(folder.rglob("*")) == before


def run(*args: object) -> Any:
    env = {
        "YOLOPRUNE_WEIGHTS_URL": "http://127.0.0.1:9",
        "YOLOPRUNE_CHECKPOINT_URL": "http://127.0.0.1:9",
        "COLUMNS": "250",
    }
    return CliRunner(env=env).invoke(app, [str(arg) for arg in args])


def refused(*args: object) -> str:
    """Run quietly; it must end in one line and exit code 1. Gives the line."""
    quiet = ("--quiet",) if args[0] in ("run", "train") else ()
    done = run(*args, *quiet)
    assert done.exit_code == 1, (done.stdout, done.stderr, done.exception)
    assert done.stderr.startswith("yoloprune: ")
    assert done.stderr.count("\n") == 1
    return str(done.stderr)


REFUSED = {
    "code/activation.yaml": (("info",), "activation: expected one of torch.nn's"),
    "code/activation-inside.pt": (("slim", "--percent", 0.3), "its model.yaml: activation:"),
    "code/class-call.pt": (("info",), "calls DistillationModel"),
    "code/second-stage.pt": (("info",), "names __builtin__.exec"),
    "broken/empty.pt": (("info",), "is no checkpoint but empty"),
    "broken/web-page.pt": (("info",), "a web page"),
    "broken/lfs-pointer.pt": (("info",), "a Git LFS pointer"),
    "broken/other-package.pt": (("info",), "names models.yolo.DetectionModel"),
    "broken/conv-without-stride.pt": (("info",), "is damaged: model.0.conv has no stride"),
    "broken/unknown-module.yaml": (("info",), "'MyAttention' is not in the installed Ultralytics"),
    "broken/bool-maybe.yaml": (("run",), "bool-maybe.yaml:3: is no YAML ('maybe' is no bool)"),
    "costly/aliases.yaml": (("run",), "stands for more than 1000000 values"),
    "costly/wide.cfg": (("info",), "wide.cfg"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_in_one_line(case: str, cases: Path) -> None:
    (command, *flags), message = REFUSED[case]
    assert message in refused(command, cases / case, *flags)
    if command == "slim":
        assert not Path("slim").exists()


def test_a_pointer_of_git_lfs_is_no_weights(cases: Path) -> None:
    line = refused("info", DEMO, "--weights", cases / "broken/lfs-pointer.weights")
    assert "are no Darknet weights but a Git LFS pointer" in line


def test_trust_does_not_help_where_the_package_is_missing(cases: Path) -> None:
    line = refused("info", cases / "broken/other-package.pt", "--trust")
    assert "yolov5nu.pt" in line


def test_a_recipe_runs_no_code_of_its_model(cases: Path) -> None:
    line = refused("run", cases / "code/recipe.yaml")
    assert "activation" in line or "train section" in line


@pytest.mark.parametrize("command", ["val", "train"])
def test_a_data_set_is_not_fetched_by_its_own_code(command: str, cases: Path) -> None:
    flags = ("--epochs", 1, "--imgsz", 32, "-o", "out") if command == "train" else ()
    line = refused(command, DEMO, "--data", cases / "code/download/data.yaml", *flags)
    assert "missing/images does not exist" in line


def one_class() -> Path:
    """A cfg for the cases' pictures, which all show discs."""
    text = DEMO.read_text().replace("classes=3", "classes=1").replace("filters=24", "filters=18")
    Path("one.cfg").write_text(text)
    return Path("one.cfg")


def trained_on(model: Path, data: Path) -> Any:
    return run(
        *("train", model, "--scratch", "--data", data, "--epochs", 1, "--imgsz", 32, "--batch", 2),
        *("--set", "workers=0", "--set", "plots=false", "-o", "out", "--device", "cpu"),
    )


def test_a_foreign_label_cache_is_neither_read_nor_written(cases: Path) -> None:
    cache = cases / "code/cache/train/labels.cache"
    before = cache.read_bytes()
    done = trained_on(one_class(), cases / "code/cache/data.yaml")
    assert done.exit_code == 0, (done.stdout, done.stderr, done.exception)
    assert cache.read_bytes() == before


def test_dates_and_aliases_in_a_data_yaml(cases: Path) -> None:
    line = refused("val", DEMO, "--data", cases / "broken/date.yaml")
    assert "date.yaml:4: is no YAML ('2001-99-99' is no timestamp)" in line
    line = refused("val", DEMO, "--data", cases / "costly/aliases.yaml")
    assert "stands for more than" in line


def test_a_picture_of_two_thousand_million_pixels(cases: Path) -> None:
    line = refused("predict", DEMO, cases / "costly/many-pixels.png")
    assert "many-pixels.png" in line and "pixels" in line


@pytest.mark.parametrize("data", ["users/roboflow", "users/one-bad-picture"])
def test_data_sets_of_users_are_read_alike_by_val_and_train(data: str, cases: Path) -> None:
    source = cases / data / "data.yaml"
    done = trained_on(one_class(), source)
    assert done.exit_code == 0, (done.stdout, done.stderr, done.exception)
    if "bad" in data:
        assert "1 of 3 pictures cannot be read and are left out" in done.stderr
    lists = {
        split: Path("out/data-handed-over", f"{split}.txt").read_text()
        for split in ("train", "val")
    }
    assert {split: text.count("\n") for split, text in lists.items()} == {"train": 2, "val": 2}
    done = run("val", "out/weights/last.cfg", "--data", source, "--imgsz", 32)
    assert done.exit_code == 0, (done.stdout, done.stderr, done.exception)
    assert "2 pictures" in done.stdout


def test_export_calibrates_on_no_data_that_runs_code(cases: Path) -> None:
    data = cases / "code/download/data.yaml"
    line = refused("export", DEMO, "-o", "out", "--imgsz", 32, "--set", f"data={data}")
    assert "missing/images does not exist" in line
