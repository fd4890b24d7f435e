"""Files at random for every reader: no traceback, no hang, no gigabytes, nothing written.

``python tests/fuzz/run.py --seconds 600`` shares the time among all readers and prints what came
of it; an input that fell is written to ``--crashes``, as small as it could be made, and
``python tests/fuzz/run.py --replay FILE`` tries it again.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
NAMES = ("cfg", "weights", "plan", "recipe", "data", "darknet", "labels", "checkpoint", "model")
# The worker ends a case by itself before that, unless it is in C code meanwhile.
PATIENCE = 40.0
SPENT = 3
"""How a worker ends that needed too much memory, and could not tell any more."""


class Board:
    """What a worker has done so far, where its parent sees it even after its end.

    Args:
        path: a file; made by the parent.
    """

    FIELDS = ("begun", "target", "inputs", "accepted", "refused", "seconds", "worst")
    SIZE = 8 * (2 + 5 * len(NAMES))

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(self.SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self.SIZE)

    def get(self, number: int) -> float:
        return float(struct.unpack_from("<d", self._map, 8 * number)[0])

    def put(self, number: int, value: float) -> None:
        struct.pack_into("<d", self._map, 8 * number, value)

    def at(self, target: str, field: str) -> int:
        """The number of a target's count."""
        return 2 + 5 * NAMES.index(target) + self.FIELDS.index(field) - 2

    def add(self, target: str, field: str, value: float) -> None:
        number = self.at(target, field)
        self.put(number, self.get(number) + value)


def main() -> int:
    """Parse flags; 0 where nothing fell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--target", action="append", choices=NAMES, help="only this; repeatable")
    parser.add_argument("--seed", type=int, default=None, help="of everything random")
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"), help="folder")
    parser.add_argument("--own", action="store_true", help="small seeds of the repository only")
    parser.add_argument("--replay", type=Path, help="an input that fell; NAME-… says its target")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        sys.path.insert(0, str(REPO))
        from fuzz_worker import work

        work(flags.worker, json.loads((flags.worker / "job.json").read_text()))
        return 0
    seed = int(time.time()) if flags.seed is None else flags.seed
    targets = tuple(flags.target or NAMES)
    job: dict[str, Any] = {"seed": seed, "seconds": flags.seconds / len(targets), "own": flags.own}
    if flags.replay:
        name = flags.replay.name.partition("-")[0]
        if name not in NAMES:
            parser.error(f"{flags.replay.name}: expected TARGET-…, one of {', '.join(NAMES)}")
        targets, job["replay"] = (name,), str(flags.replay.resolve())
    print(f"seed {seed}", flush=True)
    fell = fuzz(targets, job, flags.crashes.resolve())
    return 1 if fell else 0


def fuzz(targets: tuple[str, ...], job: dict[str, Any], crashes: Path) -> list[str]:
    """Let workers at the targets; one that dies or hangs is followed by the next.

    Returns:
        What fell, a line each.
    """
    fell: list[str] = []
    known: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        base = Path(folder)
        board = Board(base / "board")
        waiting = list(targets)
        while waiting:
            left = {t: job["seconds"] - board.get(board.at(t, "seconds")) for t in waiting}
            left = {t: seconds for t, seconds in left.items() if seconds > 0}
            if not left:
                break
            this = {**job, "left": left, "crashes": str(crashes), "known": known}
            (base / "job.json").write_text(json.dumps(this))
            how = _watch(_started(base), board)
            known |= _found(base)
            now = NAMES[int(board.get(1))] if board.get(1) < len(NAMES) else waiting[0]
            if how is None:
                waiting = []
            elif how == f"ended with {SPENT}":
                board.put(0, 0)
                job["seed"] += 1
                waiting = waiting[waiting.index(now) :]
            elif board.get(0) == 0:  # before, or between, any case
                raise SystemExit(f"the worker {how}: {(base / 'errors').read_text()[-3000:]}")
            else:
                kept = _kept(base, now, crashes)
                fell.append(f"{now}: {how}; {kept}")
                board.add(now, "inputs", 1)
                board.put(0, 0)
                job["seed"] += 1
                # so that one that falls at once does not go round for ever
                board.add(now, "seconds", PATIENCE if "hung" in how else 1.0)
                waiting = waiting[waiting.index(now) :]
                if "replay" in job:
                    break
        _print_table(targets, board)
    fell += [f"{key}; {path}" for key, path in known.items()]
    for line in fell:
        print(f"FELL {line}", flush=True)
    return fell


def _started(base: Path) -> subprocess.Popen[bytes]:
    """A worker with nothing around it."""
    for name in ("cwd", "home", "tmp", "in", "settings"):
        shutil.rmtree(base / name, ignore_errors=True)
        (base / name).mkdir()
    bare = {
        "HOME": base / "home", "TMPDIR": base / "tmp", "XDG_CACHE_HOME": base / "home/cache",
        "YOLO_CONFIG_DIR": base / "settings", "MPLCONFIGDIR": base / "settings",
        "OMP_NUM_THREADS": 1, "YOLO_OFFLINE": "True", "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": 1, "HYPOTHESIS_STORAGE_DIRECTORY": REPO / ".hypothesis",
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in bare.items()}
    with (base / "errors").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, str(HERE / "run.py"), "--worker", str(base)],
            cwd=base / "cwd", env=environment, stdout=errors, stderr=errors,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


def _watch(worker: subprocess.Popen[bytes], board: Board) -> str | None:
    """How a worker ended; None if well."""
    started = time.time()
    while worker.poll() is None:
        time.sleep(0.05)
        begun = board.get(0)
        late = time.time() - begun > PATIENCE if begun else time.time() - started > 3600
        if late:
            worker.kill()
            worker.wait()
            return f"hung for {PATIENCE:g} s"
    code = worker.returncode
    if code == 0:
        return None
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _found(base: Path) -> dict[str, str]:
    """What the worker noted down: what fell → the input."""
    path = base / "found.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return dict(json.loads(line) for line in lines)


def _kept(base: Path, target: str, crashes: Path) -> Path | None:
    """The case that a dead worker was at."""
    crashes.mkdir(parents=True, exist_ok=True)
    for path in (base / "in").glob("case*"):
        return Path(shutil.copy(path, crashes / f"{target}-dead-{int(time.time())}{path.suffix}"))
    return None


def _print_table(targets: tuple[str, ...], board: Board) -> None:
    row = "{:<12}{:>9}{:>10}{:>9}{:>9}{:>9}"
    print(row.format("target", "inputs", "accepted", "refused", "seconds", "worst"))
    for target in targets:
        counts = {name: board.get(board.at(target, name)) for name in Board.FIELDS[2:]}
        numbers = [str(int(counts[name])) for name in ("inputs", "accepted", "refused")]
        times = [f"{counts['seconds']:.1f}", f"{counts['worst']:.2f}"]
        print(row.format(target, *numbers, *times), flush=True)


if __name__ == "__main__":
    sys.exit(main())
