"""Bars: on a terminal, one below the other, gone at the end; elsewhere a line now and then."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from yoloprune import progress as bars
from yoloprune.progress import counting, progress, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Standard error as a terminal; nothing may be left drawn on it."""
    monkeypatch = pytest.MonkeyPatch()
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    try:
        yield screen
    finally:
        monkeypatch.undo()
    assert bars._TERMINAL._bars is None and not bars._TERMINAL._stages
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h")


def drawn() -> list[str]:
    """What is to be seen, from above."""
    shown = bars._TERMINAL._bars
    assert shown is not None
    return [task.description for task in shown.tasks if task.visible]


def test_a_bar_counts_and_is_gone() -> None:
    with terminal() as screen:
        with counting(4, "pictures [x]") as advance:
            advance(3)
            assert drawn() == ["pictures [x]"]
        assert "pictures [x]" in screen.getvalue() and "0/4" in screen.getvalue()


def test_one_of_one_is_not_counted() -> None:
    with terminal() as screen:
        with counting(1, "pictures") as advance:
            advance(1)
        assert screen.getvalue() == ""


def test_a_stage_makes_room_for_its_parts() -> None:
    with terminal(), progress("trials") as outer:
        outer(1, 7)
        with stage("repairing"):
            assert drawn() == ["trials", "repairing"]
            with progress("repair") as inner:
                inner(2, 5)
                assert drawn() == ["trials", "repair"]
            assert drawn() == ["trials", "repairing"]
        assert drawn() == ["trials"]


def test_bars_may_end_in_any_order() -> None:
    with terminal():
        first, second = progress("first"), progress("second")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert drawn() == ["second"]
        second.__exit__(None, None, None)


def test_an_error_leaves_nothing_drawn() -> None:
    with terminal():

        def fails() -> None:
            with stage("repairing"), progress("repair"):
                raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011
            fails()


def test_what_is_timed_is_not_disturbed_by_a_clock() -> None:
    with terminal() as screen, stage("timing", still=True):
        assert bars._TERMINAL._bars is not None
        assert not bars._TERMINAL._bars.live.auto_refresh
        with progress("networks") as advance:
            advance(3, 9)
            assert "3/9" in screen.getvalue()  # drawn at once, for nothing else would


def test_results_in_a_pipe_are_not_drawn_with_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as screen:
        pipe = io.StringIO()
        monkeypatch.setattr(sys, "stdout", pipe)
        with progress("repair"):
            sys.stdout.write("a result\n")
        assert pipe.getvalue() == "a result\n" and "a result" not in screen.getvalue()


def test_nobody_who_wants_less_sees_a_bar() -> None:
    with terminal() as screen:
        package = logging.getLogger("yoloprune")
        before = package.level
        package.setLevel(logging.WARNING)
        try:
            with stage("repairing"), counting(9, "pictures") as advance:
                advance(9)
        finally:
            package.setLevel(before)
        assert screen.getvalue() == ""


def test_without_a_terminal_a_line_is_said_now_and_then(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "yoloprune")
    now = 100.0
    monkeypatch.setattr(bars.time, "monotonic", lambda: now)
    with stage("repairing"), counting(10, "repair") as advance:
        for _ in range(10):
            now += 6
            advance(1)
    assert caplog.messages == [
        "repair: 3 of 10, 42 s left", "repair: 6 of 10, 24 s left", "repair: 9 of 10, 6.0 s left"
    ]  # fmt: skip
    assert capsys.readouterr() == ("", "")


def test_what_is_made_ready_first_does_not_count_as_work(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "yoloprune")
    now = 100.0
    monkeypatch.setattr(bars.time, "monotonic", lambda: now)
    with progress("table") as advance:
        now += 60
        for done in range(1, 11):
            now += 6
            advance(done, 200)
    assert caplog.messages[:2] == ["table: 1 of 200", "table: 4 of 200, 20 min left"]
