"""What is said of a training: a line an epoch, once, and what Ultralytics warns of."""

from __future__ import annotations

import io
import logging
import os
import pickle
import sys
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ultralytics.utils import LOGGER

from yoloprune.models.quiet import is_only_warnings
from yoloprune.progress import span
from yoloprune.train.equip import Equip
from yoloprune.train.options import TrainOptions
from yoloprune.train.voice import EpochLines, figures, hear_worker, heard


class Trainer(SimpleNamespace):
    """As much of Ultralytics' trainer as the lines look at."""

    def __init__(self, epochs: int = 10) -> None:
        self.callbacks: dict[str, list[Callable[[Any], None]]] = defaultdict(list)
        super().__init__(
            train_loader=range(3), epoch=0, epochs=epochs, epoch_time=62.0, stop=False,
            tloss={"box_loss": 1.25, "cls_loss": 12.5},
            metrics={"metrics/mAP50-95(B)": 0.5, "metrics/mAP50(B)": 0.7},
            optimizer=SimpleNamespace(
                param_groups=[{"lr": 0.1, "param_group": "bias"},
                              {"lr": 0.002, "param_group": "weight"}]
            ),
        )  # fmt: skip

    def add_callback(self, event: str, callback: Callable[[Any], None]) -> None:
        self.callbacks[event].append(callback)

    def run(self, event: str, given: Any = None) -> None:
        for callback in self.callbacks[event]:
            callback(self if given is None else given)

    def train(self, epochs: int, *, measured: bool = True) -> None:
        for self.epoch in range(epochs):
            self.run("on_train_epoch_start")
            self.run("on_train_batch_end")
            if measured:
                self.run("on_val_start", SimpleNamespace(dataloader=range(2)))
            self.run("on_fit_epoch_end")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "yoloprune")
    return caplog


def test_an_epoch_is_one_line(told: pytest.LogCaptureFixture) -> None:
    trainer = Trainer()
    EpochLines(trainer, title="round1/tuned")
    trainer.train(2)
    trainer.epoch = 2  # as after the last validation
    trainer.run("on_val_start", SimpleNamespace(dataloader=range(2)))
    trainer.run("on_fit_epoch_end")
    first, second = told.messages
    assert first.startswith(
        "round1/tuned  epoch  1/10  box 1.250  cls 12.50  AP50:95 0.5000  lr 0.002  62 s  "
    )
    assert second.startswith("round1/tuned  epoch  2/10  ") and second.endswith(" left")


def test_the_last_epoch_has_nothing_left(told: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(epochs=1)
    EpochLines(trainer)
    trainer.train(1)
    assert told.messages[0].endswith("62 s")


def test_what_was_not_measured_is_not_told(told: pytest.LogCaptureFixture) -> None:
    trainer = Trainer()
    EpochLines(trainer)
    trainer.train(1, measured=False)
    assert "AP" not in told.messages[0]


def test_sparsity_is_told_where_there_is_any(told: pytest.LogCaptureFixture) -> None:
    trainer = Trainer()
    EpochLines(trainer, sparse=[{"zero_share": 0.5}, {"zero_share": 0.125}])
    trainer.train(1)
    assert "  zero 12.5%  " in told.messages[0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_gets_less_but_every_line_the_same(
    told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "70")
    trainer = Trainer(epochs=2)
    EpochLines(trainer)
    trainer.train(2)
    assert all("box 1.250" in line and "lr" not in line for line in told.messages)
    assert max(map(len, told.messages)) <= 70


def test_figures_have_the_field_s_names() -> None:
    assert figures({"metrics/mAP50-95(B)": 0.5, "metrics/mAP50-95(M)": 0.25, "val/x": 1}) == (
        "AP50:95 0.5000  AP of masks 0.2500"
    )
    assert figures({"metrics/accuracy_top1": 0.75}) == "top-1 0.7500"
    assert figures({}) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (119, "119 s"), (119.6, "2 min"),
     (7170, "2 h 00 min"), (12000, "3 h 20 min")],
)  # fmt: skip
def test_times_are_told_in_two_digits_or_so(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_ultralytics_is_heard_to_warn_only_and_once(
    told: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    level, handlers = LOGGER.level, LOGGER.handlers[:]
    with heard(verbose=False):
        assert os.environ["YOLO_VERBOSE"] == "false"
        LOGGER.info("a table")
        for _ in range(2):
            LOGGER.warning("\x1b[34mtrain:\x1b[0m it is so")
    assert told.messages == ["Ultralytics: train: it is so"]
    assert (LOGGER.level, LOGGER.handlers) == (level, handlers)
    assert "YOLO_VERBOSE" not in os.environ
    assert capsys.readouterr().out == ""


def test_all_that_ultralytics_says_has_no_names_of_files_that_nobody_knows() -> None:
    said = logging.StreamHandler(stream := io.StringIO())
    LOGGER.addHandler(said)
    try:
        with heard(verbose=True):
            LOGGER.info("Validating a/weights/.final-best.pt...")
            LOGGER.info("mode=train, model=yoloprune.pt, momentum=0.9")
    finally:
        LOGGER.removeHandler(said)
    assert stream.getvalue() == ("Validating a/weights/best.pt...\nmode=train, momentum=0.9\n")


def test_a_worker_of_ultralytics_tells_as_its_starter_would() -> None:
    """What it is handed is pickled; nothing in the process has set up any log."""
    equip = pickle.loads(pickle.dumps(Equip(TrainOptions(data="d", imgsz=64), told=False)))
    level, handlers = LOGGER.level, LOGGER.handlers[:]
    package = logging.getLogger("yoloprune")
    before = package.level, package.handlers[:]
    try:
        hear_worker(told=equip.told)
        assert is_only_warnings() and package.level == logging.WARNING
        added = [handler for handler in package.handlers if handler not in before[1]]
        hear_worker(told=True)  # the second time nothing is left to do
        assert package.level == logging.WARNING and len(added) == 1
    finally:
        LOGGER.setLevel(level)
        LOGGER.handlers[:] = handlers
        package.setLevel(before[0])
        package.handlers[:] = before[1]


def test_a_terminal_shows_what_is_done_after_the_last_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from yoloprune import progress

    def drawn() -> list[str]:
        bars = progress._TERMINAL._bars
        return [] if bars is None else [task.description for task in bars.tasks if task.visible]

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    trainer = Trainer(epochs=1)
    EpochLines(trainer)
    trainer.run("on_train_epoch_start")
    assert drawn() == ["epoch 1"]
    trainer.run("on_val_start", SimpleNamespace(dataloader=range(1)))
    assert drawn() == ["measuring"]
    trainer.stop = True
    trainer.run("on_fit_epoch_end")
    assert drawn() == ["finishing"]
    trainer.run("on_val_start", SimpleNamespace(dataloader=range(2)))
    assert drawn() == ["measuring"]
    trainer.run("on_fit_epoch_end")
    assert drawn() == ["finishing"]
    trainer.run("on_train_end")
    assert drawn() == []
