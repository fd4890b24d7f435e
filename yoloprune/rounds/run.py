"""Recipes carried out: dense → [sparsify → slim → fine-tune] × rounds, killed and gone on at will.

Every stage has a folder of its own and, once it is done, an entry in ``state.json``. The same
command goes on where it was: stages with an entry are taken as they are, the one that was
running goes on exactly (:mod:`yoloprune.train.exact`) or, short as it is, runs again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yoloprune.channels.trace import trace
from yoloprune.errors import RecipeError
from yoloprune.files import (
    check_writable,
    held,
    sweep,
)
from yoloprune.measure.accuracy import check_class_count, evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.runtimes import runtime_here
from yoloprune.measure.size import count, file_bytes
from yoloprune.measure.sound import check_finite
from yoloprune.measure.tasks import BOXES, look
from yoloprune.models.checkpoint import task_of
from yoloprune.models.door import Source, digest, input_size_of, load, save, torch_device
from yoloprune.prune.budget import Budget
from yoloprune.prune.cost import Costs
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.slim import slim
from yoloprune.prune.timing import TimingOptions, clock_for
from yoloprune.report.sparsity import write_sparsity_picture
from yoloprune.rounds.folder import RECORD, STATE
from yoloprune.rounds.recipe import Recipe, TrainSection
from yoloprune.rounds.result import Outcome, write_result
from yoloprune.rounds.state import State, rounds_done
from yoloprune.train.folder import forget
from yoloprune.train.options import DistillOptions, Preset, SparsityOptions, TrainOptions
from yoloprune.train.run import train

log = logging.getLogger(__name__)

_WORK = {
    "dense": "the network that all is compared with",
    "sparse": "sparse training",
    "slim": "cut and repair",
    "round": "fine-tuning",
}
"""Last part of a stage's name, without its number → what is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a recipe came to.

    Attributes:
        model: the network of the last round within the limits.
        record: the machine-readable record that ``--json`` writes.
    """

    model: nn.Module
    record: dict[str, Any]


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    overwrite: bool = False,
    verbose: bool = False,
    command: str = "",
) -> RunResult:
    """Carry a recipe out, or go on with it.

    Args:
        recipe: checked.
        out: folder for everything: a subfolder a stage, ``state.json``, ``run.json``,
            ``rounds.png``, ``report.html``, and the resulting network as ``result.*`` with its
            card.
        overwrite: begin anew where there is another run, and replace its results.
        verbose: let Ultralytics say all that it says.
        command: that was typed, for the report.

    Raises:
        RecipeError: the folder belongs to another recipe.
        YoloPruneError: a stage failed, or another process is at work in the folder.
    """
    with held(out, alone=True):
        for stage in _stage_folders(out):
            sweep(stage)
        if overwrite:
            _forget(out)
        return _Run(recipe, out, verbose=verbose, command=command).run()


def _stage_folders(out: Path) -> list[Path]:
    """Folders that stages write to; training tidies its own."""
    rounds = [path for path in out.glob("round*") if path.name[5:].isdecimal()]
    found = [out / "dense", *rounds]
    found += [path / name for path in rounds for name in ("sparse", "slim", "tuned")]
    return [path for path in found if path.is_dir()]


def _forget(out: Path) -> None:
    """Remove what would be taken for this run's; that an earlier one was there, last."""
    for stage in _stage_folders(out):
        forget(stage)
    for name in (RECORD, STATE):
        (out / name).unlink(missing_ok=True)


