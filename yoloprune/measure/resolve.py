"""Where the pictures of a data set lie: one resolver for every command, and for training.

A data set is an Ultralytics data YAML (or its bare name, or the folder that it lies in), or a
Darknet ``.data`` file. Both are data: nothing in them is run, and nothing is fetched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoloprune.errors import DataError
from yoloprune.limits import count_from
from yoloprune.texts import cut, read_text, read_yaml

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
"""What Ultralytics trains on and OpenCV reads."""
SPLITS = ("train", "val", "test")

FILES_VARIABLE = "YOLOPRUNE_MAX_FILES"
"""Environment variable: files that are looked at in one folder."""
MAX_FILES = 5_000_000
_LOOK = 200_000
"""After so many files, a folder without one picture in a hundred is taken for the wrong one."""

# The keys under which each split may stand, the usual one first.
_YAML_KEYS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
_DARKNET_KEYS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a data file says.

    Attributes:
        source: the file.
        names: class names.
        entries: split → folders and lists, as written.
        keys: split → the key that they stand under, for people.
        roots: folders that they are relative to.
        stated: every key that it has.
        extra: what else it says of the labels: ``kpt_shape`` and the like.
    """

    source: Path
    names: tuple[str, ...]
    entries: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, str]
    roots: tuple[Path, ...]
    stated: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def images(self, split: str) -> tuple[Path, ...]:
        """The picture files of a split: sorted in a folder, in the order of a list.

        Raises:
            DataError: there is no such split, or its pictures are missing.
        """
        check_split(split)
        if not self.entries.get(split):
            key = (_DARKNET_KEYS if self.source.suffix == ".data" else _YAML_KEYS)[split][0]
            raise DataError(f"{self.source}: has no {key}: entry, got {_shown_list(self.stated)}.")
        where = f"{self.source}: {self.keys[split]}"
        found = [p for entry in self.entries[split] for p in expand(entry, self.roots, where)]
        return tuple(dict.fromkeys(found))


def check_split(split: str) -> None:
    """Refuse a split of another name.

    Raises:
        DataError: it is none of :data:`SPLITS`.
    """
    if split not in SPLITS:
        raise DataError(f"split: unknown, got {split!r}, expected one of {', '.join(SPLITS)}.")


def describe(path: str | Path) -> Description:
    """Read a data file.

    Paths in a YAML are relative to its ``path:``, which is relative to the YAML's folder, else
    to the working folder, else to Ultralytics' data set folder; ``../train`` may mean ``train``,
    as Roboflow writes it and Ultralytics reads it. Paths in a ``.data`` file are relative to its
    folder, to the folder above (``data/obj.data`` says ``data/train.txt``), or to the working
    folder.

    Args:
        path: an Ultralytics data YAML, the bare name of one that Ultralytics ships
            (``coco8.yaml``, ``coco8``), the folder of one, or a Darknet ``.data`` file.

    Raises:
        DataError: it is missing or malformed.
    """
    source = _source(Path(path))
    if source.suffix.lower() in {".yaml", ".yml"}:
        return _described_by_yaml(source)
    if source.suffix.lower() == ".data":
        return _described_by_darknet(source)
    raise DataError(f"{source}: not a data set file, expected a .yaml or a Darknet .data.")


def _source(path: Path) -> Path:
    """The file that a path or a bare name stands for."""
    if path.is_file():
        return path
    if "://" in str(path) or re.match(r"\w+:/[^/]", str(path)):
        raise DataError(f"{path}: addresses are not fetched. Fetch it, and name the file.")
    inside: list[Path] = []
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in {".yaml", ".yml"})
        if len(inside) == 1:
            return inside[0]
    if path.name == str(path) and re.fullmatch(r"[\w.-]+", path.name):
        import ultralytics

        shipped = Path(ultralytics.__file__).parent / "cfg" / "datasets"
        for name in (path.name, f"{path.name}.yaml"):
            if name.endswith((".yaml", ".yml")) and (shipped / name).is_file():
                return shipped / name
    if path.is_dir():
        raise DataError(f"{path}: is a folder with {len(inside)} YAML files, expected one.")
    return path


