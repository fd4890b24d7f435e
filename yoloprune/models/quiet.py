"""Ultralytics without its voice."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator

import torch

log = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet_ultralytics() -> Iterator[None]:
    """Keep Ultralytics' tables, bars and warnings off the terminal."""
    from ultralytics.utils import LOGGER

    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.inference_mode(False):
            yield
    finally:
        LOGGER.setLevel(level)


@contextlib.contextmanager
def no_logging() -> Iterator[None]:
    """Keep what tools tell the log, up to warnings, out of it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def only_warnings() -> Callable[[], None]:
    """Keep Ultralytics' tables and bars off the terminal; what it warns of goes to the log.

    Returns:
        Gives it its voice back.
    """
    from ultralytics.utils import LOGGER

    level, handlers = LOGGER.level, LOGGER.handlers[:]
    LOGGER.setLevel(max(level, logging.WARNING))  # which takes its bars away, too
    LOGGER.handlers[:] = [_PassedOn()]

    def undo() -> None:
        LOGGER.setLevel(level)
        LOGGER.handlers[:] = handlers

    return undo


@contextlib.contextmanager
def warnings_only() -> Iterator[None]:
    """As :func:`only_warnings`, for as long as the block lasts; nor do converters print."""
    undo = only_warnings()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        undo()


def is_only_warnings() -> bool:
    """Whether :func:`only_warnings` holds."""
    from ultralytics.utils import LOGGER

    return any(isinstance(handler, _PassedOn) for handler in LOGGER.handlers)


def without_names(names: dict[str, str]) -> Callable[[], None]:
    """Let Ultralytics call files by other names.

    Args:
        names: as it knows them → as they are told.

    Returns:
        Ends that.
    """
    from ultralytics.utils import LOGGER

    def rename(record: logging.LogRecord) -> bool:
        for name, told in names.items():
            record.msg = str(record.msg).replace(name, told)
        return True

    LOGGER.addFilter(rename)
    return lambda: LOGGER.removeFilter(rename)


class _PassedOn(logging.Handler):
    """What Ultralytics warns of, once each, without colours and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it in this package's log."""
        from ultralytics.utils import remove_colorstr

        text = remove_colorstr(record.getMessage()).strip()
        if text not in self._said:
            self._said.add(text)
            log.log(record.levelno, "Ultralytics: %s", text)
