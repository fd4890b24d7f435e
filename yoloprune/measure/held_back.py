"""A part of the train split that is held back, to measure on what neither repair nor search saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from yoloprune.errors import DataError
from yoloprune.files import write_bytes
from yoloprune.measure.resolve import describe

HELD_BACK = "held-back"
"""What stands for it where a split is named."""
SHARE = 0.2
_LEAST = 10


def hold_back(data: str, stem: Path, *, seed: int = 0) -> Path:
    """Part the train split in two: a fifth, at random, is the val split of a new data set.

    Args:
        data: a data YAML or Darknet ``.data``; not changed.
        stem: path without ending of what is written: ``.yaml``, and a list of pictures for each
            split.
        seed: the same parts for the same seed.

    Returns:
        The new data YAML.

    Raises:
        DataError: it has no train split, or too few pictures in it, or is a folder of classes.
    """
    if Path(data).is_dir():
        raise DataError(
            f"{data}: --split {HELD_BACK} cannot part folders of classes. Use --split val."
        )
    found = describe(data)
    images = found.images("train")
    many = round(SHARE * len(images))
    if many < _LEAST:
        raise DataError(
            f"{data}: has {len(images)} pictures to train on, and --split {HELD_BACK} measures on "
            f"a fifth of them, expected at least {_LEAST} there. Use --split val."
        )
    chosen = np.zeros(len(images), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(images))[:many]] = True
    entries = {}
    for split, part in (("train", ~chosen), ("val", chosen)):
        path = stem.with_name(f"{stem.name}-{split}.txt")
        paths = (str(image.absolute()) for image, goes in zip(images, part, strict=True) if goes)
        write_bytes(path, "".join(f"{path}\n" for path in paths).encode())
        entries[split] = str(path.absolute())
    target = stem.with_name(f"{stem.name}.yaml")
    # JSON is YAML, and quotes every name.
    record = {**entries, "names": list(found.names), **found.extra}
    write_bytes(target, (json.dumps(record, indent=1) + "\n").encode())
    return target
