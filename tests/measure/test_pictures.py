"""Pictures by folder, pattern, list and data set; no label is asked for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from yoloprune.errors import DataError
from yoloprune.measure.pictures import find_pictures, load_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(6):
        path = tmp_path / "shots" / ("deep" if i > 3 else ".") / f"p{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (40, 20, 3), dtype=np.uint8))
    (tmp_path / "shots/notes.md").write_text("none")
    (tmp_path / "d.yaml").write_text("train: shots\nval: shots\nnames: [a]\n")
    return tmp_path


def names(found: tuple[Path, ...]) -> list[str]:
    return sorted(path.name for path in found)


@pytest.mark.parametrize(
    ("spec", "count"),
    [("shots", 6), ("shots/*.png", 4), ("shots/**/p[45].png", 2), ("shots/p1.png", 1),
     ("d.yaml", 6), ("list.txt", 2)],
)  # fmt: skip
def test_a_text_names_pictures(spec: str, count: int, folder: Path) -> None:
    (folder / "list.txt").write_text("shots/p0.png\nshots/p1.png\n")
    assert len(names(find_pictures(folder / spec))) == count


@pytest.mark.parametrize(
    ("spec", "message"),
    [("shots/*.jpg", "no picture fits this pattern"), ("none", "none"),
     ("gone/x.png", "no such folder, list or picture"), ("empty", "0 images found")],
)  # fmt: skip
def test_what_names_none_is_refused(spec: str, message: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_pictures(folder / spec)


def test_pictures_are_fitted_as_the_network_is_used_to(folder: Path) -> None:
    wide = nn.Module()
    wide.letterbox = False
    kept, stretched = (
        load_pictures(model, folder / "shots", 32).images for model in (nn.Module(), wide)
    )
    assert kept.shape == stretched.shape == (6, 3, 32, 32) and kept.dtype == torch.uint8
    assert (kept[..., :8] == 114).all() and (kept[..., 24:] == 114).all()
    assert not (stretched[..., :8] == 114).all()


def test_a_sample_is_the_same_for_the_same_seed(folder: Path) -> None:
    def files(seed: int) -> list[str]:
        return names(load_pictures(nn.Module(), folder / "shots", 32, count=3, seed=seed).files)

    assert files(0) == files(0) and len(files(0)) == 3
    assert len({tuple(files(seed)) for seed in range(6)}) > 1


def test_damaged_and_flat_pictures_are_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "shots/p0.png").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "shots/p1.png"), np.full((20, 20, 3), 7, dtype=np.uint8))
    found = load_pictures(nn.Module(), folder / "shots", 20)
    assert names(found.files) == ["p2.png", "p3.png", "p4.png", "p5.png"]
    assert "1 of 6 pictures cannot be read" in caplog.text
    cv2.imwrite(str(folder / "shots/p1.png"), np.full((32, 32, 3), 7, dtype=np.uint8))
    with pytest.raises(DataError, match="all 1 pictures are of one colour"):
        load_pictures(nn.Module(), folder / "shots/p1.png", 32)
