"""What Ultralytics is handed of a data set: a copy that was read here, and no more.

Stock Ultralytics runs what stands behind ``download:`` of a data YAML, unpickles the
``labels.cache`` that lies beside the pictures and writes one there, reads ``.npy`` files in place
of pictures, rewrites damaged JPEGs in place, and fetches fonts and networks. Here it gets lists of
the very pictures that every other command uses, and none of these.

Reference: Ultralytics 8.4.190, ``data/utils.py`` ``check_det_dataset``, ``check_image``;
``data/dataset.py`` ``_load_or_scan_cache``; ``data/base.py`` ``load_image``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from yoloprune.errors import DataError
from yoloprune.files import write_bytes
from yoloprune.measure.data import readable
from yoloprune.measure.labels import label_path
from yoloprune.measure.resolve import SPLITS, describe


def handed_over(data: str | Path, folder: Path, *, task: str = "detect") -> Path:
    """Write a data set's description for Ultralytics.

    Args:
        data: as :func:`yoloprune.measure.resolve.describe` takes it; for ``classify`` the folder
            with ``train`` and ``val`` in it.
        folder: where ``data.yaml`` and a list of pictures a split go.
        task: Ultralytics' word for it.

    Returns:
        What to hand Ultralytics as ``data``: absolute, without anything to run or to fetch.

    Raises:
        DataError: it is missing or malformed, or train or val has no picture.
    """
    if task == "classify":
        return _class_folders(Path(data))
    description = describe(data)
    content: dict[str, Any] = {}
    for split in SPLITS:
        if split == "test" and not description.entries.get(split):
            continue
        images, _ = readable(description.images(split), description.source)
        content[split] = _list(images, folder / f"{split}.txt")
    names = dict(enumerate(description.names))
    return _write({**content, **description.extra}, names, description.source, folder)


def pictures_handed_over(
    pictures: Sequence[Path],
    names: Mapping[int, str],
    folder: Path,
    *,
    source: str,
    data: str | Path | None = None,
) -> Path:
    """Write the description of pictures whose labels nobody reads, for Ultralytics.

    Args:
        pictures: that can be decoded.
        names: of the model's classes.
        folder: where ``data.yaml`` and a list of pictures a split go.
        source: of the pictures, for people.
        data: whose validation split is measured, with its labels; None measures nothing.

    Returns:
        What to hand Ultralytics as ``data``. Ultralytics wants a validation split in any case:
        where nothing is measured, one picture without labels stands in for it.

    Raises:
        DataError: the data set is missing or malformed, or is of other classes.
    """
    content: dict[str, Any] = {"train": _list(pictures, folder / "train.txt")}
    unlabelled = [folder / "train.txt"]
    if data is None:
        content["val"] = _list(pictures[:1], folder / "val.txt")
        unlabelled.append(folder / "val.txt")
    else:
        description = describe(data)
        _check_names(description.names, names, description.source)
        images, _ = readable(description.images("val"), description.source)
        content["val"] = _list(images, folder / "val.txt")
    content[_UNLABELLED] = [str(path.resolve()) for path in unlabelled]
    return _write(content, names, source, folder)


def labelled(data: Mapping[str, Any], split: str) -> bool:
    """Whether a split of a data set, as Ultralytics read what it was handed, has labels."""
    return data.get(split) not in data.get(_UNLABELLED, ())


_UNLABELLED = "lists_without_labels"
"""Key of a handed data YAML: the lists of pictures beside which no label is looked for."""


def _check_names(ours: Sequence[str], names: Mapping[int, str], source: Path) -> None:
    """Make sure that labels speak of a model's classes.

    Raises:
        DataError: they are others, or in another order.
    """
    theirs = tuple(str(names[key]) for key in sorted(names))
    if len(ours) != len(theirs) or (ours != theirs and sorted(ours) == sorted(theirs)):
        differ = f"{len(ours)} classes" if len(ours) != len(theirs) else "them in another order"
        raise DataError(
            f"{source}: expected the model's {len(theirs)} classes, got {differ}. Without labels "
            "classes are the teacher's. Leave --data out, or give a data set of these."
        )


def _list(images: Sequence[Path], path: Path) -> str:
    """Write a list of pictures; gives its name."""
    write_bytes(path, "".join(f"{image.absolute()}\n" for image in images).encode())
    return path.name


def take_back(folder: Path) -> None:
    """Remove what was handed over there, and the folder where nothing else is in it."""
    for name in ("data.yaml", *(f"{split}.txt" for split in SPLITS)):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or something of the user's is in it
        folder.rmdir()


def _write(
    content: Mapping[str, Any], names: Mapping[int, str], source: str | Path, folder: Path
) -> Path:
    """Write a description whose lists lie beside it; gives its path."""
    import yaml

    whole = {"path": str(folder.resolve()), **content, "nc": len(names), "names": dict(names)}
    text = f"# what Ultralytics is handed of {source}\n"
    text += yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    write_bytes(folder / "data.yaml", text.encode())
    return folder / "data.yaml"


def _class_folders(folder: Path) -> Path:
    """The folder of a classification data set, which Ultralytics would fetch if it were missing."""
    for split in ("train", "val"):
        if not (folder / split).is_dir():
            raise DataError(
                f"{folder}: has no folder {split}, expected a folder of pictures a class in it."
            )
    return folder.absolute()


@contextmanager
def only_what_was_handed() -> Iterator[None]:
    """Keep Ultralytics from reading and writing beside the pictures, and from fetching."""
    from ultralytics.data import base, dataset
    from ultralytics.data import utils as data_utils
    from ultralytics.utils import checks, downloads

    stock_init = base.BaseDataset.__init__

    def begin(self: Any, *args: Any, **options: Any) -> None:
        if options.get("cache") == "disk":
            raise DataError("cache=disk: would write beside your pictures. Use cache=ram.")
        stock_init(self, *args, **options)
        self.npy_files = [Path(f"{name}.not-used.npy") for name in self.im_files]

    changes: tuple[tuple[Any, str, Any], ...] = (
        (base.BaseDataset, "__init__", begin),
        (dataset.YOLODataset, "get_labels", _or_no_labels(dataset.YOLODataset.get_labels)),
        (dataset, "load_dataset_cache_file", _no_cache),
        (dataset, "save_dataset_cache_file", _versioned),
        (dataset, "img2label_paths", _label_paths),
        (data_utils, "_replace_image", _left_alone),
        (data_utils, "safe_download", _offline),
        (downloads, "safe_download", _offline),
        (downloads, "is_url", _is_no_url),
        (checks, "AUTOINSTALL", False),
    )
    stock = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in stock:
            setattr(owner, name, value)


def _no_cache(path: Path) -> dict[str, Any]:
    raise FileNotFoundError(path)


def _versioned(prefix: str, path: Path, x: dict[str, Any], version: str) -> None:
    """What is left of saving a cache: its caller reads the version back."""
    x["version"] = version


def _label_paths(
    images: Sequence[str | Path], label_dir: str = "labels", suffix: str = ".txt"
) -> list[str]:
    """The label files that :func:`yoloprune.measure.labels.label_path` finds; masks as stock."""
    if (label_dir, suffix) != ("labels", ".txt"):
        from ultralytics.data.utils import img2label_paths

        return img2label_paths(list(images), label_dir, suffix)
    return [str(label_path(Path(image)) or Path(image).with_suffix(".txt")) for image in images]


def _or_no_labels(stock: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
    """Labels as stock reads them, but none for pictures that were handed over without.

    Stock would look for label files, and refuse to train where there is none.
    """
    from ultralytics.data.utils import verify_image_label

    def labels(self: Any) -> list[Any]:
        if self.img_path not in self.data.get(_UNLABELLED, ()):
            return stock(self)

        def empty(image: str) -> Any:
            no_file = ""
            seen = verify_image_label((image, no_file, self.prefix, False, 1, 0, 0, False))
            return self.result_to_label(seen)[0]

        with ThreadPoolExecutor(8) as pool:
            found = [label for label in pool.map(empty, self.im_files) if label is not None]
        if not found:
            raise RuntimeError(f"none of the {len(self.im_files)} pictures can be trained on")
        self.im_files = [label["im_file"] for label in found]
        return found

    return labels


def _left_alone(image: str | Path, write: Any) -> None:
    """A damaged picture of the user's is read as it is."""


def _offline(*_: Any, **__: Any) -> None:
    raise ConnectionError("yoloprune lets Ultralytics fetch nothing")


def _is_no_url(*_: Any, **__: Any) -> bool:
    return False
