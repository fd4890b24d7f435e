"""Released Ultralytics checkpoints by their bare names, fetched from their authors.

Stock Ultralytics fetches whatever a name spells, into the working folder. Here a bare name that is
among the released ones is looked up in the working folder, in Ultralytics' own weights folder and
in the cache, and fetched into the cache at last; anything else is never fetched.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from yoloprune.errors import CheckpointError
from yoloprune.fetch import Limits, cache_folder, download

logger = logging.getLogger(__name__)

RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
URL_VARIABLE = "YOLOPRUNE_CHECKPOINT_URL"
"""Environment variable: a mirror that serves ``<address>/<name>.pt``."""
SHA256 = {
    "yolov8n.pt": "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36",
    "yolo11n.pt": "0ebbc80d4a7680d14987a577cd21342b65ecfd94632bd9a8da63ae6417644ee1",
}
"""Digests that many projects agree on; the authors publish none in their code."""
_DETECTORS = ("yolo", "rtdetr")
MAX_BYTES = 1_000_000_000


def find_checkpoint(path: Path) -> Path:
    """The file of a checkpoint: as given, or a released one by its bare name.

    Raises:
        CheckpointError: there is no such file, or it cannot be fetched; says what to put where.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder, expected a .pt file.")
    if path.name != str(path):
        raise CheckpointError(f"{path}: no such file.")
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.checks import check_yolov5u_filename
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    name = check_yolov5u_filename(path.name, verbose=False)
    places = [Path(name), Path(SETTINGS["weights_dir"]) / name, cache_folder() / name]
    for place in places:
        if place.is_file():
            logger.debug("checkpoint: %s", place)
            return place
    if name not in GITHUB_ASSETS_NAMES or not name.startswith(_DETECTORS):
        raise CheckpointError(f"{path}: no such file, nor the name of a released checkpoint.")
    mirror = os.environ.get(URL_VARIABLE)
    limits = Limits(
        sha256=None if mirror else SHA256.get(name), max_bytes=MAX_BYTES, error=CheckpointError
    )
    return download(f"{(mirror or RELEASE).rstrip('/')}/{name}", cache_folder() / name, limits)
