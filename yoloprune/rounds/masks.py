"""Mask, fine-tune with the zeros kept, mask more, until accuracy drops too far; killed at will.

Every stage has a folder of its own and, once it is done, an entry in ``state.json``, as the rounds
of a recipe have (:mod:`yoloprune.rounds.run`). The same command goes on where it was.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.errors import MaskError
from yoloprune.files import held, replacing_together, sweep, write_bytes
from yoloprune.mask.files import write_masks
from yoloprune.mask.masking import made_permanent, mask_model, masks_of
from yoloprune.mask.run import latency_words
from yoloprune.mask.sparsity import sparsity
from yoloprune.mask.spec import MaskSpec
from yoloprune.measure.environment import environment
from yoloprune.measure.sound import check_finite
from yoloprune.measure.tasks import check_data
from yoloprune.models.door import Source, digest, input_size_of, load, save, torch_device
from yoloprune.prune.sides import cost, quality
from yoloprune.prune.verdict import FIGURES
from yoloprune.report.masks import write_rounds_of_masks
from yoloprune.rounds.folder import RECORD, STATE, finished_record
from yoloprune.rounds.state import State, rounds_done
from yoloprune.train.folder import forget
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRounds:
    """How to go round.

    Attributes:
        spec: of each round, which masks its share of what is left.
        data: data set to train and to measure on.
        out: folder for everything.
        rounds: at most.
        epochs: of fine-tuning in each.
        max_drop: what AP (or what else a model of its task is judged by) may fall by, in [0, 1);
            None lets it fall.
        imgsz: input size in pixels; the model's own when None.
        batch: pictures a step in training.
        device: as Ultralytics reads it.
        settings: Ultralytics settings of every training.

    Raises:
        MaskError: a value is out of its range, or masks of the method do not grow.
    """

    spec: MaskSpec
    data: str
    out: Path
    rounds: int
    epochs: int
    max_drop: float | None = None
    imgsz: int | None = None
    batch: int = 16
    device: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("rounds", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise MaskError(f"--{name}: must be at least 1, got {getattr(self, name)}.")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise MaskError(f"--max-drop: got {self.max_drop:g}, expected 0 to below 1.")
        self.spec.in_round(1)

    def identity(self) -> dict[str, Any]:
        """Everything that decides what a run comes to, JSON-able."""
        found: dict[str, Any] = {
            "mask": self.spec.to_dict() | {"seed": self.spec.seed},
            **{name: getattr(self, name) for name in ("data", "rounds", "epochs", "max_drop")},
            **{name: getattr(self, name) for name in ("imgsz", "batch")},
            "settings": dict(self.settings),
        }
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain


def run_mask_rounds(
    model: nn.Module, source: Source, options: MaskRounds, *, overwrite: bool = False
) -> dict[str, Any]:
    """Go round, or go on with it.

    Args:
        model: a loaded detector; not modified.
        source: the files it came from.
        options: how.
        overwrite: begin anew where there is another run, and replace its results.

    Returns:
        The record, which lies in the folder as ``run.json``, too.

    Raises:
        RecipeError: the folder belongs to another run.
        YoloPruneError: a stage failed, or another process is at work in the folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MaskError(
            "--rounds: was started several times at once. Start it once, and name the devices: "
            "--device 0,1."
        )
    check_finite(model)
    check_data(model, options.data)
    with held(options.out, alone=True):
        for folder in _folders(options.out):
            sweep(folder)
        if overwrite:
            for folder in _folders(options.out):
                forget(folder)
            for name in (RECORD, STATE):
                (options.out / name).unlink(missing_ok=True)
        return _Run(model, source, options).run()


def _folders(out: Path) -> list[Path]:
    rounds = [path for path in out.glob("round*") if path.name[5:].isdecimal()]
    found = [out / "dense", *(path / name for path in rounds for name in ("masked", "tuned"))]
    return [path for path in (*found, *rounds) if path.is_dir()]