def _described_by_yaml(source: Path) -> Description:
    content = read_yaml(source, DataError).value
    if not isinstance(content, dict):
        raise DataError(f"{source}: expected a YAML mapping with val: and names:.")
    names = _yaml_names(content, source)
    entries, keys = {}, {}
    for split in SPLITS:
        key = next((k for k in _YAML_KEYS[split] if content.get(k)), None)
        if key is None:
            continue
        value = content[key] if isinstance(content[key], list) else [content[key]]
        for entry in value:
            if not isinstance(entry, str):
                raise DataError(
                    f"{source}: {key}: expected a path or a list of paths, got {_shown(entry)}."
                )
        entries[split], keys[split] = tuple(value), key
    extra = {key: content[key] for key in _EXTRA if content.get(key) is not None}
    return Description(
        source=source,
        names=names,
        entries=entries,
        keys=keys,
        roots=_yaml_roots(content, source),
        stated=tuple(map(str, content)),
        extra=extra,
    )


_EXTRA = ("kpt_shape", "flip_idx", "kpt_names", "channels", "masks_dir", "label_mapping")
"""What a data YAML may say of its labels beside the names."""


def _yaml_roots(content: Mapping[str, Any], source: Path) -> tuple[Path, ...]:
    root = content.get("path")
    folder = source.parent
    if root is None or root == "":
        return (folder,)
    if not isinstance(root, str):
        raise DataError(f"{source}: path: expected a folder, got {_shown(root)}.")
    # Imported here, since Ultralytics takes a second to load and few YAMLs need its folder.
    if Path(root).is_absolute() or _exists(folder / root) or _exists(Path(root)):
        return (folder / root, Path(root))
    from ultralytics.utils import DATASETS_DIR

    return (folder / root, Path(DATASETS_DIR) / root)


