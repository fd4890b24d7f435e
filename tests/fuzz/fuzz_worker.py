"""The process that tries the inputs; its parent may have to end it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import fuzz_targets
import torch
from fuzz_guard import BYTES, Guard, peak
from fuzz_targets import TARGETS, Target, lay_out
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from run import NAMES, SPENT, Board

from yoloprune.errors import YoloPruneError

ROUND = 100
"""Inputs between two looks at the clock."""
SHRINK_SECONDS = 10.0
LONGEST = 1500
"""Characters of a message."""


class FellError(Exception):
    """An input did what none may; hypothesis makes it smaller."""


class Worker:
    """Tries inputs on one target after the other.

    Args:
        base: see ``Guard``; ``found.jsonl`` there tells the parent what fell.
        crashes: where inputs that fell are kept.
        known: what fell in earlier workers.
    """

    def __init__(self, base: Path, crashes: Path, known: set[str]) -> None:
        self._base, self._crashes = base, crashes
        self._board = Board(base / "board")
        self._known = known
        self._smallest: dict[str, tuple[bytes, str]] = {}
        self._hunted: str | None = None
        self._hunt_ends = 0.0
        self._ready = time.time()
        lay_out(base / "in")
        self._guard = Guard(base)

    def replay(self, name: str, path: Path) -> None:
        """Try one file."""
        self._board.put(1, NAMES.index(name))
        key = self._try(name, TARGETS[name], path.read_bytes())
        if key:
            self._keep(name, key)

    def fuzz(self, name: str, seconds: float, first_seed: int) -> None:
        """Try a target for some time."""
        target = TARGETS[name]
        cases = target.cases()
        _warm_up(cases)
        self._board.put(1, NAMES.index(name))
        started, self._ready = time.monotonic(), time.time()
        tried = int(self._board.get(self._board.at(name, "inputs")))
        for data in target.seeds()[tried:]:
            key = self._try(name, target, data)
            if key and key not in self._known:
                self._keep(name, key)
        number = first_seed
        while time.monotonic() < started + seconds:
            self._round(name, target, cases, number, started + seconds)
            number += 1

    def _round(self, name: str, target: Target, cases: Any, number: int, end: float) -> None:
        """Some inputs; the first that falls in a new way is made smaller and kept."""

        few = end - time.monotonic() < 1

        @seed(number)
        @settings(
            max_examples=10 if few else ROUND, deadline=None, database=None,
            report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )  # fmt: skip
        @given(cases)
        def once(data: bytes) -> None:
            now = time.monotonic()
            if now > (self._hunt_ends if self._hunted else end):
                return
            key = self._try(name, target, data)
            if key is None or key in self._known or self._hunted not in (None, key):
                return
            if self._hunted is None:
                self._hunted, self._hunt_ends = key, now + SHRINK_SECONDS
            raise FellError

        self._hunted = None
        with suppress(FellError, Flaky):
            once()
        if self._hunted:
            self._keep(name, self._hunted)

    def _try(self, name: str, target: Target, data: bytes) -> str | None:
        """Try an input.

        Returns:
            What fell and where, if it did; its smallest input is in ``self._smallest``.
        """
        for old in (self._base / "in").glob("case*"):
            old.unlink()
        path = self._base / "in" / f"case{target.suffix}"
        path.write_bytes(data)
        started = time.time()
        self._board.put(0, started)
        key, story, refused = None, "", False
        try:
            self._guard.run(lambda: target.read(path))
        except YoloPruneError as exc:
            refused = True
            if len(str(exc)) > LONGEST:
                key, story = f"{name}: a message of pages", str(exc)
        except BaseException as exc:
            key, story = self._key(name, exc), "".join(traceback.format_exception(exc)[-40:])
        seconds = time.time() - started
        self._board.put(0, 0)
        board = self._board
        board.add(name, "inputs", 1)
        board.add(name, "seconds", time.time() - self._ready)
        self._ready = time.time()
        board.add(name, "refused" if refused else "accepted", float(key is None or refused))
        board.put(board.at(name, "worst"), max(board.get(board.at(name, "worst")), seconds))
        if key:
            kept = self._smallest.get(key)
            if kept is None or len(data) < len(kept[0]):
                self._smallest[key] = (data, story)
        if peak() > BYTES:  # and so it would say for ever
            if key and key not in self._known:
                self._keep(name, key)
            os._exit(SPENT)
        return key

    @staticmethod
    def _key(name: str, exc: BaseException) -> str:
        """The kind of a fall: its type, the last place of ours and the last at all."""
        frames = traceback.extract_tb(exc.__traceback__)
        places = [f"{Path(f.filename).name}:{f.name}" for f in frames if "fuzz_" not in f.filename]
        ours = [f for f in frames if "/yoloprune/" in f.filename.replace("\\", "/")]
        last = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "nowhere"
        what = str(exc).split("(")[0][:40] if isinstance(exc, OSError) else ""
        if type(exc).__name__ in ("HangError", "MemoryError", "RecursionError"):
            return f"{name}: {type(exc).__name__} in {last}"
        return f"{name}: {type(exc).__name__} {what} in {last}, {places[-1] if places else ''}"

    def _keep(self, name: str, key: str) -> None:
        """Write an input that fell, and tell the parent."""
        self._known.add(key)
        data, story = self._smallest[key]
        self._crashes.mkdir(parents=True, exist_ok=True)
        stem = f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
        path = self._crashes / f"{stem}{TARGETS[name].suffix}"
        path.write_bytes(data)
        path.with_name(f"{path.name}.txt").write_text(f"{key}\n\n{story}", errors="replace")
        with (self._base / "found.jsonl").open("a") as file:
            file.write(json.dumps([key, str(path)]) + "\n")


def _warm_up(cases: Any) -> None:
    """Let hypothesis read its tables, which takes seconds, before the clock runs."""

    @settings(
        max_examples=1,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def once(data: bytes) -> None:
        pass

    once()


def work(base: Path, job: dict[str, Any]) -> None:
    """Carry out what the parent wrote down."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    if job["own"]:
        fuzz_targets.SMALL, fuzz_targets.CASES = True, Path("none")
    for name in job["left"]:
        TARGETS[name].seeds()  # whatever that imports and writes is no deed of a case
    worker = Worker(base, Path(job["crashes"]), set(job["known"]))
    for name, seconds in job["left"].items():
        if "replay" in job:
            worker.replay(name, Path(job["replay"]))
        else:
            worker.fuzz(name, seconds, job["seed"])
