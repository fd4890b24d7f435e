"""What predict looks at: each picture and video once, in order, and what names nothing is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from yoloprune.measure.sources import find_sources, is_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "deep/c.webp", "deep/d.MP4", "notes.md", "odd.bin"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def found(*specs: object) -> tuple[list[str], list[str]]:
    errors: list[str] = []
    paths = find_sources(map(str, specs), lambda error: errors.append(str(error)))
    return [path.name for path in paths], errors


def test_a_folder_and_those_in_it(folder: Path) -> None:
    assert found(folder) == (["a.PNG", "b.jpg", "c.webp", "d.MP4"], [])


def test_patterns(folder: Path) -> None:
    assert found(folder / "*.jpg") == (["b.jpg"], [])
    assert found(folder / "**" / "*") == (["a.PNG", "b.jpg", "c.webp", "d.MP4"], [])


def test_files_come_as_they_are_named_and_once(folder: Path) -> None:
    named = (folder / "odd.bin", folder / "b.jpg", folder, folder / "b.jpg")
    assert found(*named)[0] == ["odd.bin", "b.jpg", "a.PNG", "c.webp", "d.MP4"]


def test_lists_and_data_sets(folder: Path) -> None:
    (folder / "list.txt").write_text("b.jpg\ndeep/c.webp\n")
    assert found(folder / "list.txt")[0] == ["b.jpg", "c.webp"]
    (folder / "data.yaml").write_text("train: deep\nval: list.txt\nnames: [x]\n")
    assert found(folder / "data.yaml")[0] == ["b.jpg", "c.webp"]


def test_what_names_nothing_is_told_and_the_rest_found(folder: Path) -> None:
    (folder / "empty").mkdir()
    names, errors = found(
        folder / "none.jpg",
        folder / "*.gif",
        folder / "empty",
        folder / "nowhere",
        folder / "b.jpg",
    )
    assert names == ["b.jpg"]
    assert [error.partition(f"{folder}/")[2] for error in errors] == [
        "none.jpg: no such file.",
        "*.gif: no picture and no video fits this pattern.",
        "empty: no picture and no video in this folder.",
        "nowhere: no such folder, list or picture.",
    ]


def test_a_name_with_marks_that_is_there_is_a_file(folder: Path) -> None:
    (folder / "x[1].jpg").touch()
    assert found(folder / "x[1].jpg") == (["x[1].jpg"], [])


def test_videos_are_known_by_their_names() -> None:
    assert is_video(Path("a.MOV")) and not is_video(Path("a.jpg"))
