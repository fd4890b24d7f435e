"""Finds Darknet files by name, and fetches weights that are not at hand.

``yolov4-tiny.cfg`` names a file here or, failing that, one that ships with the package. Its weights
are ``yolov4-tiny.weights``: beside the cfg, in ``./weights``, among the shipped ones, in the cache,
and at last on the network. A download goes into ``NAME.part``, goes on where it was broken off, and
takes its name only when its size is right.
"""

from __future__ import annotations

import http.client
import importlib.resources
import logging
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yoloprune.errors import CfgError, WeightsError

logger = logging.getLogger(__name__)

_ALEXEY = "https://github.com/AlexeyAB/darknet/releases/download"
_REDMON = "https://data.pjreddie.com/files"

WEIGHTS_URLS = {
    "yolov3": f"{_REDMON}/yolov3.weights",
    "yolov3-spp": f"{_REDMON}/yolov3-spp.weights",
    "yolov3-tiny": f"{_REDMON}/yolov3-tiny.weights",
    "yolov4": f"{_ALEXEY}/darknet_yolo_v3_optimal/yolov4.weights",
    "yolov4-tiny": f"{_ALEXEY}/darknet_yolo_v4_pre/yolov4-tiny.weights",
}
"""Where the authors publish the COCO weights of the shipped cfgs."""

URL_VARIABLE = "YOLOPRUNE_WEIGHTS_URL"
"""Environment variable: a mirror that serves ``<address>/<name>.weights`` for every cfg."""

CACHE_VARIABLE = "YOLOPRUNE_CACHE"
"""Environment variable: the folder that downloads go to."""

TIMEOUT_S = 30.0
ATTEMPTS = 4
CHUNK_BYTES = 1 << 16


class _BrokenOffError(Exception):
    """The connection ended before the body did; what came so far is in the ``.part`` file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One download.

    Attributes:
        url: address.
        target: where the complete file goes.
        expected_bytes: size that it must have; None takes what the server announces.
        timeout_s: longest silence of the server, in seconds.
    """

    url: str
    target: Path
    expected_bytes: int | None
    timeout_s: float

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    def error(self, reason: str) -> WeightsError:
        """The one line for everything that only the user can put right."""
        return WeightsError(
            f"{self.target.name}: could not be fetched from {self.url} ({reason}). "
            f"Fetch it by hand and put it at {self.target}"
        )


def find_cfg(name_or_path: str | Path) -> Path:
    """Find a cfg: an existing file wins, else a bare name is looked up among the shipped ones.

    Args:
        name_or_path: ``my/net.cfg``, ``yolov4-tiny.cfg`` or ``yolov4-tiny``.

    Returns:
        Path of an existing file.

    Raises:
        CfgError: there is no such file; names the cfgs that ship.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        raise CfgError(f"{path}: is a folder, expected a .cfg file.")
    if _is_bare(path):
        shipped = _shipped_folder("cfg") / f"{path.name.removesuffix('.cfg')}.cfg"
        if shipped.is_file():
            return shipped
    names = ", ".join(shipped_cfg_names())
    raise CfgError(f"{path}: no such file. Give the path of a .cfg, or a name that ships: {names}.")


def shipped_cfg_names() -> list[str]:
    """Names of the cfgs that come with the package, sorted: ``["yolov3-spp.cfg", ...]``."""
    return sorted(p.name for p in _shipped_folder("cfg").glob("*.cfg"))


def find_weights(
    cfg: Path, weights: str | Path | None = None, expected_bytes: int | None = None
) -> Path:
    """Find the weights of a cfg, and fetch those that their authors publish.

    Args:
        cfg: path of the cfg; its stem names the weights where none are given.
        weights: a path, or a bare name to look up; None: ``<stem of cfg>.weights``.
        expected_bytes: size that the cfg implies for the download (20-byte header included).

    Returns:
        Path of an existing file. Its contents are not looked at, unless it was fetched just now.

    Raises:
        WeightsError: not found, and not to be had; says where to put which file.
    """
    if weights is not None:
        path = Path(weights)
        if path.is_file():
            return path
        if path.is_dir():
            raise WeightsError(f"{path}: is a folder, expected a .weights file.")
        if not _is_bare(path):
            raise WeightsError(f"{path}: no such file.")
    name = Path(weights).name if weights is not None else f"{cfg.stem}.weights"
    candidates = [folder / name for folder in _weights_folders(cfg)]
    found = _first_file(candidates)
    if found is not None:
        return found
    url = _weights_url(name)
    if url is None:
        looked = ", ".join(str(c.parent) for c in candidates)
        place = candidates[-1 if cfg.parent == _shipped_folder("cfg") else 0]
        raise WeightsError(
            f"{name}: not found, and no address of it is known; looked in {looked}. "
            f"Put the file at {place}, or name it with --weights."
        )
    return download(url, cache_folder() / name, expected_bytes)


def local_weights(cfg: Path) -> Path | None:
    """The weights of a cfg where they are at hand, looked up by its name; never fetched."""
    return _first_file([folder / f"{cfg.stem}.weights" for folder in _weights_folders(cfg)])


def _first_file(candidates: Sequence[Path]) -> Path | None:
    for candidate in candidates:
        if candidate.is_file():
            logger.debug("weights: %s", candidate)
            return candidate
    return None


def cache_folder() -> Path:
    """Folder that downloads go to: ``$YOLOPRUNE_CACHE``, else ``yoloprune`` in the user's cache.

    That is ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows ``%LOCALAPPDATA%``.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "yoloprune"


