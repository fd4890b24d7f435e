"""Fetches published files: checked, resumed when broken off, bounded in time and size.

A download goes into ``NAME.part``, goes on where it was broken off, and takes its name only when
its size and, where its authors published one, its digest are right.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yoloprune.errors import FormatError, WeightsError
from yoloprune.files import sha256
from yoloprune.progress import progress

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "YOLOPRUNE_CACHE"
"""Environment variable: the folder that downloads go to."""

TIMEOUT_S = 30.0
"""Longest silence of a server."""
DEADLINE_S = 3600.0
"""Longest time that one call may take; what came stays for the next."""
MAX_BYTES = 4_000_000_000
"""Largest file that is fetched where its size is not known beforehand."""
ATTEMPTS = 4
CHUNK_BYTES = 1 << 16


class _BrokenOffError(Exception):
    """The connection ended before the body did; what came so far is in the ``.part`` file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a download must keep to.

    Attributes:
        expected_bytes: size that it must have; None takes what the server announces.
        sha256: hex digest that it must have; None where none is published.
        max_bytes: size that it must not exceed.
        timeout_s: longest silence of the server, in seconds.
        deadline_s: longest time in all, in seconds.
        error: what to raise, by the kind of file.
    """

    expected_bytes: int | None = None
    sha256: str | None = None
    max_bytes: int = MAX_BYTES
    timeout_s: float = TIMEOUT_S
    deadline_s: float = DEADLINE_S
    error: type[FormatError] = WeightsError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One download: from where, to where, within what, and until when by the monotonic clock."""

    url: str
    target: Path
    limits: Limits
    until: float

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    def error(self, reason: str) -> FormatError:
        """The one line for everything that only the user can put right."""
        return self.limits.error(
            f"{self.target.name}: could not be fetched from {self.url} ({reason}). "
            f"Fetch it by hand and put it at {self.target}"
        )


def cache_folder() -> Path:
    """Folder that downloads go to: ``$YOLOPRUNE_CACHE``, else ``yoloprune`` in the user's cache.

    That is ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows ``%LOCALAPPDATA%``.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "yoloprune"


def download(url: str, target: Path, limits: Limits | None = None) -> Path:
    """Fetch a file, going on from ``<target>.part`` where one is left from before.

    Args:
        url: http or https address.
        target: where the complete file goes; its folder is made.
        limits: size, digest and time.

    Returns:
        ``target``.

    Raises:
        FormatError: no connection, an HTTP error, a wrong size or digest, or the deadline; in
            one line with what to put where. ``target`` is never left half written. What came
            stays in ``.part`` when the connection broke off, and goes when it can be of no use.
    """
    limits = limits or Limits()
    until = time.monotonic() + limits.deadline_s
    job = _Job(url=url, target=target, limits=limits, until=until)
    if not url.lower().startswith(("http://", "https://")):
        raise job.error("not an http or https address")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(job)
        _check_digest(job)
        job.part.replace(target)
    except OSError as exc:  # of the disk: those of the network never leave _fetch
        raise limits.error(
            f"{exc.filename or target}: cannot be written ({exc.strerror or exc}). "
            f"Set {CACHE_VARIABLE} to a folder that can, or fetch {url} by hand."
        ) from exc
    return target


def _check_digest(job: _Job) -> None:
    """Compare what came with the digest that is published."""
    if job.limits.sha256 is None:
        return
    found = sha256(job.part)
    if found != job.limits.sha256:
        job.part.unlink()
        raise job.error(f"its sha256 is {found[:12]}…, published is {job.limits.sha256[:12]}…")


def _fetch(job: _Job) -> None:
    """Fill ``job.part`` with the whole file, in as many connections as it takes."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(job.part)
        if job.limits.expected_bytes is not None and before > job.limits.expected_bytes:
            job.part.unlink()
        try:
            _fetch_rest(job)
            return
        except _BrokenOffError as exc:
            have = _size(job.part)
            if attempt == ATTEMPTS or have <= before:
                raise job.error(f"{exc}; {have} bytes are kept, run again to go on") from exc
            logger.info("connection lost at %d bytes, going on", have)


