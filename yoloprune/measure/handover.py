"""What Ultralytics is handed of a data set: a copy that was read here, and no more.

Stock Ultralytics runs what stands behind ``download:`` of a data YAML, unpickles the
``labels.cache`` that lies beside the pictures and writes one there, reads ``.npy`` files in place
of pictures, rewrites damaged JPEGs in place, and fetches fonts and networks. Here it gets lists of
the very pictures that every other command uses, and none of these.

Reference: Ultralytics 8.4.190, ``data/utils.py`` ``check_det_dataset``, ``check_image``;
``data/dataset.py`` ``_load_or_scan_cache``; ``data/base.py`` ``load_image``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    import yaml

    if task == "classify":
        return _class_folders(Path(data))
    description = describe(data)
    content: dict[str, Any] = {"path": str(folder.resolve())}
    for split in SPLITS:
        if split == "test" and not description.entries.get(split):
            continue
        images, _ = readable(description.images(split), description.source)
        lines = "".join(f"{image.absolute()}\n" for image in images)
        write_bytes(folder / f"{split}.txt", lines.encode())
        content[split] = f"{split}.txt"
    content["nc"] = len(description.names)
    content["names"] = dict(enumerate(description.names))
    content |= description.extra
    text = f"# what Ultralytics is handed of {description.source}\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
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


def _left_alone(image: str | Path, write: Any) -> None:
    """A damaged picture of the user's is read as it is."""


def _offline(*_: Any, **__: Any) -> None:
    raise ConnectionError("yoloprune lets Ultralytics fetch nothing")


def _is_no_url(*_: Any, **__: Any) -> bool:
    return False
