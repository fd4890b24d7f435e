"""Writing files so that a kill at any moment leaves the old one or the new one, never half."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yoloprune.errors import YoloPruneError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` and rename it there when the block succeeds.

    Raises:
        YoloPruneError: the folder cannot be made or written to, or an OSError left the block.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as exc:
        reason = exc.strerror or exc
        raise YoloPruneError(f"{target.parent}: cannot be written to: {reason}.") from exc
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as exc:
        raise YoloPruneError(f"{target}: cannot be written: {exc.strerror or exc}.") from exc
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold a folder, where the system has locks; a process that is killed lets go of it.

    Args:
        folder: made where it is missing, and gone again if nothing came of it.
        alone: refuse a folder that any other process holds; workers share theirs instead.

    Raises:
        YoloPruneError: another process is at work there, or it cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    made = not folder.exists()
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as exc:
        raise YoloPruneError(f"{folder}: cannot be written to: {exc.strerror or exc}.") from exc
    with file:
        if alone:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise YoloPruneError(
                    f"{folder}: another process is at work there. Wait for it, end it, or choose "
                    "another folder with -o."
                ) from exc
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            yield
        finally:
            if alone:
                lock.unlink(missing_ok=True)
                if made and not any(folder.iterdir()):
                    folder.rmdir()


def check_writable(folder: Path) -> None:
    """Fail early where a folder cannot be made or written to; leaves nothing behind.

    Raises:
        YoloPruneError: it is a file, or the system refuses.
    """
    existing = folder
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as exc:
        raise YoloPruneError(f"{folder}: cannot be written to: {exc.strerror or exc}.") from exc


def write_bytes(target: Path, data: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
