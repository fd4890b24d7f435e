"""What Ultralytics is handed of a data set: the same pictures, nothing to run, nothing written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from yoloprune.errors import DataError
from yoloprune.measure import images
from yoloprune.measure.data import load_dataset
from yoloprune.measure.handover import handed_over, only_what_was_handed
from yoloprune.measure.resolve import FILES_VARIABLE, describe


def picture(path: Path, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    assert cv2.imwrite(str(path), noise)
    return path


def labelled(path: Path) -> None:
    picture(path)
    label = Path(str(path.with_suffix(".txt")).replace("/images/", "/labels/"))
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("0 0.5 0.5 0.4 0.4\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """``train/images`` and ``val/images`` with two pictures each, and their YAML."""
    for split in ("train", "val"):
        for number in (1, 2):
            labelled(tmp_path / f"set/{split}/images/{number}.png")
    path = tmp_path / "set/data.yaml"
    path.write_text("train: train/images\nval: val/images\nnames: {0: disc}\n")
    return path


def stock(path: Path) -> Any:
    """What Ultralytics reads of a data YAML."""
    from ultralytics.data.utils import check_det_dataset

    with only_what_was_handed():
        return check_det_dataset(str(path))


def stock_dataset(path: Path, split: str = "train") -> Any:
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset

    content = stock(path)
    with only_what_was_handed():
        return build_yolo_dataset(get_cfg(), content[split], 2, content, mode="val", stride=32)


def test_the_pictures_are_the_same(data: Path, tmp_path: Path) -> None:
    made = handed_over(data, tmp_path / "out")
    for split in ("train", "val"):
        ours = load_dataset(data, split=split)
        theirs = stock_dataset(made, split)
        assert [Path(f) for f in theirs.im_files] == [p.absolute() for p in ours.images]
        assert [label["bboxes"].tolist() for label in theirs.labels] == [
            pytest.approx(labels[:, 1:].astype(np.float32)) for labels in ours.labels
        ]


DOWNLOADS = {
    "python": "open('PWNED', 'w').close()",
    "python that imports": "import os\nos.system('touch PWNED')",
    "shell": "bash -c 'touch PWNED'",
    "address": "https://example.org/data.zip",
}


@pytest.mark.parametrize("kind", DOWNLOADS)
@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_download_is_never_run_nor_handed_on(
    kind: str, missing: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**content, "download": DOWNLOADS[kind]}))
    made = handed_over(data, tmp_path / "out")
    assert "download" not in yaml.safe_load(made.read_text())
    data.write_text(yaml.safe_dump({**content, missing: "gone", "download": DOWNLOADS[kind]}))
    with pytest.raises(DataError, match=f"{missing}: 0 images found: gone does not exist"):
        handed_over(data, tmp_path / "out2")
    assert not list(tmp_path.rglob("PWNED"))


class Hostile:
    def __reduce__(self) -> Any:
        return open, ("PWNED", "w")


@pytest.mark.parametrize(
    "place", ["train/labels.cache", "train/images.cache", "train/images/1.npy", "val/labels.cache"]
)
def test_what_lies_beside_the_pictures_is_not_read(
    place: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    np.save(buffer, np.array(Hostile(), dtype=object), allow_pickle=True)
    target = data.parent / place
    target.write_bytes(buffer.getvalue())
    before = {path: path.read_bytes() for path in data.parent.rglob("*") if path.is_file()}
    made = handed_over(data, tmp_path / "out")
    for split in ("train", "val"):
        dataset = stock_dataset(made, split)
        assert dataset.load_image(0)[0].shape[2] == 3
    assert {path: path.read_bytes() for path in data.parent.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "PWNED").exists()


def test_a_damaged_jpeg_is_not_rewritten(data: Path, tmp_path: Path) -> None:
    path = picture(data.parent / "train/images/3.jpg", (64, 64))
    damaged = path.read_bytes()[:-2]
    path.write_bytes(damaged)
    stock_dataset(handed_over(data, tmp_path / "out"))
    assert path.read_bytes() == damaged


def test_pictures_that_cannot_be_read_are_left_out_alike(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = data.parent / "train/images"
    (folder / "3.png").write_bytes(picture(tmp_path / "p.png").read_bytes()[:60])
    (folder / "4.jpg").write_bytes(b"")
    (folder / "5.bmp").write_text("<html>")
    picture(folder / "6.png", (6, 40))
    ours = load_dataset(data, split="train")
    assert [p.name for p in ours.images] == ["1.png", "2.png"]
    assert [p.name for p in ours.skipped] == ["3.png", "4.jpg", "5.bmp", "6.png"]
    assert "4 of 6 pictures cannot be read and are left out" in caplog.text
    theirs = stock_dataset(handed_over(data, tmp_path / "out"))
    assert [Path(f).name for f in theirs.im_files] == ["1.png", "2.png"]


def test_a_picture_is_decoded_once_a_process_while_it_is_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    real = images._problem
    monkeypatch.setattr(images, "_problem", lambda path: decoded.append(path) or real(path))
    load_dataset(data, split="train")
    handed_over(data, tmp_path / "out")
    assert sorted(p.parent.parent.name for p in decoded) == ["train"] * 2 + ["val"] * 2
    changed = picture(data.parent / "train/images/1.png", (30, 30))
    changed.write_bytes(changed.read_bytes()[:60])
    assert [p.name for p in load_dataset(data, split="train").skipped] == ["1.png"]
    assert len(decoded) == 5


def test_labels_beside_the_pictures_are_found_by_both(tmp_path: Path) -> None:
    for split in ("train", "val"):
        path = picture(tmp_path / f"images/{split}/1.png")
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    data = tmp_path / "d.yaml"
    data.write_text("train: images/train\nval: images/val\nnames: [disc]\n")
    assert load_dataset(data).instances == 1
    assert len(stock_dataset(handed_over(data, tmp_path / "out")).labels[0]["cls"]) == 1


def test_disk_caches_are_refused(data: Path, tmp_path: Path) -> None:
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset

    content = stock(handed_over(data, tmp_path / "out"))
    with only_what_was_handed(), pytest.raises(DataError, match="cache=disk"):
        build_yolo_dataset(get_cfg(overrides={"cache": "disk"}), content["train"], 2, content)


def test_ultralytics_fetches_nothing_and_is_as_it_was(data: Path) -> None:
    from ultralytics.data import dataset
    from ultralytics.utils import downloads

    before = downloads.safe_download, dataset.load_dataset_cache_file, dataset.img2label_paths
    with only_what_was_handed(), pytest.raises(ConnectionError):
        downloads.safe_download("https://example.org/x")
    assert before == (
        downloads.safe_download,
        dataset.load_dataset_cache_file,
        dataset.img2label_paths,
    )


class TestNames:
    """What names a data set."""

    def test_roboflow(self, data: Path) -> None:
        data.write_text("train: ../train/images\nval: ../val/images\nnames: ['disc']\n")
        assert len(describe(data).images("train")) == 2

    def test_the_parent_is_preferred_where_it_is_there(self, data: Path) -> None:
        labelled(data.parent.parent / "train/images/9.png")
        data.write_text("train: ../train/images\nval: val/images\nnames: ['disc']\n")
        assert [p.name for p in describe(data).images("train")] == ["9.png"]

    def test_a_folder_with_one_yaml(self, data: Path) -> None:
        assert describe(data.parent).source == data
        (data.parent / "other.yaml").write_text("a: 1")
        with pytest.raises(DataError, match="2 YAML files"):
            describe(data.parent)

    @pytest.mark.parametrize("name", ["coco8.yaml", "coco8"])
    def test_bare_names_of_ultralytics(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        found = describe(name)
        assert len(found.names) == 80
        with pytest.raises(DataError, match="coco8.* does not exist. Looked at"):
            found.images("val")
        labelled(tmp_path / "coco8/images/val/1.png")
        assert len(describe(name).images("val")) == 1

    def test_addresses_are_not_fetched(self) -> None:
        for name in ("https://example.org/d.yaml", "ul://me/datasets/x", "http:/a/b.zip"):
            with pytest.raises(DataError, match="addresses are not fetched"):
                describe(name)

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            ("{'0': a, '1': b}", ("a", "b")),
            ("[a, true, 3]", ("a", "True", "3")),
            ("{1: b, 0: a}", ("a", "b")),
        ],
    )
    def test_names_as_ultralytics_reads_them(
        self, names: str, expected: tuple[str, ...], tmp_path: Path
    ) -> None:
        path = tmp_path / "d.yaml"
        path.write_text(f"train: t\nval: v\nnames: {names}\n")
        assert describe(path).names == expected

    def test_nested_names_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "d.yaml"
        path.write_text("train: t\nval: v\nnames: [a, [b]]\n")
        with pytest.raises(DataError, match="expected a name a class, got \\['b'\\]"):
            describe(path)


def test_a_folder_of_other_things_is_refused_after_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / f"{number}.log").touch()
    picture(tmp_path / "1.png")
    path = tmp_path / "d.yaml"
    path.write_text("val: .\nnames: [a]\n")
    assert len(describe(path).images("val")) == 1
    monkeypatch.setenv(FILES_VARIABLE, "20")
    with pytest.raises(DataError, match=f"is it the right folder.*set {FILES_VARIABLE} above 20"):
        describe(path).images("val")
    monkeypatch.setattr("yoloprune.measure.resolve._LOOK", 10)
    monkeypatch.delenv(FILES_VARIABLE)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match="0 pictures among them"):
        describe(path).images("val")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    labelled(tmp_path / "images/1.png")
    (tmp_path / "images/again").symlink_to(tmp_path / "images")
    path = tmp_path / "d.yaml"
    path.write_text("val: images\nnames: [a]\n")
    assert len(describe(path).images("val")) == 1
