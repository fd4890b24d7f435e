"""Writing files so that a kill at any moment leaves the old ones or the new ones, never half.

One file: written under a temporary name beside its target, ``.NAME.xxxxxxxx.yptmp``, and renamed.

Several that belong together, as a cfg and its weights: all are written under temporary names;
then ``.NAME.yoloprune-journal`` appears, by a rename, and says which of these is to become what;
then each is renamed; then the journal goes. A kill before the journal leaves all the old ones, a
kill after it leaves a journal that :func:`settle` carries out, before anything is read from the
folder or saved there. So a reader never sees one half of a pair.

A process holds the lock of its temporary files and of its journal as long as it lives, so that
:func:`sweep` takes away those of dead ones only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from yoloprune.errors import YoloPruneError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".yptmp"
JOURNAL = ".yoloprune-journal"
FOLDER = ".yoloprune-export-"
"""What temporary files, journals and the temporary folders of exports are known by."""
_TEMPORARY = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}", re.DOTALL)
_LARGEST_JOURNAL = 1 << 16


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` and rename it there when the block succeeds.

    Raises:
        YoloPruneError: the folder cannot be made or written to, or an OSError left the block.
    """
    with replacing_together(target) as (temporary,):
        yield temporary


@contextmanager
def replacing_together(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Give temporary paths beside files of one folder; all take their places, or none does.

    Raises:
        YoloPruneError: the folder cannot be made or written to, or an OSError left the block.
    """
    with ExitStack() as stack:
        temporaries = tuple(stack.enter_context(_temporary(target)) for target in targets)
        try:
            yield temporaries
            umask = os.umask(0)
            os.umask(umask)
            for temporary in temporaries:
                temporary.chmod(0o666 & ~umask)
            if len(targets) == 1:
                temporaries[0].replace(targets[0])
            else:
                _commit(dict(zip(targets, temporaries, strict=True)), stack)
        except OSError as exc:
            where = targets[0]
            raise YoloPruneError(f"{where}: cannot be written: {exc.strerror or exc}.") from exc


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """An empty file of our own beside the target, gone at the end unless it was renamed."""
    try:
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise YoloPruneError(f"{target}: is a device or a pipe, expected a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent)
    except OSError as exc:
        reason = exc.strerror or exc
        raise YoloPruneError(f"{target.parent}: cannot be written to: {reason}.") from exc
    temporary = Path(name)
    try:
        if fcntl is None:
            os.close(handle)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
    finally:
        if fcntl is not None:
            os.close(handle)
        temporary.unlink(missing_ok=True)


def _commit(files: Mapping[Path, Path], stack: ExitStack) -> None:
    """Decide, by a journal, that temporary files become their targets, and let them."""
    for target in files:
        if target.is_dir():  # which is known before the others are replaced
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    first = next(iter(files))
    journal = first.with_name(f".{first.stem}{JOURNAL}")
    written = stack.enter_context(_temporary(journal))
    names = {target.name: temporary.name for target, temporary in files.items()}
    written.write_text(json.dumps({"version": 1, "files": names}) + "\n", encoding="utf-8")
    written.replace(journal)
    try:
        _carry_out(journal.parent, names)
    except KeyboardInterrupt:  # as little as a kill may it part what belongs together
        _carry_out(journal.parent, names)
        raise
    finally:  # a target that cannot be replaced says so, and is not tried again
        journal.unlink(missing_ok=True)


def _carry_out(folder: Path, files: Mapping[str, str]) -> None:
    for target, temporary in files.items():
        if (folder / temporary).exists():  # else a process before this one came as far as this
            (folder / temporary).replace(folder / target)


def settle(folder: Path) -> None:
    """Bring to its end what a killed process had decided to write in a folder.

    Costs a look at the folder's names where there is nothing to do, and waits for a process that
    is just doing it.

    Raises:
        YoloPruneError: a journal is none of ours, or the folder cannot be written to.
    """
    for journal in sorted(folder.glob(f".*{JOURNAL}")):
        try:
            with _opened(journal) as file:
                if file is None:
                    continue
                _carry_out(folder, _read_journal(journal, file))
                journal.unlink(missing_ok=True)
        except OSError as exc:
            raise YoloPruneError(
                f"{folder}: a save was interrupted here, and cannot be brought to its end: "
                f"{exc.strerror or exc}."
            ) from exc


@contextmanager
def _opened(journal: Path) -> Iterator[IO[str] | None]:
    """A journal as soon as nobody else is at it; None where it is gone by then."""
    try:
        file = journal.open(encoding="utf-8") if stat.S_ISREG(journal.lstat().st_mode) else None
    except FileNotFoundError:
        file = None
    if file is None:
        yield None
        return
    with file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file if _is_at(file, journal) else None


def _is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _read_journal(journal: Path, file: IO[str]) -> dict[str, str]:
    """Temporary names by target, none of which leads out of the folder.

    Raises:
        YoloPruneError: it is damaged, or not ours.
    """
    try:
        files = json.loads(file.read(_LARGEST_JOURNAL))["files"]
        ours = all(
            re.fullmatch(rf"\.{re.escape(target)}\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}", temporary)
            and Path(target).name == target
            and not (journal.parent / temporary).is_symlink()
            for target, temporary in files.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise YoloPruneError(f"{journal}: is damaged. Remove it.") from exc
    if not ours:
        raise YoloPruneError(f"{journal}: names files that are not yoloprune's. Remove it.")
    return dict(files)


def sweep(folder: Path) -> None:
    """Take away what killed processes left in a folder: temporary files, folders of exports.

    Only names that are recognisably ours, and no file that a living process writes. For a process
    that holds the folder, see :func:`held`.
    """
    settle(folder)
    for path in folder.glob(f".*{SUFFIX}"):
        if _TEMPORARY.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
            with path.open("rb") as file:
                if fcntl is not None:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError:
                        continue
                path.unlink(missing_ok=True)
    for path in folder.glob(f"{FOLDER}*"):
        if not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def held(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold a folder, where the system has locks; a process that is killed lets go of it.

    Who holds it alone begins by taking away what killed processes left there.

    Args:
        folder: made where it is missing, and gone again if nothing came of it.
        alone: refuse a folder that any other process holds; workers share theirs instead.

    Raises:
        YoloPruneError: another process is at work there, or it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise YoloPruneError(f"{folder}: cannot be written to: {exc.strerror or exc}.") from exc
    try:
        with _locked(lock, alone):
            if alone:
                sweep(folder)
            yield
    finally:
        if alone:
            remove_empty(missing)


@contextmanager
def _locked(lock: Path, alone: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    while True:
        try:
            file = lock.open("w")
        except OSError as exc:
            reason = exc.strerror or exc
            raise YoloPruneError(f"{lock.parent}: cannot be written to: {reason}.") from exc
        with file:
            if alone:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as exc:
                    raise YoloPruneError(
                        f"{lock.parent}: another process is at work there. Wait for it, end it, "
                        "or choose another folder with -o."
                    ) from exc
                if not _is_at(file, lock):  # its holder went, and took it away, meanwhile
                    continue
            fcntl.flock(file, fcntl.LOCK_SH)
            try:
                yield
            finally:
                if alone:
                    lock.unlink(missing_ok=True)
            return


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as far as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # it has something in it, or is gone
            return


def check_writable(folder: Path) -> None:
    """Fail early where a folder cannot be made or written to; leaves nothing behind.

    Raises:
        YoloPruneError: it is a file, or the system refuses.
    """
    try:
        with tempfile.TemporaryFile(prefix=".writable.", suffix=SUFFIX, dir=_existing(folder)):
            pass
    except OSError as exc:
        raise YoloPruneError(f"{folder}: cannot be written to: {exc.strerror or exc}.") from exc


def check_space(folder: Path, needed: int) -> None:
    """Fail early where a disk has too little room.

    Args:
        folder: that will be written to; need not exist yet.
        needed: bytes, at least.

    Raises:
        YoloPruneError: less than that is free.
    """
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise YoloPruneError(
            f"{folder}: has {free / 1e6:.0f} MB of free disk space, expected at least "
            f"{needed / 1e6:.0f} MB for what will be written. Make room, or choose another folder "
            "with -o."
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def write_bytes(target: Path, data: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def keep_results(folder: Path, results: Iterable[Path], others: str) -> None:
    """Let no results be replaced.

    Args:
        folder: of them.
        results: those that are there.
        others: what to do instead.

    Raises:
        YoloPruneError: there are some.
    """
    for path in results:
        raise YoloPruneError(
            f"{folder}: holds results already, such as {path.relative_to(folder)}. {others}"
        )


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
