"""What training can be asked for. Light: nothing here needs torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from yoloprune.errors import TrainError, first_line
from yoloprune.prune.budget import Budget

if TYPE_CHECKING:
    from yoloprune.measure.runtimes import RuntimeOptions

Method = Literal["auto", "l1", "prox", "group"]
Decay = Literal["none", "half", "kept"]
Importance = Literal["gamma", "taylor"]
Distil = Literal["feature", "output"]
Preset = Literal["keep", "stock"]
Only = Literal["norms"]
Choice = TypeVar("Choice", Method, Decay, Importance, Distil, Preset, Only)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityOptions:
    """How BatchNorm scales (gammas) are made sparse.

    Attributes:
        budget: of the cut to come. ``auto`` brings exactly its units to zero; the others ask it
            only for ``decay="kept"``.
        method: ``auto``; ``l1`` the sub-gradient of Network Slimming; ``prox`` the same penalty
            as a soft threshold, with exact zeros; ``group`` group lasso over tied units.
        strength: factor of the penalty, times the learning rate in each step; ``auto`` has none.
        decay: of the strength after half of the epochs, to a hundredth: ``none``, ``half`` for
            all channels, ``kept`` only for those that the budget's plan would keep.
        criterion: by what ``auto`` has the planner choose: ``gamma`` the scales as they are;
            ``taylor`` how much the loss needs a unit, by the gradients of the training itself;
            None leaves it to the network, see :mod:`yoloprune.train.criterion`.
        until: share of the epochs after which the units of ``auto`` stand at zero, in (0, 1].
        runtime: where a limit to latency is meant; needed where the budget has one.
        table: file of ``yoloprune profile`` that tells it; None takes or measures one here.

    Raises:
        TrainError: a value is out of its range, or does not belong to the method.
    """

    budget: Budget
    method: Method = "auto"
    strength: float = 0.0
    decay: Decay = "none"
    criterion: Importance | None = None
    until: float = 0.7
    runtime: RuntimeOptions | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        """Check every range."""
        choice("--sparsity", self.method, Method)
        choice("--decay", self.decay, Decay)
        if self.criterion is not None:
            choice("--criterion", self.criterion, Importance)
        if not 0 < self.until <= 1:
            raise TrainError(f"--until: must be above 0 and at most 1, got {self.until}.")
        if self.method == "auto":
            if self.strength or self.decay != "none":
                raise TrainError(
                    "--sparsity auto: has no strength and no decay. Leave these out, or choose "
                    "l1, prox or group."
                )
        elif self.criterion not in (None, "gamma"):
            raise TrainError(
                f"--criterion {self.criterion}: belongs to --sparsity auto; {self.method} looks at "
                "the scales alone."
            )
        elif not 0 < self.strength < float("inf"):
            raise TrainError(
                f"--sparsity {self.method}: needs --strength, a number above 0, got "
                f"{self.strength:g}. Or use auto, which has none to tune."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillOptions:
    """Learning from a trained network, beside the labels or without any.

    Without labels (:attr:`TrainOptions.pictures`) both modes are taken together, with their own
    weights, to the end: there is nothing else to learn from.

    Attributes:
        teacher: its file: ``.pt``, or ``.cfg`` with its weights beside it.
        mode: ``output``: what its heads say; ``feature``: what enters the heads.
        weight: of this loss beside that of the labels, above 0.
        fade: let the weight fall linearly to zero over the training. What a student has learnt
            of a teacher early, a teacher that is no better than the student's end takes back
            late. Ultralytics' own (``feature`` of its models) has a fixed weight.
        trust: unpickle a ``.pt`` of unknown classes.

    Raises:
        TrainError: a value is out of its range.
    """

    teacher: str
    mode: Distil = "output"
    weight: float = 1.0
    fade: bool = True
    trust: bool = False

    def __post_init__(self) -> None:
        """Check every range."""
        choice("--distil", self.mode, Distil)
        if not 0 < self.weight < float("inf"):
            raise TrainError(f"--distil-weight: must be above 0, got {self.weight}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train.

    Attributes:
        data: Ultralytics data YAML. With ``pictures`` only its validation split is read, and
            nothing is measured where it is None.
        pictures: learn from the teacher alone on these pictures, as
            :func:`yoloprune.measure.pictures.find_pictures` takes them; no label is read.
        epochs: passes over the training split, or over the pictures.
        steps: with ``pictures``, batches in all instead: as many passes as that takes, the last
            one whole, over fewer pictures, chosen by the seed, where not all are needed.
        imgsz: side of the square input, pixels.
        batch: pictures a step, over all devices.
        device: as Ultralytics reads it: ``cpu``, ``0``, ``0,1``.
        seed: of everything random.
        preset: ``keep``: a schedule that keeps a good start, for networks that were cut and
            repaired, see :mod:`yoloprune.train.preset`; ``stock``: Ultralytics' own.
        only: ``norms`` trains BatchNorm scales and biases alone; needs ``keep``.
        keep_zeros: hold weights and scales that are exactly zero at zero, as masks do.
        sparsity: how to make the scales sparse; None does not.
        distil: whom to learn from beside the labels, or without; None from nobody.
        resume: go on from what an interrupted run left in the same folder.
        overwrite: begin anew where a folder holds another run's results, and replace these.
        verbose: let Ultralytics say all that it says; a line an epoch otherwise.
        title: stands before these lines.
        snapshots: epochs (from 1) after which the averaged model is kept as
            ``weights/epochN``.
        extra: further Ultralytics settings, passed through.
    """

    data: str | None = None
    pictures: str | None = None
    epochs: int = 100
    steps: int | None = None
    imgsz: int
    batch: int = 16
    device: str = ""
    seed: int = 0
    preset: Preset = "stock"
    only: Only | None = None
    keep_zeros: bool = False
    sparsity: SparsityOptions | None = None
    distil: DistillOptions | None = None
    resume: bool = False
    overwrite: bool = False
    verbose: bool = False
    title: str = ""
    snapshots: tuple[int, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that have a place of their own, and what does not go together."""
        check_settings(self.extra)
        choice("--preset", self.preset, Preset)
        if self.only is not None:
            choice("--only", self.only, Only)
            if self.preset != "keep":
                raise TrainError(f"--only {self.only}: needs --preset keep.")
        if self.sparsity is not None and self.preset != "stock":
            raise TrainError(
                f"--preset {self.preset}: is for fine-tuning, and scales are to become sparse. "
                "Leave it out."
            )
        _check_source(self)

    def tuning(self) -> dict[str, Any]:
        """The preset and what belongs to it, and kept zeros; nothing of a stock training."""
        found: dict[str, Any] = {"keep_zeros": True} if self.keep_zeros else {}
        if self.preset != "stock":
            found["preset"] = self.preset
        if self.only is not None:
            found["only"] = self.only
        return found

    def wish(self) -> str:
        """What a run is begun with and goes on with, as JSON: sparsity, teaching, preset."""
        sparsity = distil = None
        if self.sparsity is not None:
            sparsity = asdict(self.sparsity) | {"budget": self.sparsity.budget.to_dict()}
            for name in ("runtime", "table"):  # which older runs do not have
                if sparsity[name] is None:
                    del sparsity[name]
        if self.distil is not None:
            distil = {k: v for k, v in asdict(self.distil).items() if k not in _PLACE}
        wish = {"sparsity": sparsity, "distil": distil, **self.tuning()}
        return json.dumps(wish, sort_keys=True)


def _check_source(options: TrainOptions) -> None:
    """Make sure that there is something to learn from.

    Raises:
        TrainError: there are neither labels nor a teacher, or what is asked for needs the other.
    """
    if options.pictures is None and options.data is None:
        raise TrainError(
            "--data: is missing. Give a data YAML; or, without labels, --pictures and --teacher."
        )
    if options.steps is not None and options.pictures is None:
        raise TrainError("--steps: needs --pictures. With --data alone give --epochs.")
    if options.steps is not None and options.steps < 1:
        raise TrainError(f"--steps: must be at least 1, got {options.steps}.")
    if options.pictures is None:
        return
    if options.distil is None:
        raise TrainError(
            "--pictures: needs --teacher, from whom all is learnt where no label is read."
        )
    if options.sparsity is not None:
        raise TrainError(
            "--percent, --sparsity: need labels. Give --data alone, or slim first and learn from "
            "--pictures afterwards."
        )


_PLACE = ("teacher", "trust")
"""Where a teacher lies may change; the weights that it has are the user's word."""
OWN = {
    "data": "--data",
    "epochs": "--epochs",
    "imgsz": "--imgsz",
    "batch": "--batch",
    "device": "--device",
    "seed": "--seed",
    "resume": "--resume",
    "project": "--out",
    "name": "--out",
    "save_dir": "--out",
    "exist_ok": "--out",
    "model": "MODEL",
    "pretrained": "MODEL",
    "distill_model": "--teacher",
    "dis": "--distil-weight",
    "task": "MODEL",
    "mode": "",
}
"""Ultralytics' settings that are asked for elsewhere, and where."""


def check_settings(settings: Mapping[str, Any]) -> None:
    """Make sure that settings are Ultralytics' alone, and have values that it takes.

    Raises:
        TrainError: one of them has a flag of its own, is unknown, or out of range.
    """
    if not settings:
        return
    for key in settings:
        if key in OWN:
            instead = f" Use {OWN[key]}." if OWN[key] else ""
            raise TrainError(f"--set {key}: is not for --set.{instead}")
    from ultralytics.cfg import DEFAULT_CFG_DICT, check_cfg

    for key, value in settings.items():
        if key not in DEFAULT_CFG_DICT:
            near = get_close_matches(key, DEFAULT_CFG_DICT, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise TrainError(f"--set {key}: is no setting of Ultralytics.{meant}")
        try:
            check_cfg({key: value})
        except (TypeError, ValueError) as exc:
            raise TrainError(f"--set {key}={value}: {first_line(exc)}") from exc
    optimizer = settings.get("optimizer", "auto")
    if str(optimizer).lower() not in _optimizers():
        raise TrainError(
            f"--set optimizer={optimizer}: unknown, expected auto, SGD, AdamW, or one of torch's."
        )


def _optimizers() -> set[str]:
    """Names of those that Ultralytics builds, in small letters."""
    import torch

    return {"auto", "musgd", *(name.lower() for name in torch.optim.__all__)}


def choice(flag: str, value: str, kind: type[Choice] | Any) -> Choice:
    """The value, if it is one of a ``Literal``'s.

    Raises:
        TrainError: it is not.
    """
    known = get_args(kind)
    if value not in known:
        raise TrainError(f"{flag}: unknown, got {value!r}, expected {', '.join(known)}.")
    return cast(Choice, value)


def number(value: Any) -> Any:
    """A text such as ``1e-3`` as the number that it is to Ultralytics; YAML wants ``1.0e-3``."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return value


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` settings; values are YAML scalars.

    Raises:
        TrainError: an item has no ``=``, or its value is no YAML.
    """
    import yaml

    settings: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise TrainError(f"--set: expected key=value, got '{item}'.")
        try:
            settings[key.strip()] = number(yaml.safe_load(value))
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as exc:
            raise TrainError(f"--set {key}: is no YAML value, got '{value}'.") from exc
    return settings
