"""The folder of a training run: what of it is ours, how it was begun, whether it is finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.errors import TrainError
from yoloprune.files import sha256, sweep, write_bytes
from yoloprune.measure.handover import take_back
from yoloprune.train.options import TrainOptions

if TYPE_CHECKING:
    from torch import nn

FILE = "train.json"
"""How a run was begun and, once it is finished, its files."""
HANDED = "data-handed-over"
"""Folder for what Ultralytics is handed of the data."""
_STATE = "weights/state.pt"
_RESULTS = (
    *(f"weights/{name}.{end}" for name in ("best", "last") for end in ("pt", "cfg", "weights")),
    _STATE,
    "sparsity.jsonl",
    "sparsity.png",
    "results.csv",
    "results.png",
)
"""What a run must not take for its own if another one left it."""
_PLOTS = ("labels*.jpg", "train_batch*.jpg", "val_batch*.jpg", "*_curve.png", "confusion_matrix*")
_ASIDE = tuple(f".{prefix}-{n}.pt" for prefix in ("new", "final") for n in ("best", "last"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What ``train.json`` says.

    Attributes:
        settings: name → value, of everything that a resume must not change.
        files: of the finished run, relative to its folder; None before that.
    """

    settings: Mapping[str, Any]
    files: tuple[str, ...] | None = None

    def write(self, folder: Path) -> None:
        """Put it on disk, whole."""
        files = None if self.files is None else list(self.files)
        data = {"version": 1, "settings": self.settings, "files": files}
        write_bytes(folder / FILE, (json.dumps(data, indent=2) + "\n").encode())

    @staticmethod
    def read(folder: Path) -> Begun | None:
        """What a folder says; None where no run of ours was begun.

        Raises:
            TrainError: the file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            files = None if data["files"] is None else tuple(map(str, data["files"]))
            return Begun(settings={**data["settings"]}, files=files)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise TrainError(f"{path}: is damaged. Choose another folder with -o.") from exc

    def finished(self, folder: Path) -> bool:
        """Whether the run came to its end, and what it made is still there."""
        return self.files is not None and all((folder / file).is_file() for file in self.files)


def results(folder: Path) -> list[Path]:
    """Files in a folder that a new run there would replace, and did not make itself."""
    found = [path for name in _RESULTS if (path := folder / name).exists()]
    found += [path for pattern in _PLOTS for path in folder.glob(pattern)]
    if not (folder / FILE).exists():  # else they are of a run that made no results yet
        found += [path for name in ("args.yaml", HANDED) if (path := folder / name).exists()]
    return found


def refuse_results(folder: Path) -> None:
    """Let no other run's results be replaced.

    Raises:
        TrainError: there are some.
    """
    for path in results(folder):
        begun = Begun.read(folder)
        going_on = "go on with it by --resume, " if begun and begun.files is None else ""
        raise TrainError(
            f"{folder}: holds a run already, such as {path.relative_to(folder)}. Choose another "
            f"folder with -o, {going_on}or replace it with --overwrite."
        )


def forget(folder: Path) -> None:
    """Remove what an earlier run made, and nothing else; its record last."""
    take_back(folder / HANDED)
    for name in (*_RESULTS, "weights/best.names", "weights/last.names", "args.yaml", FILE):
        (folder / name).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Take away what a killed run left half-done; the folder is held alone."""
    for inner in (folder / "weights", folder / HANDED):
        if inner.is_dir():
            sweep(inner)
    for name in _ASIDE:
        (folder / "weights" / name).unlink(missing_ok=True)
    if (folder / ".ddp").is_dir() and not (folder / ".ddp").is_symlink():
        shutil.rmtree(folder / ".ddp", ignore_errors=True)


def settings_of(model: nn.Module, options: TrainOptions) -> dict[str, Any]:
    """Everything that decides what a run comes to, JSON-able; not where it is carried out."""
    wish = json.loads(options.wish())
    settings = {
        "model": _structure(model),
        "data": _place(options.data),
        "epochs": options.epochs,
        "imgsz": options.imgsz,
        "batch": options.batch,
        "seed": options.seed,
        "sparsity": wish["sparsity"],
        "distil": wish["distil"],
        "teacher": None if options.distil is None else _teacher(Path(options.distil.teacher)),
        **options.tuning(),
        **{f"--set {key}": value for key, value in sorted(options.extra.items())},
    }
    if options.pictures is not None:
        settings |= {"pictures": _place(options.pictures), "steps": options.steps}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _place(name: str | None) -> str | None:
    """Where a data set or pictures lie, whatever folder it is said from."""
    return str(Path(name).resolve()) if name is not None and Path(name).exists() else name


def _structure(model: nn.Module) -> str:
    """A digest of the names and shapes of all tensors."""
    shapes = [f"{name} {list(value.shape)}" for name, value in model.state_dict().items()]
    digest = hashlib.sha256("\n".join(shapes).encode()).hexdigest()
    return f"{len(shapes)} tensors, {digest[:12]}"


def _teacher(path: Path) -> str:
    """A teacher by what it is, for where it lies may change."""
    weights = path.with_suffix(".weights")
    file = weights if path.suffix == ".cfg" and weights.is_file() else path
    return sha256(file)[:12] if file.is_file() else path.name


def check_same(folder: Path, begun: Begun, now: Mapping[str, Any]) -> None:
    """Make sure that a run goes on with what it was begun with.

    Raises:
        TrainError: something differs; it says what.
    """
    before = begun.settings
    keys = [*before, *(key for key in now if key not in before)]
    changed = [f"{k}: {before.get(k)} → {now.get(k)}" for k in keys if before.get(k) != now.get(k)]
    if changed:
        raise TrainError(
            f"--resume: {folder} was begun otherwise, changed since: {'; '.join(changed)}. "
            "Give the same flags, or start anew in another folder, or with --overwrite."
        )
