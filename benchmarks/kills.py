"""SIGKILLs at file operations of slim, train, run and export, and what is left of them.

    python benchmarks/kills.py --kills 200

A parent imports everything once. Each case forks a child that runs the command line in itself and
kills itself right before its k-th file operation (open for writing, rename, remove, mkdir, rmdir,
link, chmod, truncate: audit events of the interpreter). The k are spread evenly over all operations
of an undisturbed run. Then the same command is given as a user would: again, with ``--resume``, or
with ``--overwrite`` where it is refused in one line. Asked is, of every case:

- the second command ends well, or was refused in one line and ends well with ``--overwrite``;
- every result has the bytes that the undisturbed run wrote (not those that hold times);
- the user's files in the folder, and earlier results beside it, have their bytes still;
- nothing whose name begins with a dot is left in the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

OPERATIONS = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "shutil.rmtree", "shutil.copyfile",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
COMMANDS = ("slim", "train", "run", "export")
TIMED = (".html", ".md", ".png", ".jpg", ".csv")
"""Pages, cards and tables with times in them, and pictures of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What became of one kill.

    Attributes:
        command: that was killed.
        operation: number of the file operation before which it was, from 1.
        event: of the interpreter's audit, and the file's name.
        again: how the next command ended: ``done``, or ``refused, then done``.
        identical: results whose bytes are those of the undisturbed run.
        results: all results of the undisturbed run that hold no times.
        lost: files of the user, or earlier results, that are gone or changed.
        left: temporary files after the next run.
        verdict: ``ok``, or what was wrong.
    """

    command: str
    operation: int
    event: str
    again: str
    identical: int
    results: int
    lost: int
    left: int
    verdict: str


class Counter:
    """Audit hook that counts file operations inside a folder, and kills at one of them."""

    def __init__(self, inside: Path, kill_at: int | None, note: Path | None) -> None:
        self.inside, self.kill_at, self.note = f"{inside}{os.sep}", kill_at, note
        self.count, self.on = 0, True

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """Called by the interpreter before each of its operations."""
        if not self.on or not (event == "open" or event in OPERATIONS):
            return
        path = arguments[0]
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not f"{Path(name).absolute()}{os.sep}".startswith(self.inside):
            return
        self.count += 1
        if self.count == self.kill_at:
            self.on = False
            if self.note is not None:
                self.note.write_text(f"{event} {Path(name).name}")
            os.kill(os.getpid(), signal.SIGKILL)


def command_line(arguments: list[str], folder: Path, kill_at: int | None = None) -> tuple[int, str]:
    """Run the command line in a forked child, in a folder.

    Args:
        arguments: of the command line.
        folder: working directory; operations inside ``folder/out`` are counted.
        kill_at: number of the operation before which the child dies; None lets it live.

    Returns:
        Exit code (negative: the signal) and standard error; of a living child the last line
        of it is the number of operations.
    """
    errors = folder.parent / f"{folder.name}.stderr"
    note = folder.parent / f"{folder.name}.event"
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException):
            code = _in_child(arguments, folder, Counter(folder / "out", kill_at, note), errors)
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), errors.read_text(encoding="utf-8")


def _in_child(arguments: list[str], folder: Path, counter: Counter, errors: Path) -> int:
    from yoloprune.cli.main import app

    os.chdir(folder)
    with errors.open("w", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr, sys.stdout = file, io.StringIO()
        sys.addaudithook(counter)
        try:
            app(arguments)
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except BaseException as exc:
            file.write(f"traceback {type(exc).__name__}: {exc}\n")
            code = 71
        counter.on = False
        file.write(f"operations {counter.count}\n")
        file.flush()
    return code


def prepare(folder: Path, data: Path, net: Path) -> dict[str, list[str]]:
    """A folder with a user's files in it, a recipe, and each command as it is given there."""
    for place in (folder / "out", folder / "out/weights", folder / "out/notes", folder / "earlier"):
        place.mkdir(parents=True, exist_ok=True)
    for name in (
        "out/notes.txt", "out/notes/.hidden", "out/weights/mine.pt", "out/.a.tmp", "earlier/x.cfg",
    ):  # fmt: skip
        (folder / name).write_text(f"the user's own {name}")
    sections = "train: {epochs: 1}\nsparsify: {epochs: 1}\nfinetune: {epochs: 1}\n"
    (folder / "recipe.yaml").write_text(
        f"model: {net}\ndata: {data}\nimgsz: 64\nbatch: 4\ndevice: cpu\n{sections}"
        "slim: {percent: 0.3, step: 0.3, min_channels: 2}\nstop: {rounds: 1}\n"
        "settings: {workers: 0, plots: false}\n"
    )
    out = ["-o", "out"]
    sets = ["--set", "workers=0", "--set", "plots=false", "--device", "cpu"]
    return {
        "slim": ["slim", str(net), "--percent", "0.3", "--imgsz", "64", "--device", "cpu", *out],
        "export": ["export", str(net), "--format", "torchscript", "--imgsz", "64", *out],
        "train": [
            "train", str(net), "--data", str(data), "--epochs", "2", "--imgsz", "64", "--batch",
            "4", "--percent", "0.3", *sets, *out,
        ],
        "run": ["run", "recipe.yaml", *out],
    }  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def results(folder: Path, theirs: set[str]) -> dict[str, str]:
    """Digest of each result of ours that holds no times; records of runs without these."""
    found = {}
    for name, digest in digests(folder).items():
        path = folder / name
        if name in theirs or path.suffix in TIMED or path.name in ("args.yaml", "data.yaml"):
            continue
        found[name] = digest
        if path.suffix == ".pt" and path.parent.name == "weights":
            found[name] = _tensors(path)
        elif path.suffix == ".torchscript":
            found[name] = _script(path)
        elif path.name in ("run.json", "train.json", "train.txt", "val.txt"):
            text = path.read_text().replace(str(folder.parent), "")
            if path.name == "run.json":
                text = json.dumps(_timeless(json.loads(text)))
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        told = {k: v for k, v in value.items() if "latency" not in k}
        return {k: _timeless(v) for k, v in told.items() if k not in ("date", "command")}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _tensors(path: Path) -> str:
    """Of a checkpoint what is no date and no path."""
    import torch

    state = torch.load(path, weights_only=False)["model"].state_dict()
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _script(path: Path) -> str:
    import torch

    module = torch.jit.load(str(path))
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    digest.update(module(x).detach().numpy().tobytes())
    return digest.hexdigest()


