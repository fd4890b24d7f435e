"""What is said while a network is trained: a line an epoch, and bars on terminals.

Lines go to the log at level INFO. Bars count batches, and are gone when the line is there.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from yoloprune.models.quiet import is_only_warnings, only_warnings, without_names
from yoloprune.progress import counting, span, stage

log = logging.getLogger(__name__)

_FIGURES = {
    "metrics/mAP50-95(B)": "AP50:95",
    "metrics/mAP50-95(M)": "AP of masks",
    "metrics/mAP50-95(P)": "AP of key points",
    "metrics/accuracy_top1": "top-1",
    "metrics/mIoU": "mIoU",
    "metrics/delta1": "delta1",
}
"""Of what Ultralytics measures after an epoch, what is told; and by which name."""
_VOICE = "YOLO_VERBOSE"
"""Environment variable of Ultralytics."""
_LESS = ("lr", "zero")
"""Left out where a terminal is too narrow, in this order."""


_NAMES = {"model=yoloprune.pt, ": "", "weights/.final-": "weights/", "weights/.new-": "weights/"}
"""Of files that nobody asked for, which stand for those that are told instead."""


@contextmanager
def heard(verbose: bool) -> Iterator[None]:
    """What Ultralytics is heard to say while it trains: everything, or what it warns of.

    So are the workers that it starts, until they have a model.
    """
    before = os.environ.get(_VOICE)
    if not verbose:
        os.environ[_VOICE] = "false"
    undo = without_names(_NAMES) if verbose else only_warnings()
    try:
        yield
    finally:
        undo()
        if before is not None:
            os.environ[_VOICE] = before
        elif not verbose:
            os.environ.pop(_VOICE, None)


def hear_worker(*, told: bool) -> None:
    """In a process that Ultralytics started: as :func:`heard`, and log where nobody else does."""
    if is_only_warnings():
        return
    only_warnings()
    package = logging.getLogger("yoloprune")
    package.setLevel(logging.INFO if told else logging.WARNING)
    package.addHandler(logging.StreamHandler())


class EpochLines:
    """Callbacks of a trainer: how each epoch went, and how far the present one is.

    Args:
        trainer: whose model, optimizer and EMA stand.
        title: stands before each line, for runs of many trainings.
        sparse: lines of the log of sparsity, to which more come as epochs end.
    """

    def __init__(
        self, trainer: Any, *, title: str = "", sparse: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._title, self._sparse = f"{title}  " if title else "", sparse
        self._bars = ExitStack()
        self._advance: Callable[[int], None] = _nothing
        self._begun = time.monotonic()
        self._done = 0
        self._left_out: set[str] = set()
        self._measured = self._open = False
        events = {
            "on_train_epoch_start": self.begin,
            "on_train_batch_end": self.advance,
            "on_val_start": self.measure,
            "on_val_batch_end": self.advance,
            "on_fit_epoch_end": self.end,
            "on_train_end": lambda _: self.close(),
        }
        for event, callback in events.items():
            trainer.add_callback(event, callback)

    def begin(self, trainer: Any) -> None:
        """An epoch starts."""
        self._open, self._measured = True, False
        self._bar(len(trainer.train_loader), f"{self._title}epoch {trainer.epoch + 1}")

    def measure(self, validator: Any) -> None:
        """The validation pictures are gone through, after an epoch or at last."""
        self._measured = True
        self._bar(len(validator.dataloader), f"{self._title}measuring")

    def advance(self, _: Any) -> None:
        """A batch is done."""
        self._advance(1)

    def end(self, trainer: Any) -> None:
        """An epoch is over: tell of it. Ultralytics says so again after its last validation."""
        self.close()
        if self._open:
            self._open = False
            self._done += 1
            log.info("%s", self._fitting(dict(self._parts(trainer))))
        if trainer.stop:  # the best network is measured, and curves are drawn
            self._bars.enter_context(stage(f"{self._title}finishing"))

    def close(self) -> None:
        """Take away the bar."""
        self._bars.close()
        self._advance = _nothing

    def _bar(self, total: int, what: str) -> None:
        self.close()
        self._bars.enter_context(stage(what))  # of a single batch nothing is counted
        self._advance = self._bars.enter_context(counting(total, what))

    def _parts(self, trainer: Any) -> Iterator[tuple[str, str]]:
        """What is told of an epoch, by name."""
        last = str(trainer.epochs)
        yield "epoch", f"{self._title}epoch {trainer.epoch + 1:>{len(last)}}/{last}"
        losses = (f"{name.removesuffix('_loss')} {float(value):#.4g}"
                  for name, value in (trainer.tloss or {}).items())  # fmt: skip
        yield "loss", "  ".join(losses)
        if self._measured:
            yield "AP", figures(trainer.metrics)
        rates = [g["lr"] for g in trainer.optimizer.param_groups if g.get("param_group") != "bias"]
        yield "lr", f"lr {max(rates):.2g}" if rates else ""
        if self._sparse:
            yield "zero", f"zero {self._sparse[-1]['zero_share']:.1%}"
        yield "seconds", span(trainer.epoch_time)
        left = 0 if trainer.stop else trainer.epochs - trainer.epoch - 1
        if left > 0:
            each = (time.monotonic() - self._begun) / self._done
            yield "left", f"{span(left * each)} left"

    def _fitting(self, parts: dict[str, str]) -> str:
        """One line, without what a narrow terminal has no room for, nor had before."""
        room = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
        for name in (*_LESS, None):
            told = [part for key, part in parts.items() if part and key not in self._left_out]
            line = "  ".join(told)
            if name is None or room is None or len(line) <= room:
                break
            self._left_out.add(name)
        return line


def figures(metrics: Mapping[str, Any]) -> str:
    """What was measured, in words; empty where nothing was."""
    told = [f"{name} {metrics[key]:.4f}" for key, name in _FIGURES.items() if key in metrics]
    return "  ".join(told)


def _nothing(count: int) -> None:
    """No bar to advance."""
