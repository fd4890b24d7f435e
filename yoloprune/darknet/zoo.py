"""Finds Darknet files by name, and fetches weights that are not at hand.

``yolov4-tiny.cfg`` names a file here or, failing that, one that ships with the package. Its weights
are ``yolov4-tiny.weights``: beside the cfg, in ``./weights``, among the shipped ones, in the cache,
and at last on the network, see :mod:`yoloprune.fetch`.
"""

from __future__ import annotations

import importlib.resources
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from yoloprune.errors import CfgError, WeightsError
from yoloprune.fetch import Limits, cache_folder, download

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

WEIGHTS_SHA256 = {
    "yolov3": "523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297",
    "yolov3-tiny": "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
    "yolov4": "e8a4f6c62188738d86dc6898d82724ec0964d0eb9d2ae0f0a9d53d65d108d562",
    "yolov4-tiny": "cf9fbfd0f6d4869b35762f56100f50ed05268084078805f0e7989efe5bb8ca87",
}
"""Their digests, as OpenVINO's Open Model Zoo (``models/public/*/model.yml``) and, for yolov3,
several distributors publish them; of yolov3-spp none was found."""

URL_VARIABLE = "YOLOPRUNE_WEIGHTS_URL"
"""Environment variable: a mirror that serves ``<address>/<name>.weights`` for every cfg."""


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
    mirrored = bool(os.environ.get(URL_VARIABLE))  # which may serve the user's own
    digest = None if mirrored else WEIGHTS_SHA256.get(name.removesuffix(".weights"))
    limits = Limits(expected_bytes=expected_bytes, sha256=digest)
    return download(url, cache_folder() / name, limits)


def local_weights(cfg: Path) -> Path | None:
    """The weights of a cfg where they are at hand, looked up by its name; never fetched."""
    return _first_file([folder / f"{cfg.stem}.weights" for folder in _weights_folders(cfg)])


def _first_file(candidates: Sequence[Path]) -> Path | None:
    for candidate in candidates:
        if candidate.is_file():
            logger.debug("weights: %s", candidate)
            return candidate
    return None


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