@dataclass(slots=True)
class Undisturbed:
    """A command that was let be.

    Attributes:
        operations: that it made inside the folder.
        results: name → digest.
    """

    operations: int
    results: dict[str, str]


def undisturbed(command: str, place: Path, data: Path, net: Path) -> Undisturbed:
    """Run a command to its end, and count its file operations."""
    folder = place / f"{command}-whole"
    arguments = prepare(folder, data, net)[command]
    theirs = set(digests(folder / "out"))
    code, errors = command_line(arguments, folder)
    if code:
        raise SystemExit(f"{command}: ended with {code}: {errors}")
    count = int(errors.strip().splitlines()[-1].split()[-1])
    return Undisturbed(count, results(folder / "out", theirs))


def killed(
    command: str, operation: int, whole: Undisturbed, place: Path, data: Path, net: Path
) -> Case:
    """Kill a command before an operation, go on, and look at what there is."""
    folder = place / f"{command}-{operation}"
    arguments = prepare(folder, data, net)[command]
    before = digests(folder)
    theirs = set(digests(folder / "out"))
    code, _ = command_line(arguments, folder, operation)
    note = folder.parent / f"{folder.name}.event"
    event = note.read_text() if note.exists() else "none"
    wrong = [] if code == -signal.SIGKILL else [f"was not killed, ended with {code}"]
    again, trouble = _again(command, arguments, folder)
    wrong += trouble
    after = digests(folder)
    lost = [name for name, digest in before.items() if after.get(name) != digest]
    now = results(folder / "out", theirs)
    different = [n for n in {*now, *whole.results} if now.get(n) != whole.results.get(n)]
    left = [n for n in _temporary(folder / "out") if n not in theirs]
    wrong += [f"lost: {lost}"] * bool(lost) + [f"left: {left}"] * bool(left)
    wrong += [f"different: {sorted(different)}"] * bool(different)
    shutil.rmtree(folder)
    return Case(
        command=command,
        operation=operation,
        event=event,
        again=again,
        identical=len(whole.results) - len([n for n in different if n in whole.results]),
        results=len(whole.results),
        lost=len(lost),
        left=len(left),
        verdict="; ".join(wrong) or "ok",
    )


