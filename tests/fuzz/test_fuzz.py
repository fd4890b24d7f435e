"""The fuzzer finds what it is there for, and nothing falls in a short run of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
NAMES = ("cfg", "weights", "plan", "recipe", "data", "darknet", "labels", "checkpoint", "model")


def fuzz(*flags: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def counts(printed: str) -> dict[str, tuple[int, int, int]]:
    """Target → inputs, accepted, refused."""
    rows = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) ", printed, re.MULTILINE)
    return {name: (int(inputs), int(yes), int(no)) for name, inputs, yes, no in rows}


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    found = counts(done.stdout)
    assert set(found) == set(NAMES)
    for name, (inputs, accepted, refused) in found.items():
        assert inputs == accepted + refused, name
        assert accepted, name
    assert sum(refused for _, _, refused in found.values()) > len(NAMES)


def test_nothing_falls_in_seconds(tmp_path: Path) -> None:
    check(fuzz("--seconds", 2, "--seed", 1, "--own", "--crashes", tmp_path))


@pytest.mark.slow
def test_nothing_falls_in_a_minute(tmp_path: Path) -> None:
    check(fuzz("--seconds", 60, "--crashes", tmp_path, timeout=300))


DEEDS = {
    "writes": "open('PWNED', 'w')",
    "writes elsewhere": "os.mkdir(os.path.expanduser('~/left'))",
    "writes unheard": "torch.save({}, 'PWNED')",
    "connects": "socket.create_connection(('127.0.0.1', 9), 1)",
    "asks the name server": "socket.gethostbyname('example.com')",
    "starts": "os.system('true')",
    "starts another way": "subprocess.run(['true'])",
    "hides its deed": "contextlib.suppress(Exception).__enter__(); os.remove(__file__)",
    "hangs": "time.sleep(60)",
    "hangs unheard": "signal.setitimer(signal.ITIMER_REAL, 0); time.sleep(60)",
    "fills memory": "[bytearray(1 << 28) for _ in range(64)]",
    "held much memory": "bytearray(b'x') * (5 << 29)",
    "dies": "os.kill(os.getpid(), signal.SIGSEGV)",
    "recurs": "(lambda f: f(f))(lambda f: f(f))",
    "says pages": "(_ for _ in ()).throw(YoloPruneError('a' * 2000))",
    "falls": "{}['a']",
}
"""What a reader might do to a file that holds ``deed``, as an expression."""


@pytest.mark.slow
@pytest.mark.parametrize("deed", DEEDS)
def test_a_reader_that_does_harm_falls(deed: str, tmp_path: Path) -> None:
    """The fuzzer with one reader that does it when the file says so."""
    target = RUN.with_name("fuzz_targets.py").read_text()
    evil = tmp_path / "fuzz"
    evil.mkdir()
    for path in RUN.parent.glob("*.py"):
        (evil / path.name).write_text(path.read_text())
    for name in ("seeds",):
        (evil / name).symlink_to(RUN.parent / name)
    harm = f"""
import contextlib, signal, socket, subprocess, time, os
from yoloprune.errors import YoloPruneError
def _evil(path):
    if b"deed" in path.read_bytes():
        {DEEDS[deed]}
TARGETS["labels"] = Target(
    suffix=".txt", seeds=lambda: [b"none", b"deed"], made=_made_labels, read=_evil
)
"""
    (evil / "fuzz_targets.py").write_text(target + harm)
    run = (evil / "run.py").read_text()
    (evil / "run.py").write_text(
        run.replace("REPO = HERE.parents[1]", f"REPO = Path({str(RUN.parents[2])!r})")
    )
    done = subprocess.run(
        [sys.executable, str(evil / "run.py"), "--seconds", "1", "--target", "labels",
         "--crashes", str(tmp_path / "crashes")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FELL labels" in done.stdout
    kept = [p for p in (tmp_path / "crashes").iterdir() if p.suffix == ".txt"]
    assert any(b"deed" in path.read_bytes() for path in kept)
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.slow
def test_an_input_that_fell_can_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "labels-0123.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    done = fuzz("--replay", tmp_path / "labels-0123.txt", "--crashes", tmp_path / "crashes")
    assert (done.returncode, counts(done.stdout)["labels"]) == (0, (1, 1, 0))
    (tmp_path / "other.txt").touch()
    assert fuzz("--replay", tmp_path / "other.txt").returncode == 2
