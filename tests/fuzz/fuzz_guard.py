"""What a case may not do: write, connect, start a process, take 10 seconds or 2 GB."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 10.0
"""Of work; of waiting, with others at work on the machine or for something that never comes, it
is ``WAITING`` times as many."""
WAITING = 3
BYTES = 2 << 30
# Beyond what is asked of a case: torch and its threads map memory that they never touch.
_MAPPED = 1 << 30

_STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
_STARTS += ("subprocess.Popen", "webbrowser.open", "os.startfile")
_REACHES = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_REACHES += ("urllib.Request", "ftplib.connect", "http.client.connect")
_CHANGES = ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.rename")
_CHANGES += ("os.link", "os.symlink", "os.utime", "shutil.rmtree", "shutil.move")


class HangError(BaseException):
    """A case took too long; no ``except Exception`` holds it up."""


class DeedError(OSError):
    """A case did what none may; raised at once, so that it does not come to pass."""


class Guard:
    """Watches cases, each in the same bare surroundings.

    Args:
        base: holds ``cwd`` (the working folder, empty), ``home``, ``tmp`` (for temporary files)
            and ``in`` (the cases).
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._free = (str(base / "tmp"), os.devnull)
        self._active = False
        self._deeds: list[str] = []
        self._begun = (0.0, 0.0)
        sys.addaudithook(self._heard)
        signal.signal(signal.SIGALRM, self._rung)
        if sys.platform == "linux":  # elsewhere the data segment is not all of the memory
            resource.setrlimit(resource.RLIMIT_DATA, (_data() + BYTES + _MAPPED,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def run(self, case: Callable[[], Any]) -> Any:
        """Do one case.

        Raises:
            DeedError: it did what none may, whatever it made of the refusal.
            HangError: it took too long.
            MemoryError: it took too much.
        """
        before = self._listing()
        self._deeds.clear()
        try:
            with self._watched():
                result = case()
        finally:
            if self._deeds:
                raise DeedError(self._deeds[0])
            if (after := self._listing()) != before:
                changed = sorted(map(str, before ^ after))[0]
                raise DeedError(f"left or took {changed}")
            if peak() > BYTES:
                raise MemoryError(f"at most {peak() >> 20} MiB were in use")
        return result

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._begun = time.monotonic(), time.process_time()
        signal.setitimer(signal.ITIMER_REAL, SECONDS, 0.5)
        self._active = True
        try:
            yield
        finally:
            self._active = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _listing(self) -> set[Path]:
        """All that lies around, the cases included."""
        return set(self._base.rglob("*"))

    def _rung(self, number: int, frame: FrameType | None) -> None:
        waited = time.monotonic() - self._begun[0] > WAITING * SECONDS
        if self._active and (waited or time.process_time() - self._begun[1] > SECONDS):
            raise HangError(f"over {SECONDS:g} s")

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if self._active and (deed := self._deed(event, args)):
            self._deeds.append(deed)
            raise DeedError(deed)

    def _deed(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event in _STARTS or event in _REACHES:
            if event == "socket.connect" and args[0].family == getattr(socket, "AF_UNIX", None):
                return None
            return f"{event}{args!r}"
        if event == "open":
            path, _, flags = args
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            return f"wrote {path}" if writes and not self._may(path) else None
        if event in _CHANGES:
            # what is named relative to an open folder is seen in the listing
            relative = any(isinstance(arg, int) and arg not in (-1, 0) for arg in args[1:])
            paths = [arg for arg in args if isinstance(arg, str | bytes | os.PathLike)]
            if event in ("os.link", "os.symlink"):
                paths = paths[1:]
            if not relative and not all(map(self._may, paths)):
                return f"{event}{args!r}"
        return None

    def _may(self, path: object) -> bool:
        if isinstance(path, int):  # a file that is open already
            return True
        return str(Path(os.fsdecode(path)).absolute()).startswith(self._free)  # type: ignore[arg-type]


def peak() -> int:
    """Most bytes that this process ever held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _data() -> int:
    """Bytes of private memory that this process has mapped, as the limit counts them."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[5]) * resource.getpagesize()
