"""What is shipped: the wheel has everything that the package looks up by name."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import yoloprune

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
    assert (said["Name"], said["Version"]) == (project["name"], yoloprune.__version__)
    assert said["Requires-Python"] == ">=3.10"
    assert said["License-Expression"] == "AGPL-3.0-or-later"
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


def test_every_place_that_says_the_version_says_the_same(repo: Path) -> None:
    cited = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert cited["version"] == yoloprune.__version__
    said = f"## {yoloprune.__version__} ({cited['date-released']})\n"
    assert said in (repo / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_wheel_and_source_archive_pass_the_check_of_the_index(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    pytest.importorskip("twine")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(build, cwd=repo, check=True, capture_output=True)
    wheel, archive = sorted(tmp_path.iterdir(), key=lambda path: path.suffix != ".whl")
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(archive)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    wanted = ("docs/start.md", "mkdocs.yml", "SECURITY.md", "tests/test_packaging.py", "Makefile")
    assert set(wanted) <= names
    assert not [n for n in names if n.startswith((".venv", "site/", "benchmarks/runs"))]


@pytest.mark.slow
def test_a_fresh_environment_runs_the_installed_command(repo: Path, tmp_path: Path) -> None:
    """What yoloprune needs is lent from this environment: it is gigabytes."""
    pytest.importorskip("hatchling")
    place = tmp_path / "fresh"
    venv.create(place, with_pip=True)
    lent = Path(sysconfig.get_path("purelib"))
    (site,) = place.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(f"{lent}\n")
    python = place / "bin/python"
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", repo]
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words, said in (
        (["--version"], f"yoloprune {yoloprune.__version__}"),
        (["info", "yoloprune-demo.cfg"], str(site / "yoloprune/cfg/yoloprune-demo.cfg")[-40:]),
    ):
        done = subprocess.run(
            [place / "bin/yoloprune", *words],
            cwd=tmp_path,
            env={**environment, "COLUMNS": "300"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("asked", ["cpu", "index", ""])
def test_set_up_takes_torch_without_cuda_where_that_is_asked(repo: Path, asked: str) -> None:
    told = [f"TORCH={asked}"] if asked else []
    environment = {key: value for key, value in os.environ.items() if key != "TORCH"}
    done = subprocess.run(
        ["make", "-n", "-B", "setup", *told],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if "--index-url" in line]
    assert len(lines) == (asked == "cpu")
    assert all("whl/cpu" in line for line in lines)
    assert "install -e" in done.stdout
