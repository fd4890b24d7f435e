"""Every command of README and docs: its flags exist, and, slowly, it runs.

Amounts of time are cut down (epochs, steps, searches, sizes of pictures), nothing else is changed.
A page runs in a folder of its own, block after block, as a reader would. Blocks that need a network
and pictures of the reader's own get those of the shared folder, and are left out without it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from docs_reading import Block, blocks, pages
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.models.door import load, save

REPO = Path(__file__).parents[2]
PAGES = [p for p in pages(REPO) if any(b.kind in ("console", "python") for b in blocks(p))]
SHORTER = (
    (r"--epochs \d+", "--epochs 1"),
    (r"--steps \d+", "--steps 2"),
    (r"--search \w+", "--search 1s"),
    (r"--imgsz \d+", "--imgsz 96"),
    (r"(--calib \S+)", r"\1 --calib-images 8"),
    (r"^(yoloprune sensitivity .*)", r"\1 --shares 0.5"),
    (r"--rounds \d+", "--rounds 1"),
    (r"^(yoloprune bench .*)", r"\1 --repeats 1"),
    (r"\bepochs(\"?[:=] *)\d+", r"epochs\g<1>1"),
    (r"\bimgsz(\"?[:=] *)\d+", r"imgsz\g<1>96"),
    (r"\brounds: \d+", "rounds: 1"),
    (r"\brepeats=[1-9]\d*", "repeats=1"),
)
"""What takes long → what takes seconds and does the same."""
OURS = "yoloprune "


def shorter(text: str) -> str:
    for long, short in SHORTER:
        text = re.sub(long, short, text, flags=re.MULTILINE)
    return text


def told() -> list[tuple[str, str]]:
    """Every command of ours, with its page and line."""
    return [
        (f"{page.relative_to(REPO)}:{block.line}", command)
        for page in PAGES
        for block in blocks(page)
        if block.kind == "console"
        for command in block.commands
        if command.startswith(OURS)
    ]


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


@pytest.mark.parametrize(("where", "command"), told(), ids=[where for where, _ in told()])
def test_commands_and_flags_exist(where: str, command: str, commands: dict[str, Any]) -> None:
    _, name, *rest = shlex.split(command)
    if name.startswith("-"):
        return
    assert name in commands, where
    known = {flag for p in commands[name].params for flag in (*p.opts, *p.secondary_opts)}
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert given <= {*known, "--help", "-h"}, where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_other_commands_are_those_of_the_makefile_or_say_why_not(page: Path) -> None:
    makefile = (REPO / "Makefile").read_text()
    for block in blocks(page):
        for command in block.commands if block.kind == "console" else []:
            words = command.split()
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), command
            elif words[0] != "yoloprune":
                assert block.mark, f"{page.name}:{block.line}: {command}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("YOLOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # a reader's own criterion
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]


def lend(folder: Path, shared: Path) -> None:
    """A network, its pictures and its data set, as a reader has them, small enough for a test."""
    for split, wanted in (("train", 50), ("val", 8)):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            place = folder / "mine" / kind / split
            place.mkdir(parents=True)
            for path in sorted((shared / "data/bccd" / kind / split).glob(f"*.{suffix}"))[:wanted]:
                shutil.copy(path, place)
    (folder / "mine.yaml").write_text(
        "path: mine\ntrain: images/train\nval: images/val\nnames: {0: RBC, 1: WBC, 2: Platelets}\n"
    )
    (folder / "pictures").mkdir()
    for path in sorted((folder / "mine/images/train").iterdir())[:16]:
        shutil.copy(path, folder / "pictures")
    model: Any = load(shared / "weights/yolov8n-bccd.pt")[0]
    model.args = {**vars_of(model.args), "imgsz": 96}
    save(model, folder / "mine")
    model, _ = load("yoloprune-demo.cfg", REPO / "weights/yoloprune-demo-dense.weights")
    save(model, folder / "mine.cfg")


def vars_of(args: Any) -> dict[str, Any]:
    return dict(args) if isinstance(args, dict) else dict(vars(args))


def carry_out(block: Block, where: str, names: dict[str, Any] | None = None) -> None:
    """Do what a block says, in the current folder; its Python shares ``names`` with others."""
    if block.title:
        Path(block.title).write_text(shorter(block.text))
    elif block.kind == "python":
        names = {"__name__": "__main__"} if names is None else names
        exec(compile(shorter(block.text), where, "exec"), names)
    for command in block.commands if block.kind == "console" else []:
        if command.startswith(OURS):
            words = shlex.split(shorter(command))[1:]
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, f"{where}: {command}\n{done.output[-3000:]}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ultralytics and of exporters, which readers see, too
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page: Path, here: Path, request: Any) -> None:
    lent = False
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.mark in ("needs", "not run"):
            continue
        if block.mark == "data" and not lent:
            lend(here, request.getfixturevalue("shared"))
            lent = True
        carry_out(block, f"{page.name}:{block.line}", names)


@pytest.mark.slow
def test_the_demo_tells_its_story(repo: Path, tmp_path: Path) -> None:
    """As `make demo` does, with one epoch each and no search."""
    script = [sys.executable, str(repo / "benchmarks/demo.py"), "--epochs", "1", "--search", "0"]
    done = subprocess.run(
        [*script, "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(repo), "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = ("full size", "the cut alone", "cut and repaired", "made sparse", "cut again")
    for row in (*rows, "fine-tuned"):
        assert f"│ {row}" in done.stdout
    assert re.search(r"\d times fewer parameters, .* as fast; AP 0\.\d+ → 0\.\d+", done.stdout)
    for name in ("before-after.png", "recipe/result.cfg", "cut/yoloprune-demo-slim-report.html"):
        assert (tmp_path / name).is_file()