def _fetch_rest(job: _Job) -> None:
    """One connection: ask for what ``job.part`` lacks and add it."""
    have = _size(job.part)
    if have and have == job.limits.expected_bytes:
        return
    with _open(job, have) as response:
        total, start = _announced(job, response)
        if (total or 0) > job.limits.max_bytes:
            raise job.error(f"{total} bytes, at most {job.limits.max_bytes} are taken")
        wanted = total if job.limits.expected_bytes is None else job.limits.expected_bytes
        if total is not None and total != wanted:
            if start:  # then what came before is of that other file too
                job.part.unlink()
            raise job.limits.error(
                f"{job.target.name}: has {total} bytes at {job.url}, expected {wanted}. "
                "Is this the cfg that it was trained with?"
            )
        logger.info("fetching %s to %s", job.url, job.target)
        _receive(job, response, start, wanted)


def _open(job: _Job, have: int) -> http.client.HTTPResponse:
    """A response whose body starts at byte ``have``, or at 0 if the server will have it so."""
    headers = {"User-Agent": "yoloprune"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(job.url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(
            request, timeout=job.limits.timeout_s
        )
    except urllib.error.HTTPError as exc:
        exc.close()
        if exc.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            job.part.unlink()  # of another file, since this one has no byte `have`
            return _open(job, 0)
        raise job.error(f"HTTP {exc.code} {exc.reason}") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        raise job.error(_one_line(reason)) from exc
    return response


def _announced(job: _Job, response: http.client.HTTPResponse) -> tuple[int | None, int]:
    """The file's size as the server announces it, and the byte that this body starts at."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length", "")
        return (int(length) if length.isdecimal() else None), 0
    content_range = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if match is None or int(match[1]) != _size(job.part):
        job.part.unlink()
        raise job.error(f"the server answered with the range {content_range!r}; run again")
    return (None if match[2] == "*" else int(match[2])), int(match[1])


def _receive(job: _Job, response: http.client.HTTPResponse, start: int, wanted: int | None) -> None:
    """Write the body to ``job.part`` from byte ``start`` on, and check where it ends."""
    with (
        job.part.open("r+b" if start else "wb") as file,
        _progress(job.target.name, start, wanted) as advance,
    ):
        file.seek(start)
        have = start
        while chunk := _read(response):
            file.write(chunk)
            have += len(chunk)
            advance(len(chunk))
            if have > (job.limits.max_bytes if wanted is None else wanted):
                break
            if time.monotonic() > job.until:
                raise job.error(
                    f"not done after {job.limits.deadline_s:g} s; {have} bytes are kept, run again "
                    "to go on"
                )
    if wanted is None and have > job.limits.max_bytes:
        job.part.unlink()
        raise job.error(f"more than {job.limits.max_bytes} bytes")
    if wanted is not None and have > wanted:
        job.part.unlink()
        raise job.error(f"more than the {wanted} bytes that it should have")
    if wanted is not None and have < wanted:
        raise _BrokenOffError(f"ended at byte {have} of {wanted}")


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next piece of the body; empty at its end."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as exc:
        raise _BrokenOffError(_one_line(exc)) from exc


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, a log line at every tenth elsewhere."""
    have = start
    with progress(f"fetching {name}, kB") as bar:

        def advance(count: int) -> None:
            nonlocal have
            before, have = have, have + count
            if sys.stderr.isatty():
                bar(have // 1000, max(total or 0, have) // 1000)
            elif total and have * 10 // total > before * 10 // total:
                logger.info("%s: %d of %d bytes (%d %%)", name, have, total, have * 100 // total)

        yield advance


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _one_line(reason: object) -> str:
    """An exception as one line; some say nothing at all."""
    return " ".join(str(reason).split()) or type(reason).__name__