def _yaml_names(content: Mapping[str, Any], source: Path) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if isinstance(count, str | float) and not isinstance(count, bool):
        count = _whole(count)
    if count is not None and (not isinstance(count, int) or not 1 <= count <= 1_000_000):
        raise DataError(f"{source}: nc: expected a positive integer, got {_shown(content['nc'])}.")
    if names is None and count is not None:
        return tuple(f"class_{i}" for i in range(count))
    if isinstance(names, dict):
        ids = {_whole(key): value for key, value in names.items()}
        if sorted(ids, key=str) != sorted(range(len(names)), key=str):
            raise DataError(
                f"{source}: names: expected ids 0 … {len(names) - 1} without a gap,"
                f" got {', '.join(map(str, names))[:200]}."
            )
        names = [ids[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(
            f"{source}: names: expected a list or a mapping of names, got {_shown(names)}."
        )
    for name in names:
        if isinstance(name, dict | list) or name is None:
            raise DataError(f"{source}: names: expected a name a class, got {_shown(name)}.")
    if count is not None and count != len(names):
        raise DataError(f"{source}: nc says {count} classes, names has {len(names)}.")
    return tuple(str(name) for name in names)


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= 7 and 1 <= int(text) <= 1_000_000


def _whole(value: Any) -> Any:
    """A number that is whole, however it is spelt; anything else as it is."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return value
    return int(number) if number.is_integer() else value


def _shown(value: object) -> str:
    return cut(repr(value), 80)


def _shown_list(words: Sequence[str]) -> str:
    return cut(", ".join(cut(word, 40) for word in words), 200)


def _described_by_darknet(source: Path) -> Description:
    content: dict[str, str] = {}
    for number, line in enumerate(read_text(source, DataError).splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise DataError(f"{source}:{number}: expected 'key = value', got {_shown(line)}.")
        if key.strip() in content:
            raise DataError(f"{source}:{number}: {_shown(key.strip())} stands twice.")
        content[key.strip()] = value.strip()
    roots = (source.parent, source.parent.parent, Path())
    names = _darknet_names(content, roots, source)
    entries, keys = {}, {}
    for split in SPLITS:
        found = next((k for k in _DARKNET_KEYS[split] if content.get(k)), None)
        if found is not None:
            entries[split], keys[split] = (content[found],), found
    return Description(
        source=source, names=names, entries=entries, keys=keys, roots=roots, stated=tuple(content)
    )


def _darknet_names(
    content: Mapping[str, str], roots: Sequence[Path], source: Path
) -> tuple[str, ...]:
    count = content.get("classes")
    if count is not None and not _is_count(count):
        raise DataError(f"{source}: classes: expected a positive integer, got {_shown(count)}.")
    if "names" not in content:
        if count is None:
            raise DataError(f"{source}: has neither names nor classes.")
        return tuple(f"class_{i}" for i in range(int(count)))
    path = _find(content["names"], roots, where=f"{source}: names")
    names = tuple(line.strip() for line in read_text(path, DataError).rstrip().split("\n"))
    if "" in names and any(names):
        raise DataError(
            f"{path}:{names.index('') + 1}: is empty, and counts as a class in Darknet. Name it, "
            "or take it out."
        )
    if not any(names):
        raise DataError(f"{path}: holds no class name.")
    if count is not None and int(count) != len(names):
        raise DataError(f"{source}: classes says {count}, {path} has {len(names)} names.")
    return names


def expand(entry: str, roots: Sequence[Path], where: str) -> list[Path]:
    """One folder or one ``.txt`` list → the images that it names."""
    path = _find(entry, roots, where=f"{where}: 0 images found")
    if path.is_dir():
        images = sorted(pictures_in(path, where))
        if not images:
            raise DataError(f"{where}: 0 images found in {path}.")
        return images
    if path.suffix.lower() == ".txt" and path.is_file():
        return _read_list(path, roots)
    raise DataError(f"{where}: expected a folder or a .txt list of images, got {path}.")


def pictures_in(
    folder: Path, where: str, suffixes: Collection[str] = IMAGE_SUFFIXES
) -> Iterator[Path]:
    """The pictures of a folder and of those in it, links followed once.

    Args:
        folder: to look in.
        where: for people.
        suffixes: what is taken for a picture.

    Raises:
        DataError: it holds a great many other files.
    """
    most = count_from(FILES_VARIABLE, MAX_FILES, "files", DataError)
    seen = pictures = 0
    visited: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        seen += len(files) + len(folders)
        for name in files:
            if f".{name.rpartition('.')[2].lower()}" in suffixes:
                pictures += 1
                yield Path(here, name)
        if seen > most or (seen > _LOOK and pictures * 100 < seen):
            raise DataError(
                f"{where}: {folder} holds more than {seen} files, {pictures} pictures among them: "
                f"is it the right folder? If so, list its pictures in a .txt, or set "
                f"{FILES_VARIABLE} above {most}."
            )


def _read_list(path: Path, roots: Sequence[Path]) -> list[Path]:
    """Read a list of images, one path a line, relative to the list's folder or the roots."""
    images, missing = [], []
    bases = (path.parent, *roots, Path())
    for number, line in enumerate(read_text(path, DataError).splitlines(), start=1):
        if not line.strip():
            continue
        image = next((p for b in bases if _is_file(p := b / line.strip())), None)
        if image is None:
            missing.append((number, line.strip()))
        else:
            images.append(image)
    if missing:
        number, name = missing[0]
        raise DataError(
            f"{path}:{number}: image {name[:200]} does not exist"
            f" ({len(images)} found, {len(missing)} missing of {len(images) + len(missing)})."
        )
    if not images:
        raise DataError(f"{path}: lists 0 images.")
    return images


def _find(entry: str, roots: Iterable[Path], *, where: str) -> Path:
    """The first place at which an entry exists."""
    tried = [root / entry for root in roots]
    if entry.startswith("../"):  # Roboflow's, where the YAML lies beside the splits
        tried += [root / entry[3:] for root in roots]
    tried = list(dict.fromkeys(tried))
    for path in tried:
        if _exists(path):
            return path
    places = ", ".join(str(path.absolute()) for path in tried)
    raise DataError(f"{where}: {entry[:200]} does not exist. Looked at {places[:1000]}.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