class _Run:
    """One run in one folder."""

    def __init__(self, model: nn.Module, source: Source, options: MaskRounds) -> None:
        self.model, self.source, self.options = model, source, options
        self.size = input_size_of(model, options.imgsz)
        self.device = torch_device(options.device)
        begun = (options.out / STATE).is_file()
        identity = {"model_sha256": digest(source), **options.identity()}
        self.state = State.open(options.out / STATE, identity)
        if begun:
            log.info("going on with %s: %d stages are done", options.out, len(self.state.stages))

    def run(self) -> dict[str, Any]:
        """All rounds; then the result and the record."""
        record = finished_record(self.options.out)
        if record is not None:
            log.info("%s: is finished", self.options.out)
            return record
        model = self.stage("dense", lambda: self.saved(self.model, "dense", {}))
        rows = [{"name": "dense", **self.state.stages["dense"]["record"]}]
        key = next(name for name in FIGURES if name in rows[0])
        accepted, why = "dense", rounds_done(self.options.rounds)
        for number in range(1, self.options.rounds + 1):
            name = f"round{number}"
            model = self.round(number, model)
            rows.append({"name": name, **self.state.stages[name]["record"]})
            drop = rows[0][key] - rows[-1][key]
            if self.options.max_drop is not None and drop > self.options.max_drop:
                why = f"{key} fell by {drop:.4f}, more than {self.options.max_drop:g}"
                break
            accepted = name
        return self.finish(rows, key, accepted, why)

    def round(self, number: int, model: nn.Module) -> nn.Module:
        """Mask its share of what is left, and fine-tune around the zeros."""
        name = f"round{number}"

        def mask() -> tuple[tuple[Path, ...], dict[str, Any]]:
            spec = self.options.spec.in_round(number)
            masked = made_permanent(mask_model(model, spec))
            return self.saved(masked, f"{name}/masked", {"amount": spec.amount})

        masked = self.stage(f"{name}/masked", mask)

        def tune() -> tuple[tuple[Path, ...], dict[str, Any]]:
            before = self.state.stages[f"{name}/masked"]["record"]
            told = {
                "amount": before["amount"],
                "untrained": {key: before[key] for key in FIGURES if key in before},
            }
            return self.saved(self.trained(masked, f"{name}/tuned"), name, told)

        return self.stage(name, tune)

    def stage(
        self, name: str, work: Callable[[], tuple[tuple[Path, ...], dict[str, Any]]]
    ) -> nn.Module:
        """The network that a stage gives; ``work`` is done only where it was not before."""
        if name not in self.state.stages:
            log.info("%s", name)
            self.state.enter(name, *work())
        return load(*self.state.files(name))[0]

    def saved(
        self, model: nn.Module, folder: str, told: dict[str, Any]
    ) -> tuple[tuple[Path, ...], dict[str, Any]]:
        """A network's files, and what it is worth."""
        options, name = self.options, folder.replace("/", "-")
        files = save(model, options.out / folder / f"{self.source.model.stem}-{name}")
        costs = cost(
            {name: model}, {name: files}, self.size, batch=1, device=self.device, repeats=0
        )  # fmt: skip
        good = quality(model, options.data, self.size, split="val", device=self.device)
        zeros = sparsity(model)
        shares = {"overall": zeros.share(), "conv": zeros.share("conv"), "bn": zeros.share("bn")}
        return files, {**told, "sparsity": shares, **costs[name], **good}

    def trained(self, model: nn.Module, folder: str) -> nn.Module:
        """Fine-tune with the zeros kept, or go on with it."""
        options = self.options
        how = TrainOptions(
            data=options.data,
            epochs=options.epochs,
            imgsz=max(self.size),
            batch=options.batch,
            device=options.device,
            seed=options.spec.seed,
            preset="keep",
            keep_zeros=True,
            resume=True,
            extra=dict(options.settings),
        )
        return train(model, options.out / folder, how).best

    def finish(
        self, rows: list[dict[str, Any]], key: str, accepted: str, why: str
    ) -> dict[str, Any]:
        """Put the result where it is easily found, and time it beside the dense network."""
        out, stem = self.options.out, f"{self.source.model.stem}-masked"
        sources = self.state.files(accepted)
        names = sources[0].with_suffix(".names")
        every = (*sources, *((names,) if sources[0].suffix == ".cfg" and names.is_file() else ()))
        # not with_suffix: what follows the last dot of ``net-1.1`` is none
        targets = [out / f"{stem}{file.suffix}" for file in every]
        with replacing_together(*targets) as copies:
            for file, copy in zip(every, copies, strict=True):
                shutil.copyfile(file, copy)
        files = tuple(targets[: len(sources)])
        result = load(*files)[0]
        write_masks(out / f"{stem}-masks.npz", masks_of(result))
        models = {"before": self.model, "after": result}
        where = {"before": self.state.files("dense"), "after": files}
        sides = cost(models, where, self.size, batch=1, device=self.device, repeats=30)
        drop = self.options.max_drop
        limit = None if drop is None else rows[0][key] - drop
        picture = write_rounds_of_masks(out / f"{stem}-rounds.png", rows, key, accepted, limit)
        record = {
            "model": str(self.source.model),
            **self.options.identity(),
            "imgsz": list(self.size),
            "rounds_done": rows,
            "figure": key,
            "accepted": accepted,
            "stopped": why,
            **sides,
            "faster": latency_words(sides["before"], sides["after"]),
            "files": {
                "model": [str(file) for file in files],
                "masks": str(out / f"{stem}-masks.npz"),
                "picture": str(picture),
            },
            "environment": asdict(environment(self.device)),
        }
        write_bytes(out / RECORD, (json.dumps(record, indent=2) + "\n").encode())
        return record