def download(
    url: str,
    target: Path,
    expected_bytes: int | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch a file, going on from ``<target>.part`` where one is left from before.

    Args:
        url: http or https address.
        target: where the complete file goes; its folder is made.
        expected_bytes: size that it must have; None takes the size that the server announces.
        timeout_s: longest silence of the server that is waited for, in seconds.

    Returns:
        ``target``.

    Raises:
        WeightsError: no connection, an HTTP error, or a wrong size; in one line with what to put
            where. ``target`` is never left half written. What came stays in ``.part`` when the
            connection broke off, and goes when it can be of no use.
    """
    job = _Job(url=url, target=target, expected_bytes=expected_bytes, timeout_s=timeout_s)
    if not url.lower().startswith(("http://", "https://")):
        raise job.error("not an http or https address")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(job)
        job.part.replace(target)
    except OSError as exc:  # of the disk: those of the network never leave _fetch
        raise WeightsError(
            f"{exc.filename or target}: cannot be written ({exc.strerror or exc}). "
            f"Set {CACHE_VARIABLE} to a folder that can, or fetch {url} by hand."
        ) from exc
    return target


def _fetch(job: _Job) -> None:
    """Fill ``job.part`` with the whole file, in as many connections as it takes."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(job.part)
        if job.expected_bytes is not None and before > job.expected_bytes:
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
    if have and have == job.expected_bytes:
        return
    with _open(job, have) as response:
        total, start = _announced(job, response)
        wanted = total if job.expected_bytes is None else job.expected_bytes
        if total is not None and total != wanted:
            if start:  # then what came before is of that other file too
                job.part.unlink()
            raise WeightsError(
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
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=job.timeout_s)
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
            if wanted is not None and have > wanted:
                break
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
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total, completed=start)
            yield lambda count: bar.advance(task, count)
        return
    have = start

    def log_tenths(count: int) -> None:
        nonlocal have
        before, have = have, have + count
        if total and have * 10 // total > before * 10 // total:
            logger.info("%s: %d of %d bytes (%d %%)", name, have, total, have * 100 // total)

    yield log_tenths


def _weights_folders(cfg: Path) -> list[Path]:
    """Where weights may lie, first choice first."""
    return [cfg.parent, Path("weights").absolute(), _shipped_folder("weights"), cache_folder()]


def _weights_url(name: str) -> str | None:
    """Address of a weights file: on the user's mirror, else as published, else None."""
    mirror = os.environ.get(URL_VARIABLE)
    if mirror:
        return f"{mirror.rstrip('/')}/{urllib.parse.quote(name)}"
    return WEIGHTS_URLS.get(name.removesuffix(".weights"))


def _shipped_folder(kind: str) -> Path:
    """``cfg`` or ``weights``: inside an installed package, at the root of a checkout."""
    package = Path(str(importlib.resources.files("yoloprune")))
    installed = package / kind
    return installed if installed.is_dir() else package.parent / kind


def _is_bare(path: Path) -> bool:
    return path.name == str(path)


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _one_line(reason: object) -> str:
    """An exception as one line; some say nothing at all."""
    return " ".join(str(reason).split()) or type(reason).__name__
