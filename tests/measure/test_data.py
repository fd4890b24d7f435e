"""Data set descriptions of both families → the same `Dataset`; and their faults, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from yoloprune.errors import DataError
from yoloprune.measure.data import load_dataset

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((16, 16, 3), np.uint8))


@pytest.fixture
def pictures(write: Write, tmp_path: Path) -> None:
    """Two folders of two pictures; only the labels are ever looked into here."""
    for split in ("a", "b"):
        for number in (1, 2):
            picture(tmp_path / f"images/{split}/{number}.jpg")
            write(f"labels/{split}/{number}.txt", f"{number - 1} 0.5 0.5 0.1 0.{number}\n")


def names_of(images: tuple[Path, ...]) -> list[str]:
    return ["/".join(image.parts[-2:]) for image in images]


@pytest.mark.usefixtures("pictures")
class TestYaml:
    def test_folder(self, write: Write) -> None:
        path = write("d.yaml", "train: images/a\nval: images/b\nnames: {0: cat, 1: dog}\n")

        dataset = load_dataset(path)

        assert dataset.names == ("cat", "dog")
        assert names_of(dataset.images) == ["b/1.jpg", "b/2.jpg"]
        assert [labels.tolist() for labels in dataset.labels] == [
            [[0, 0.5, 0.5, 0.1, 0.1]],
            [[1, 0.5, 0.5, 0.1, 0.2]],
        ]
        assert dataset.instances == 2

    def test_other_split(self, write: Write) -> None:
        path = write("d.yaml", "train: images/a\nval: images/b\nnames: [cat, dog]\n")

        assert names_of(load_dataset(path, split="train").images) == ["a/1.jpg", "a/2.jpg"]

    def test_list_of_folders_below_path(self, write: Write) -> None:
        path = write("cfg/d.yaml", "path: ..\nval: [images/b, images/a]\nnames: [cat, dog]\n")

        images = load_dataset(path).images

        assert names_of(images) == ["b/1.jpg", "b/2.jpg", "a/1.jpg", "a/2.jpg"]

    def test_path_relative_to_the_working_folder(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write("elsewhere/d.yaml", "path: images\nval: a\nnames: [cat, dog]\n")
        monkeypatch.chdir(tmp_path)

        assert names_of(load_dataset(path).images) == ["a/1.jpg", "a/2.jpg"]

    def test_text_list(self, write: Write) -> None:
        write("lists/val.txt", "../images/a/2.jpg\n\n./../images/b/1.jpg\n")
        path = write("d.yaml", "val: lists/val.txt\nnames: [cat, dog]\n")

        assert names_of(load_dataset(path).images) == ["a/2.jpg", "b/1.jpg"]

    def test_an_image_without_labels_counts(self, write: Write, tmp_path: Path) -> None:
        picture(tmp_path / "images/a/3.png")
        path = write("d.yaml", "val: images/a\nnames: [cat, dog]\n")

        dataset = load_dataset(path)

        assert [len(labels) for labels in dataset.labels] == [1, 1, 0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("val: images/c\nnames: [a, b]", r"d\.yaml: val: 0 images found: images/c does not"),
            ("val: labels/a\nnames: [a, b]", r"d\.yaml: val: 0 images found in .*labels/a"),
            ("val: images/a/1.jpg\nnames: [a, b]", "expected a folder or a .txt list"),
            ("train: images/a\nnames: [a, b]", r"d\.yaml: has no val: entry, got train, names"),
            ("val: images/a", r"names: expected a list or a mapping of names, got None"),
            ("val: images/a\nnames: {0: a, 2: b}", "expected ids 0 … 1 without a gap, got 0, 2"),
            ("val: images/a\nnc: 3\nnames: [a, b]", "nc says 3 classes, names has 2"),
            ("val: images/a\nnames: [a]", r"labels/a/2\.txt:1: class id out of range, got 1"),
            ("val: 3\nnames: [a, b]", "val: expected a path or a list of paths, got 3"),
            ("val: images/a\nnames: [a, b", r"d\.yaml:2: is no YAML"),
            ("- a", "expected a YAML mapping"),
        ],
    )
    def test_faults(self, write: Write, text: str, message: str) -> None:
        path = write("d.yaml", text)

        with pytest.raises(DataError, match=message) as caught:
            load_dataset(path)
        assert "\n" not in str(caught.value)

    def test_missing_images_of_a_list_are_counted(self, write: Write) -> None:
        write("val.txt", "images/a/1.jpg\nimages/a/7.jpg\nimages/a/8.jpg\n")
        path = write("d.yaml", "val: val.txt\nnames: [cat, dog]\n")

        with pytest.raises(
            DataError, match=r"val\.txt:2: image images/a/7\.jpg .*1 found, 2 missing of 3"
        ):
            load_dataset(path)

    def test_a_set_without_any_label_file_is_refused(self, write: Write, tmp_path: Path) -> None:
        picture(tmp_path / "plain/1.jpg")
        path = write("d.yaml", "val: plain\nnames: [cat]\n")

        with pytest.raises(DataError, match="none of 1 images has a label file"):
            load_dataset(path)


class TestDarknet:
    @pytest.fixture
    def data(self, write: Write, tmp_path: Path) -> Path:
        picture(tmp_path / "data/obj/1.jpg")
        write("data/obj/1.txt", "1 0.5 0.5 0.2 0.2\n")
        write("data/valid.txt", "data/obj/1.jpg\n")
        write("data/obj.names", "cat\ndog\n")
        return write(
            "data/obj.data",
            "classes = 2\n# comment\ntrain= data/t.txt\nvalid =data/valid.txt\n"
            "names = data/obj.names\nbackup = backup/\n",
        )

    def test_paths_are_those_of_darknets_own_folder(self, data: Path) -> None:
        dataset = load_dataset(data)

        assert dataset.names == ("cat", "dog")
        assert names_of(dataset.images) == ["obj/1.jpg"]
        assert dataset.labels[0].tolist() == [[1, 0.5, 0.5, 0.2, 0.2]]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("classes = 2", "classes = 3", r"classes says 3, .*obj\.names has 2"),
            ("classes = 2", "classes = two", "classes: expected a positive integer, got 'two'"),
            ("# comment", "comment", r"obj\.data:2: expected 'key = value', got 'comment'"),
            ("valid =", "ignored =", "has no valid: entry"),
            ("# comment", "valid = x", r"obj\.data:\d: 'valid' stands twice"),
            ("obj.names", "no.names", r"names: data/no\.names does not exist"),
            ("valid.txt", "no.txt", r"valid: 0 images found: data/no\.txt does not exist"),
        ],
    )
    def test_faults(self, data: Path, old: str, new: str, message: str) -> None:
        data.write_text(data.read_text().replace(old, new))

        with pytest.raises(DataError, match=message):
            load_dataset(data)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a\n\nb\n", r"x\.names:2: is empty, and counts as a class"),
        ("\n \n", "holds no class name"),
    ],
)
def test_names_of_darknet_are_counted_by_lines(tmp_path: Path, names: str, message: str) -> None:
    (tmp_path / "x.data").write_text("classes = 2\nnames = x.names\nvalid = v.txt\n")
    (tmp_path / "x.names").write_text(names)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "x.data")


def test_other_files_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"expected a \.yaml or a Darknet \.data"):
        load_dataset(write("d.json", "{}"))
    with pytest.raises(DataError, match=r"none\.yaml: no such file"):
        load_dataset("none.yaml")
    with pytest.raises(DataError, match="split: unknown, got 'valid'"):
        load_dataset(write("d.yaml", ""), split="valid")


def test_shared_sets(shared: Path) -> None:
    bccd = load_dataset(shared / "data" / "bccd" / "bccd.yaml")
    coco = shared / "data" / "coco256" / "coco256.yaml"

    assert (len(bccd.images), len(bccd.names)) == (87, 3)
    assert [len(load_dataset(coco, split=split).images) for split in ("train", "val")] == [128, 128]


def test_an_error_about_keys_stays_a_line(tmp_path: Path) -> None:
    file = tmp_path / "case.data"
    file.write_text(f"{'[' * 3000} = 1\nnames = two.names\nclasses=2\n{'k' * 50} = 2\n")
    (tmp_path / "two.names").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"has no valid: entry") as raised:
        load_dataset(file)
    assert len(str(raised.value)) < 400 + len(str(file))
