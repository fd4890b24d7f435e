"""Ultralytics without its voice."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def quiet_ultralytics() -> Iterator[None]:
    """Keep Ultralytics' tables and bars off the terminal; its warnings go to the log."""
    from ultralytics.utils import LOGGER

    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.inference_mode(False):
            yield
    finally:
        LOGGER.setLevel(level)
