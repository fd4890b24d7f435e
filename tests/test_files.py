"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from yoloprune.errors import YoloPruneError
from yoloprune.files import (
    check_space,
    check_writable,
    held,
    replacing,
    replacing_together,
    settle,
    sha256,
    sweep,
    write_bytes,
)


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.bin"
    write_bytes(target, b"one")
    write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert [p.name for p in target.parent.iterdir()] == ["a.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def write() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL, which no clean-up survives."""
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from yoloprune.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert done.returncode == -9
    assert target.read_bytes() == b"old"
    assert all(p.name.startswith(".") for p in tmp_path.iterdir() if p != target)


def test_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(YoloPruneError, match="a: cannot be written: No space left on device"):
        write_bytes(tmp_path / "a", b"new")
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(YoloPruneError, match="No space left on device"):
        write_bytes(tmp_path / "a", b"new")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(YoloPruneError, match="a: cannot be written: Is a directory"):
        write_bytes(tmp_path / "a", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(YoloPruneError, match="out.* cannot be written to: "):
            write_bytes(folder / "a.bin", b"x")
        with pytest.raises(YoloPruneError, match="out.* cannot be written to: "):
            check_writable(folder)
    assert (tmp_path / "out").read_text() == "a file"


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(YoloPruneError, match="cannot be written"):
        write_bytes(tmp_path / ("x" * 300), b"")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(YoloPruneError, match="Permission denied"):
            check_writable(tmp_path / "a")
        with pytest.raises(YoloPruneError, match="Permission denied"):
            write_bytes(tmp_path / "a" / "b", b"")
    finally:
        tmp_path.chmod(0o700)


def test_sha256(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(data)
    assert sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_folder_is_held_by_one_process_alone(tmp_path: Path) -> None:
    """Until it ends, however it ends; its workers share it, and keep it after it."""
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    with held(folder, alone=True):
        (folder / "result").touch()
        with (
            pytest.raises(YoloPruneError, match=r"run: another process is at work there"),
            held(folder, alone=True),
        ):
            raise AssertionError("it was let in")
        with held(folder, alone=False):  # a worker of it
            pass
    assert sorted(p.name for p in folder.iterdir()) == ["result"]
    with (folder / ".lock").open("w") as worker:  # outlives the one that started it
        fcntl.flock(worker, fcntl.LOCK_SH)
        with (
            pytest.raises(YoloPruneError, match="another process is at work there"),
            held(folder, alone=True),
        ):
            raise AssertionError("it was let in")
    with held(folder, alone=True):
        pass


def test_a_folder_that_was_held_for_nothing_is_gone_again(tmp_path: Path) -> None:
    with held(tmp_path / "run", alone=True):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with (
        pytest.raises(YoloPruneError, match="file: cannot be written to"),
        held(tmp_path / "file", alone=True),
    ):
        raise AssertionError("it was let in")


def _pair(folder: Path, content: bytes) -> None:
    with replacing_together(folder / "n.cfg", folder / "n.weights") as temporaries:
        for temporary in temporaries:
            temporary.write_bytes(content)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_two_files_change_together_whenever_it_is_killed(tmp_path: Path) -> None:
    """Killed before each of its renames and removals, then read as a loader would."""
    ends = set()
    for moment in range(1, 9):
        folder = tmp_path / str(moment)
        folder.mkdir()
        _pair(folder, b"old")
        if (child := os.fork()) == 0:
            count = 0

            def tick(event: str, _: object, moment: int = moment) -> None:
                nonlocal count
                if event in ("os.rename", "os.remove"):
                    count += 1
                    if count == moment:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(tick)
            _pair(folder, b"new")
            os._exit(0)
        os.waitpid(child, 0)
        settle(folder)
        pair = {(folder / name).read_bytes() for name in ("n.cfg", "n.weights")}
        assert len(pair) == 1, moment
        ends |= pair
        with held(folder, alone=True):
            pass
        assert sorted(p.name for p in folder.iterdir()) == ["n.cfg", "n.weights"]
    assert ends == {b"old", b"new"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../n.cfg": ".n.cfg.abcdefgh.yptmp"}, "names files that are not yoloprune's"),
        ({"n.cfg": "precious.txt"}, "names files that are not yoloprune's"),
        (["n.cfg"], "is damaged"),
    ],
)
def test_a_journal_of_somebody_else_moves_nothing(
    files: object, message: str, tmp_path: Path
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / ".n.yoloprune-journal").write_text(json.dumps({"files": files}))
    with pytest.raises(YoloPruneError, match=message):
        settle(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_only_temporary_files_of_the_dead_are_swept(tmp_path: Path) -> None:
    ours = tmp_path / ".a.pt.k3_x9abc.yptmp"
    theirs = [tmp_path / name for name in (".a.pt.tmp", ".hidden", "a.yptmp", ".x.yptmp")]
    for path in (ours, *theirs):
        path.write_bytes(b"x")
    (tmp_path / ".yoloprune-export-abc" / "deep").mkdir(parents=True)
    with replacing(tmp_path / "b") as living:
        sweep(tmp_path)
        assert living.exists()
        living.write_bytes(b"done")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["b", *(path.name for path in theirs)]
    )


def test_too_little_disk_space_is_one_line(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(YoloPruneError, match=r"has \d+ MB of free disk space, expected at least"):
        check_space(tmp_path / "not" / "yet", 1 << 60)
    assert not list(tmp_path.iterdir())