def _again(command: str, arguments: list[str], folder: Path) -> tuple[str, list[str]]:
    """Give the command again, as a user would, and say how that ended."""
    more = ["--resume"] if command == "train" else []
    code, errors = command_line([*arguments, *more], folder)
    if code == 0:
        return "done", []
    lines = [line for line in errors.splitlines() if line.startswith("yoloprune: ")]
    if code != 1 or len(lines) != 1:
        return "failed", [f"ended with {code}: {errors[-300:]}"]
    if "is finished" in lines[0]:
        return "refused: it is finished", []
    code, errors = command_line([*arguments, "--overwrite"], folder)
    if code:
        return "failed", [f"--overwrite ended with {code}: {errors[-300:]}"]
    return "refused, then done with --overwrite", []


def _temporary(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name.startswith(".") and not path.name.startswith(".hidden")
    ]


def moments(operations: int, kills: int) -> Iterator[int]:
    """Numbers of operations, from 1, evenly spread; each once."""
    wanted = min(kills, operations)
    yield from sorted({1 + i * operations // wanted for i in range(wanted)})


def tiny(place: Path) -> tuple[Path, Path]:
    """Pictures, and a network with random weights."""
    import torch

    from yoloprune.measure.demo_data import ShapesSpec, write_shapes
    from yoloprune.models.door import load, save

    torch.manual_seed(0)
    data = write_shapes(place / "data", ShapesSpec(images=4, val=2, size=64))
    cfg = Path(__file__).parents[1] / "cfg" / "yoloprune-demo.cfg"
    save(load(cfg, scratch=True)[0], place / "net.cfg")
    return Path(data).resolve(), (place / "net.cfg").resolve()


def warm_up(place: Path, data: Path, net: Path) -> None:
    """Import what children would, and run in this process what starts no thread of autograd's."""
    import cv2
    import torch

    import yoloprune.rounds.run
    import yoloprune.train.trainer  # noqa: F401
    from yoloprune.cli.main import app

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    here, output, errors = Path.cwd(), sys.stdout, sys.stderr
    for command in ("slim", "export"):
        arguments = prepare(place / f"{command}-warm", data, net)[command]
        os.chdir(place / f"{command}-warm")
        sys.stdout = sys.stderr = io.StringIO()
        try:
            app(arguments)
        except SystemExit as exc:
            if exc.code:
                raise
        finally:
            sys.stdout, sys.stderr = output, errors
            os.chdir(here)


def main() -> None:
    """Kill, go on, compare, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="over all commands")
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kills.csv")
    args = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        data, net = tiny(place)
        warm_up(place, data, net)
        for number, command in enumerate(args.commands):
            whole = undisturbed(command, place, data, net)
            share = (args.kills - len(cases)) // (len(args.commands) - number)
            print(f"{command}: {whole.operations} file operations, {share} kills", flush=True)
            for operation in moments(whole.operations, share):
                case = killed(command, operation, whole, place, data, net)
                cases.append(case)
                if case.verdict != "ok":
                    print(f"  {operation} {case.event}: {case.verdict}", flush=True)
                args.out.parent.mkdir(parents=True, exist_ok=True)
                with args.out.open("w", newline="", encoding="utf-8") as file:
                    table = csv.DictWriter(file, [field.name for field in fields(Case)])
                    table.writeheader()
                    table.writerows(asdict(case) for case in cases)
    good = sum(case.verdict == "ok" for case in cases)
    print(f"{good} of {len(cases)} kills left nothing lost, half or over")
    sys.exit(good != len(cases))


if __name__ == "__main__":
    main()
