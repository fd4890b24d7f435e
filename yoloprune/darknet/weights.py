"""Darknet ``.weights`` bytes ⇄ arrays, with the byte count checked both ways.

A header (major, minor, revision as int32, then ``seen``: uint64 from version 0.2 on, else
uint32), then the layers' float32 values in the order of the cfg, all little endian.

Reference: AlexeyAB/darknet ``src/parser.c`` ``load_weights_upto``, ``save_weights_upto``.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import WeightsError
from yoloprune.files import write_bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What a weights file says of itself.

    Attributes:
        major, minor, revision: version of the format.
        seen: how many images the network was trained on.
    """

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def layout(self) -> str:
        """The header's ``struct`` format."""
        return "<3iQ" if self.major * 10 + self.minor >= 2 else "<3iI"

    @property
    def size(self) -> int:
        """Bytes that the header takes."""
        return struct.calcsize(self.layout)

    def pack(self) -> bytes:
        """The header's bytes."""
        return struct.pack(self.layout, self.major, self.minor, self.revision, self.seen)


@dataclass(frozen=True, slots=True)
class Field:
    """A run of floats in a weights file.

    Attributes:
        where: the layer it belongs to, for messages: ``#58 [convolutional]``.
        count: how many floats.
    """

    where: str
    count: int


def expected_bytes(fields: Sequence[Field], header: Header | None = None) -> int:
    """Size of a weights file with these fields; with version 0.2's header by default."""
    return (header or Header()).size + 4 * sum(field.count for field in fields)


def read_weights(path: Path, fields: Sequence[Field]) -> tuple[Header, list[NDArray[np.float32]]]:
    """Read a weights file that must hold exactly these fields.

    Returns:
        The header, and one float32 array ``[count]`` for each field.

    Raises:
        WeightsError: the file cannot be read, ends early, or goes on after the last field.
    """
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise WeightsError(f"{path}: is no regular file.")
            header = _read_header(path, file.read(Header().size))
            # Before the rest is read: it may be of another kind, and have any size.
            _check_size(path, os.fstat(file.fileno()).st_size, header, fields)
            file.seek(0)
            data = file.read()
    except (OSError, ValueError) as exc:  # a name with a null byte is a ValueError
        reason = getattr(exc, "strerror", None) or exc
        raise WeightsError(f"{path}: cannot be read: {reason}.") from exc
    offset, arrays = header.size, []
    for field in fields:
        arrays.append(np.frombuffer(data, dtype="<f4", count=field.count, offset=offset))
        offset += 4 * field.count
    return header, arrays


def _check_size(path: Path, size: int, header: Header, fields: Sequence[Field]) -> None:
    offset = header.size
    for field in fields:
        offset += 4 * field.count
        if offset > size:
            raise WeightsError(
                f"{path}: ends at byte {size}, layer {field.where} needs {offset - size} "
                f"more. Is this the cfg that it was trained with?"
            )
    if offset != size:
        raise WeightsError(
            f"{path}: has {size - offset} bytes after the last layer, got {size} "
            f"bytes, expected {offset}. Is this the cfg that it was trained with?"
        )


def _read_header(path: Path, data: bytes) -> Header:
    if len(data) < 12:
        raise WeightsError(f"{path}: has {len(data)} bytes, expected a header of 16 or 20.")
    version = struct.unpack_from("<3i", data)
    blank = Header(*version)
    if blank.major < 0 or blank.minor < 0 or max(blank.major, blank.minor) > 1000:
        raise WeightsError(
            f"{path}: is no Darknet weights file, got version {blank.major}.{blank.minor}."
        )
    if len(data) < blank.size:
        raise WeightsError(f"{path}: ends at byte {len(data)}, inside its header.")
    return Header(*struct.unpack_from(blank.layout, data))


def write_weights(path: Path, header: Header, arrays: Sequence[NDArray[np.float32]]) -> None:
    """Write a weights file, whole or not at all.

    Args:
        path: where to.
        header: written as it is.
        arrays: float32, any shapes, in the order of the cfg.
    """
    body = b"".join(np.ascontiguousarray(array, dtype="<f4").tobytes() for array in arrays)
    write_bytes(path, header.pack() + body)
