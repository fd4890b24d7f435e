"""Detection data sets: an Ultralytics data YAML or a Darknet ``.data`` file → `Dataset`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yoloprune.errors import DataError
from yoloprune.measure.labels import LabelArray, empty_labels, label_path, read_labels

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".dib", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff"}
    | {".webp"}
)
SPLITS = ("train", "val", "test")

# The keys under which each split may stand, the usual one first.
_YAML_KEYS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
_DARKNET_KEYS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The pictures of one split and the objects that they show.

    Attributes:
        names: class names; a class id is an index into them.
        images: picture files, sorted where a folder was given, else in the list's order.
        labels: one float64 ``[n, 5]`` an image: class id, centre x, centre y, width, height as
            fractions of the image's size; ``[0, 5]`` for an image without a label file.
        source: the data file that was read.
        split: ``train``, ``val`` or ``test``.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[LabelArray, ...]
    source: Path
    split: str

    @property
    def instances(self) -> int:
        """Number of labelled objects in all images."""
        return sum(len(labels) for labels in self.labels)


def load_dataset(path: str | Path, *, split: str = "val") -> Dataset:
    """Read one split of a data set.

    Paths in a YAML are relative to its ``path:``, which is relative to the YAML's folder, else
    to the working folder, else to Ultralytics' data set folder. Paths in a ``.data`` file are
    relative to its folder, to the folder above (``data/obj.data`` says ``data/train.txt``), or
    to the working folder.

    Args:
        path: an Ultralytics data YAML, or a Darknet ``.data`` file.
        split: ``train``, ``val`` or ``test``; ``val`` is Darknet's ``valid``.

    Raises:
        DataError: a file is missing or malformed, images are missing, or none is labelled.
    """
    source = Path(path)
    if split not in SPLITS:
        raise DataError(f"split: unknown, got {split!r}, expected one of {', '.join(SPLITS)}.")
    suffix = source.suffix.lower()
    if suffix in {".yaml", ".yml"}:
        names, images = _read_yaml(source, split)
    elif suffix == ".data":
        names, images = _read_darknet(source, split)
    else:
        raise DataError(f"{source}: not a data set file, expected a .yaml or a Darknet .data.")
    return Dataset(
        names=names,
        images=images,
        labels=_read_all_labels(images, classes=len(names), source=source),
        source=source,
        split=split,
    )


def _read_yaml(source: Path, split: str) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    try:
        content = yaml.safe_load(_read_text(source))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        raise DataError(f"{source}{line}: not valid YAML: {problem}.") from exc
    if not isinstance(content, dict):
        raise DataError(f"{source}: expected a YAML mapping with val: and names:.")
    names = _yaml_names(content, source)
    key, value = _split_entry(content, _YAML_KEYS[split], source)
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str):
            raise DataError(f"{source}: {key}: expected a path or a list of paths, got {entry!r}.")
    roots = _yaml_roots(content, source)
    images = [
        image for entry in entries for image in _expand(entry, roots, where=f"{source}: {key}")
    ]
    return names, tuple(images)


def _yaml_roots(content: Mapping[str, Any], source: Path) -> tuple[Path, ...]:
    root = content.get("path")
    folder = source.parent
    if root is None:
        return (folder,)
    if not isinstance(root, str):
        raise DataError(f"{source}: path: expected a folder, got {root!r}.")
    # Imported here, since Ultralytics takes a second to load and few YAMLs need its folder.
    if Path(root).is_absolute() or (folder / root).exists() or Path(root).exists():
        return (folder / root, Path(root))
    from ultralytics.utils import DATASETS_DIR

    return (folder / root, Path(DATASETS_DIR) / root)


def _yaml_names(content: Mapping[str, Any], source: Path) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise DataError(f"{source}: nc: expected a positive integer, got {count!r}.")
    if names is None and count is not None:
        return tuple(f"class_{i}" for i in range(count))
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(
                f"{source}: names: expected ids 0 … {len(names) - 1} without a gap,"
                f" got {', '.join(map(str, names))}."
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{source}: names: expected a list or a mapping of names, got {names!r}.")
    if count is not None and count != len(names):
        raise DataError(f"{source}: nc says {count} classes, names has {len(names)}.")
    return tuple(str(name) for name in names)


def _read_darknet(source: Path, split: str) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    content: dict[str, str] = {}
    for number, line in enumerate(_read_text(source).splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise DataError(f"{source}:{number}: expected 'key = value', got {line!r}.")
        content[key.strip()] = value.strip()
    roots = (source.parent, source.parent.parent, Path())
    names = _darknet_names(content, roots, source)
    key, value = _split_entry(content, _DARKNET_KEYS[split], source)
    return names, tuple(_expand(value, roots, where=f"{source}: {key}"))


def _darknet_names(
    content: Mapping[str, str], roots: Sequence[Path], source: Path
) -> tuple[str, ...]:
    count = content.get("classes")
    if count is not None and (not count.isdecimal() or int(count) < 1):
        raise DataError(f"{source}: classes: expected a positive integer, got {count!r}.")
    if "names" not in content:
        if count is None:
            raise DataError(f"{source}: has neither names nor classes.")
        return tuple(f"class_{i}" for i in range(int(count)))
    path = _find(content["names"], roots, where=f"{source}: names")
    names = tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())
    if not names:
        raise DataError(f"{path}: holds no class name.")
    if count is not None and int(count) != len(names):
        raise DataError(f"{source}: classes says {count}, {path} has {len(names)} names.")
    return names


def _split_entry(content: Mapping[str, Any], keys: Sequence[str], source: Path) -> tuple[str, Any]:
    for key in keys:
        if content.get(key):
            return key, content[key]
    raise DataError(f"{source}: has no {keys[0]}: entry, got {', '.join(map(str, content))}.")


def _expand(entry: str, roots: Sequence[Path], *, where: str) -> list[Path]:
    """One folder or one ``.txt`` list → the images that it names."""
    path = _find(entry, roots, where=f"{where}: 0 images found")
    if path.is_dir():
        images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise DataError(f"{where}: 0 images found in {path}.")
        return images
    if path.suffix.lower() == ".txt":
        return _read_list(path, roots)
    raise DataError(f"{where}: expected a folder or a .txt list of images, got {path}.")


def _read_list(path: Path, roots: Sequence[Path]) -> list[Path]:
    """Read a list of images, one path a line, relative to the list's folder or the roots."""
    images, missing = [], []
    bases = (path.parent, *roots, Path())
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        image = next((b / line.strip() for b in bases if (b / line.strip()).is_file()), None)
        if image is None:
            missing.append((number, line.strip()))
        else:
            images.append(image)
    if missing:
        number, name = missing[0]
        raise DataError(
            f"{path}:{number}: image {name} does not exist"
            f" ({len(images)} found, {len(missing)} missing of {len(images) + len(missing)})."
        )
    if not images:
        raise DataError(f"{path}: lists 0 images.")
    return images


def _find(entry: str, roots: Iterable[Path], *, where: str) -> Path:
    tried = list(dict.fromkeys(root / entry for root in roots))
    for path in tried:
        if path.exists():
            return path
    places = ", ".join(str(path.absolute()) for path in tried)
    raise DataError(f"{where}: {entry} does not exist. Looked at {places}.")


def _read_all_labels(
    images: Sequence[Path], *, classes: int, source: Path
) -> tuple[LabelArray, ...]:
    labels, labelled = [], 0
    for image in images:
        path = label_path(image)
        labels.append(empty_labels() if path is None else read_labels(path, classes=classes))
        labelled += path is not None
    if not labelled:
        raise DataError(
            f"{source}: none of {len(images)} images has a label file. For {images[0]} expected a"
            " .txt beside it, or under labels/ in place of images/."
        )
    return tuple(labels)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise DataError(f"{path}: no such file.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read as text: {exc}.") from exc
