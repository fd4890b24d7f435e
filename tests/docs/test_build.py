"""The pages build strictly and without a network, and ask for nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import yoloprune

FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]+?src=[\"']?(?:https?:)?//"
    r"|<link(?![^>]+rel=[\"']?canonical)[^>]+?href=[\"']?(?:https?:)?//"
)
"""What a browser would fetch by itself."""


@pytest.fixture(scope="module")
def site(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` does, with every way out shut."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    shut = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=repo,
        env={**os.environ, **shut, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not FETCHED.search(page.read_text()), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_every_command_and_every_public_name_has_its_place(site: Path) -> None:
    import typer.main

    from yoloprune.cli.main import app

    commands = (site / "reference/cli.html").read_text()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f'id="{name}"' in commands
        for option in command.params:
            if option.param_type_name == "option" and not option.hidden and option.name != "help":
                assert option.opts[0] in commands
    names = (site / "reference/python.html").read_text()
    for name in yoloprune.__all__:
        if not name.startswith("__"):
            home, _, attribute = yoloprune._HOMES[name].partition(":")
            assert f'id="yoloprune.{home}.{attribute or name}"' in names


def test_drawings_stand_in_the_page_and_results_beside_it(site: Path) -> None:
    assert "<svg" in (site / "concepts.html").read_text()
    measured = (site / "measured.html").read_text()
    linked = set(re.findall(r"(?:href|src)=\"?(results/[^\"\s>]+)", measured))
    assert len(linked) > 10
    for name in linked:
        assert (site / name).is_file()
