"""Files of masks: name of a tensor → zeros and ones in its shape, ``.npz`` or ``.safetensors``.

A name is that of the weight (``model.0.conv.weight``), with or without torch's ``_mask`` behind
it. Neither format can run anything. What a file claims to hold is compared with the network before
it is read; ``.pt`` files are programs, and are not taken.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import MaskError, first_line
from yoloprune.files import replacing
from yoloprune.texts import cut

Mask = NDArray[np.bool_]
Shapes = Mapping[str, tuple[int, ...]]
_SUFFIX = "_mask"


def read_masks(path: Path, shapes: Shapes) -> dict[str, Mask]:
    """Read masks for the tensors of a network.

    Args:
        path: ``.npz`` or ``.safetensors``.
        shapes: name → shape of every tensor that a mask may be for.

    Returns:
        Name of a tensor → its mask, true where the weight stays.

    Raises:
        MaskError: the file is missing, of another kind or damaged, or a mask in it is for another
            network or holds something else than zeros and ones.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".safetensors"):
        why = ", which can run code when it is read" if suffix in (".pt", ".pth", ".npy") else ""
        raise MaskError(f"--mask {path}: got {suffix or 'no suffix'}{why}, expected .npz or "
                        ".safetensors.")  # fmt: skip
    if not path.is_file():
        raise MaskError(f"--mask {path}: no such file.")
    try:
        arrays = (_from_npz if suffix == ".npz" else _from_safetensors)(path, shapes)
    except MaskError:
        raise
    except Exception as exc:  # a damaged file can raise anything: BadZipFile, ValueError, zlib …
        raise MaskError(f"--mask {path}: is damaged: {cut(first_line(exc), 120)}") from exc
    if not arrays:
        raise MaskError(f"--mask {path}: holds no mask.")
    return {name: _checked(array, f"--mask {path}: {name}") for name, array in arrays.items()}


def write_masks(path: Path, masks: Mapping[str, Mask]) -> None:
    """Write masks as ``.npz``, for :func:`read_masks`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **dict(masks))  # type: ignore[arg-type]


def _from_npz(path: Path, shapes: Shapes) -> dict[str, NDArray[Any]]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = _known(member.removesuffix(".npy"), shapes, path)
            with archive.open(member) as file:
                _check_shape(_shape_in(file), shapes[name], f"--mask {path}: {name}")
            with archive.open(member) as file:
                found[name] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _shape_in(file: IO[bytes]) -> tuple[int, ...]:
    """What the header of an array says, which is all that is read of it."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)[0]
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)[0]
    raise ValueError(f"an array of format {version[0]}.{version[1]}")


def _from_safetensors(path: Path, shapes: Shapes) -> dict[str, NDArray[Any]]:
    try:
        from safetensors import safe_open
    except ModuleNotFoundError as exc:
        raise MaskError(
            f"--mask {path}: needs the package safetensors: pip install safetensors. Or give .npz."
        ) from exc
    found = {}
    with safe_open(path, framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118  # it is no mapping
            name = _known(key, shapes, path)
            claimed = tuple(file.get_slice(key).get_shape())
            _check_shape(claimed, shapes[name], f"--mask {path}: {name}")
            found[name] = file.get_tensor(key)
    return found


def _known(key: str, shapes: Shapes, path: Path) -> str:
    name = key.removesuffix(_SUFFIX)
    if name not in shapes:
        first = next(iter(shapes), "none")
        raise MaskError(
            f"--mask {path}: {cut(key, 80)}: is no weight that is masked here, expected names such "
            f"as {first}. Is it of another network, or left out by --layers or --kind?"
        )
    return name


def _check_shape(got: tuple[int, ...], expected: tuple[int, ...], where: str) -> None:
    if tuple(got) != tuple(expected):
        raise MaskError(f"{where}: got shape {list(got)}, expected {list(expected)}.")


def _checked(array: NDArray[Any], where: str) -> Mask:
    """A mask as booleans."""
    if array.dtype == np.bool_:
        return array
    if not np.issubdtype(array.dtype, np.number) or not np.isin(array, (0, 1)).all():
        raise MaskError(f"{where}: expected zeros and ones only.")
    return array.astype(bool)
