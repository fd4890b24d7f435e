"""What is shipped: the wheel has everything that the package looks up by name."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

SHIPPED_WEIGHTS_LIMIT = 8 * 2**20


@pytest.fixture(scope="module")
def project(repo: Path) -> dict[str, object]:
    return dict(tomllib.loads((repo / "pyproject.toml").read_text())["project"])


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built offline by the backend that pyproject.toml names."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(repo)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_console_script_exists(project: dict[str, dict[str, str]]) -> None:
    module, function = project["scripts"]["yoloprune"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_licence_is_whole(repo: Path) -> None:
    text = (repo / "LICENSE").read_text()
    assert "GNU AFFERO GENERAL PUBLIC LICENSE\n                       Version 3" in text
    assert "13. Remote Network Interaction" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_shipped_weights_are_small_and_of_shipped_cfgs(repo: Path) -> None:
    weights = list((repo / "weights").glob("*.weights"))
    assert sum(p.stat().st_size for p in weights) <= SHIPPED_WEIGHTS_LIMIT
    for path in weights:
        assert (repo / "cfg" / f"{path.stem.removesuffix('-dense')}.cfg").is_file()


def test_the_wheel_holds_every_cfg_and_weights_file(repo: Path, wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    shipped = [*(repo / "cfg").glob("*.cfg"), *(repo / "weights").glob("*.weights")]
    assert len(shipped) >= 7
    for path in shipped:
        inside = f"yoloprune/{path.parent.name}/{path.name}"
        assert inside in names
        assert wheel.read(inside) == path.read_bytes()
    assert {f"yoloprune/{p.name}" for p in (repo / "yoloprune").glob("*.py")} <= names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/")) or "__pycache__" in n]


def test_the_wheel_says_who_it_is(wheel: zipfile.ZipFile, project: dict[str, str]) -> None:
    (metadata,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    said = Parser().parsestr(wheel.read(metadata).decode())
    assert (said["Name"], said["Version"]) == (project["name"], project["version"])
    assert said["Requires-Python"] == ">=3.10"
    assert any(n.endswith("licenses/LICENSE") for n in wheel.namelist())


def test_an_installed_wheel_finds_its_cfgs(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    wheel.extractall(installed)
    elsewhere.mkdir()
    script = "from yoloprune.darknet.zoo import find_cfg; print(find_cfg('yolov4-tiny.cfg'))"
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert Path(found) == installed / "yoloprune" / "cfg" / "yolov4-tiny.cfg"