class _Run:
    """One recipe in one folder."""

    def __init__(
        self, recipe: Recipe, out: Path, *, verbose: bool = False, command: str = ""
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RecipeError(
                "run: was started several times at once. Start it once, and name the "
                "devices in the recipe: `device: 0,1`."
            )
        check_writable(out)
        self.recipe, self.out, self.verbose, self.command = recipe, out, verbose, command
        look(recipe.data)
        begun = (out / STATE).is_file()
        torch.manual_seed(recipe.seed)  # of random weights
        self.start, self.source = load(recipe.model, recipe.weights, scratch=recipe.scratch)
        check_finite(self.start)
        task = task_of(self.start)
        if task not in BOXES:
            raise RecipeError(
                f"model: {recipe.model} is of the task {task}, whose rounds are not measured, "
                f"expected one of {', '.join(BOXES)}."
            )
        self.dataset = load_dataset(recipe.data, split="val", task=task)
        if recipe.train is None:  # which would give the network other classes
            check_class_count(self.start, self.dataset)
        identity = {
            "model_sha256": digest(self.source),
            **recipe.model_dump(mode="json"),
        }
        self.state = State.open(out / STATE, identity)
        if begun:
            log.info("going on with %s: %d stages are done", out, len(self.state.stages))
        self.size = input_size_of(self.start, recipe.imgsz)

    def run(self) -> RunResult:
        """All stages; then the table, the picture and the result."""
        recipe = self.recipe
        model, source = self.dense()
        records = [self.state.stages["dense"]["record"]]
        models = {"dense": model}
        accepted, why = "dense", rounds_done(recipe.stop.rounds)
        for number in range(1, recipe.stop.rounds + 1):
            model, source = self.round(number, model, source, models["dense"])
            record = self.state.stages[f"round{number}"]["record"]
            records.append(record)
            models[f"round{number}"] = model
            stop = self.stop(record, records[0])
            if stop != "drop":
                accepted = f"round{number}"
            if stop is not None:
                why = {
                    "drop": f"AP fell by more than {recipe.stop.max_ap_drop}",
                    "macs": f"MACs are at most {recipe.stop.target_macs:.0%} of the dense"
                    if recipe.stop.target_macs
                    else "",
                }[stop]
                break
        return self.finish(models, records, accepted, why)

    def stop(self, record: Mapping[str, Any], dense: Mapping[str, Any]) -> str | None:
        """Which rule ends the rounds after this one."""
        rule = self.recipe.stop
        if rule.max_ap_drop is not None and dense["AP"] - record["AP"] > rule.max_ap_drop:
            return "drop"
        if rule.target_macs is not None and record["macs"] <= rule.target_macs * dense["macs"]:
            return "macs"
        return None

    def stage(
        self, name: str, work: Callable[[], tuple[tuple[Path, ...], dict[str, Any]]]
    ) -> tuple[nn.Module, Source]:
        """The network that a stage gives; ``work`` is done only where it was not before."""
        if name not in self.state.stages:
            log.info("%s: %s", name, _WORK[name.rpartition("/")[2].rstrip("0123456789")])
            self.state.enter(name, *work())
        files = self.state.files(name)
        if files[0].suffix == ".cfg":
            return load(files[0], files[1])[0], Source(files[0], files[1])
        return load(files[0])[0], Source(files[0])

    def dense(self) -> tuple[nn.Module, Source]:
        """The network that everything is compared with."""

        def work() -> tuple[tuple[Path, ...], dict[str, Any]]:
            model = self.start
            if self.recipe.train is not None:
                model = self.trained(model, "dense", self.recipe.train)
            files = save(model, self.out / "dense" / f"{self.source.model.stem}-dense")
            return files, {**self.measured(model, files), "prunable_channels": _prunable(model)}

        return self.stage("dense", work)

    def round(
        self, number: int, model: nn.Module, source: Source, dense: nn.Module
    ) -> tuple[nn.Module, Source]:
        """Sparsify, cut, fine-tune."""
        recipe, name = self.recipe, f"round{number}"
        budget = self.budget(number, model, dense)
        if recipe.sparsify is not None:
            section, origin = recipe.sparsify, source

            def sparsify() -> tuple[tuple[Path, ...], dict[str, Any]]:
                teacher = DistillOptions(teacher=str(origin.model)) if section.teacher else None
                sparsity = section.options(budget)
                folder = f"{name}/sparse"
                trained = self.trained(model, folder, section, sparsity, teacher, keep="last")
                write_sparsity_picture(self.out / folder)
                files = save(trained, self.out / folder / "sparse")
                return files, self.measured(trained, files)

            model, source = self.stage(f"{name}/sparse", sparsify)

        def cut() -> tuple[tuple[Path, ...], dict[str, Any]]:
            # What auto leaves is cut for nothing: there is nothing to repair.
            free = recipe.sparsify is not None and recipe.sparsify.method == "auto"
            options = SlimOptions(
                target=recipe.slim.target,
                budget=budget,
                out=self.out / name / "slim",
                criterion=recipe.slim.criterion,
                scope=recipe.slim.scope,
                reduce=recipe.slim.reduce,
                compensate=recipe.slim.compensate,
                calib=None if free else recipe.data,
                search=0.0 if free else recipe.slim.seconds,
                seed=recipe.seed,
                imgsz=self.size,
                device=torch_device(recipe.device),
                repeats=0,
                timing=self.timing,
            )
            result = slim(model, source, options)
            files = tuple(Path(file) for file in result.summary["files"]["model"])
            record = {**self.measured(result.model, files), "reached": result.summary["reached"]}
            return files, record

        thin = self.stage(f"{name}/slim", cut)

        def tune() -> tuple[tuple[Path, ...], dict[str, Any]]:
            tuned = thin[0]
            if recipe.finetune is not None:
                dense = self.state.files("dense")[0]
                teacher = recipe.teacher(dense)
                section = recipe.finetune
                tuned = self.trained(
                    tuned, f"{name}/tuned", section, None, teacher, preset=section.preset
                )
            files = save(tuned, self.out / name / name)
            gone = recipe.percent(number) or 1 - _prunable(tuned) / self.total
            record = {"percent": gone, **self.measured(tuned, files)}
            return files, record

        return self.stage(name, tune)

    @property
    def total(self) -> int:
        """Prunable channels of the dense network."""
        return int(self.state.stages["dense"]["record"]["prunable_channels"])

    def budget(self, number: int, model: nn.Module, dense: nn.Module) -> Budget:
        """Of a round, in terms of what is there when it begins."""
        recipe, limits = self.recipe, dict[str, float]()
        if recipe.slim.limits:
            precision = recipe.slim.precision or recipe.precision
            full = Costs(dense, trace(dense), count(dense, self.size)).full
            amounts: dict[str, float] = {
                "macs": full.macs, "params": full.params, "bytes": full.bytes[precision],
            }  # fmt: skip
            if self.timing is not None:  # which is kept once it was measured
                clock = clock_for(dense, trace(dense), self.timing)
                amounts["latency"] = 1000 * clock.table.full
            limits = recipe.limits(number, amounts)
        percent = recipe.percent(number)
        if percent is not None:
            percent = self.share(model, percent, self.total)
        rounds = recipe.stop.rounds
        return recipe.slim.budget(percent, limits, recipe.precision, rounds)

    @property
    def timing(self) -> TimingOptions | None:
        """Where a limit to latency is meant."""
        section = self.recipe.slim
        if section.latency is None:
            return None
        runtime = runtime_here(
            section.runtime, device=self.recipe.device, threads=section.threads, size=self.size
        )
        return TimingOptions(
            runtime=runtime, model=self.recipe.model, round_to=section.rounding
        )  # fmt: skip

    def share(self, model: nn.Module, percent: float, total: int) -> float:
        """What a round removes of what is there, to come to a share of the dense network."""
        present = _prunable(model)
        share = 1 - (1 - percent) * total / max(present, 1)
        if not 0 < share < 1:
            raise RecipeError(
                f"slim.percent: {percent:.1%} of {total} prunable channels is already gone: "
                f"{present} are left. Raise slim.step."
            )
        return share

    def trained(
        self,
        model: nn.Module,
        folder: str,
        section: TrainSection,
        sparsity: SparsityOptions | None = None,
        distil: DistillOptions | None = None,
        keep: str = "best",
        preset: Preset = "stock",
    ) -> nn.Module:
        """Train, or go on with it."""
        recipe = self.recipe
        options = TrainOptions(
            data=recipe.data,
            epochs=section.epochs,
            imgsz=max(self.size),
            batch=recipe.batch,
            device=recipe.device,
            seed=recipe.seed,
            sparsity=sparsity,
            distil=distil,
            preset=preset,
            resume=True,
            verbose=self.verbose,
            title=folder,
            extra={**recipe.settings, **section.settings},
        )
        result = train(model, self.out / folder, options)
        trained: nn.Module = getattr(result, keep)
        return trained

    def measured(self, model: nn.Module, files: tuple[Path, ...]) -> dict[str, Any]:
        """AP on the validation pictures, and size."""
        options = DetectOptions(imgsz=self.size, device=torch_device(self.recipe.device))
        metrics = evaluate(model, self.dataset, options).metrics
        size = count(model, self.size)
        return {
            "AP": metrics.AP,
            "AP50": metrics.AP50,
            "params": size.params,
            "macs": size.macs,
            "bytes": file_bytes(files),
        }

    def finish(
        self, models: dict[str, nn.Module], records: list[dict[str, Any]], accepted: str, why: str
    ) -> RunResult:
        """Put the result where it is easily found, and tell of it."""
        outcome = Outcome(
            recipe=self.recipe, out=self.out, models=models, records=records, accepted=accepted,
            why=why, sources=self.state.files(accepted), dataset=self.dataset, imgsz=self.size,
            command=self.command,
        )  # fmt: skip
        return RunResult(model=models[accepted], record=write_result(outcome))


def _prunable(model: nn.Module) -> int:
    """How many channels may be pruned."""
    graph = trace(model)
    return int(graph.channels[graph.prunable].sum())
