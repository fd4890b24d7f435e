"""Recipes: the whole loop in one YAML file, checked before anything runs.

The file is not trusted. What is wrong with it is said with its line and its path, and nothing
of it is ever run or evaluated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from yoloprune.errors import RecipeError, TrainError
from yoloprune.prune.budget import Budget, Precision
from yoloprune.rounds.cuts import Section, SlimSection, as_value_error
from yoloprune.texts import (
    MAX_YAML_MB,
    Where,
    cut,
    parse_yaml,
    read_text,
)
from yoloprune.train.options import (
    Decay,
    Distil,
    DistillOptions,
    Importance,
    Method,
    Preset,
    SparsityOptions,
    check_settings,
    number,
)

Epochs = Annotated[int, Field(ge=1, strict=True)]
Settings = dict[str, Any]


def _checked_settings(settings: Settings) -> Settings:
    settings = {key: number(value) for key, value in settings.items()}
    try:
        json.dumps(settings)
    except (TypeError, ValueError) as exc:
        raise ValueError("values must be numbers, texts, true, false, lists or maps") from exc
    try:
        check_settings(settings)
    except TrainError as exc:
        raise ValueError(str(exc).removeprefix("--set ")) from exc
    return settings


class TrainSection(Section):
    """Training the dense network first.

    Attributes:
        epochs: of it.
        settings: Ultralytics settings of this stage, over the recipe's.
    """

    epochs: Epochs
    settings: Settings = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _own(cls, settings: Settings) -> Settings:
        return _checked_settings(settings)


class SparsifySection(TrainSection):
    """Making scales sparse before each cut; see ``SparsityOptions``.

    Attributes:
        teacher: whether the network that a round starts from teaches itself meanwhile.
    """

    method: Method = "auto"
    strength: float = 0.0
    decay: Decay = "none"
    criterion: Importance | None = None
    until: float = 0.7
    teacher: bool = False

    @model_validator(mode="after")
    def _checked(self) -> SparsifySection:
        with as_value_error():
            self.options(Budget(percent=0.5))
        return self

    def options(self, budget: Budget) -> SparsityOptions:
        """For the cut of a round."""
        return SparsityOptions(
            budget=budget,
            method=self.method,
            strength=float(self.strength),
            decay=self.decay,
            criterion=self.criterion,
            until=float(self.until),
        )


class FinetuneSection(TrainSection):
    """Training after each cut.

    Attributes:
        teacher: ``none``, ``dense`` (the network that the recipe began with) or a file.
        distil: what to learn from it.
        weight: of that beside the labels.
        fade: let the weight fall to zero over the training.
        preset: ``keep`` for a schedule that keeps what repair gave, ``stock`` for Ultralytics'.
    """

    teacher: str = "none"
    distil: Distil = "output"
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    fade: bool = True
    preset: Preset = "keep"


class StopSection(Section):
    """When to stop going round; the first that holds.

    Attributes:
        rounds: after so many.
        max_ap_drop: when a round's AP50:95 is more than this below the dense network's; the
            result is then the round before.
        target_macs: when a round has at most this share of the dense network's MACs.
    """

    rounds: int = Field(default=1, ge=1)
    max_ap_drop: float | None = Field(default=None, ge=0, lt=1)
    target_macs: float | None = Field(default=None, gt=0, lt=1)


class Recipe(Section):
    """The whole loop: (train) → [sparsify → slim → fine-tune] × rounds.

    Attributes:
        model: ``.cfg``, ``.pt`` or ``.yaml``, looked up beside the recipe first.
        weights: of a ``.cfg``.
        scratch: start from random weights.
        data: data YAML, looked up beside the recipe first.
        imgsz: input size in pixels; the model's own when None.
        batch, device, seed: of every training.
        settings: Ultralytics settings of every training.
        train, sparsify, slim, finetune: the stages; all but ``slim`` may be left out.
        stop: when to stop.
    """

    model: str
    weights: str | None = None
    scratch: bool = False
    data: str
    imgsz: int | None = Field(default=None, ge=32)
    batch: int = Field(default=16, ge=1)
    device: str = ""
    seed: int = Field(default=0, ge=0)
    settings: Settings = Field(default_factory=dict)
    train: TrainSection | None = None
    sparsify: SparsifySection | None = None
    slim: SlimSection
    finetune: FinetuneSection | None = None
    stop: StopSection = Field(default_factory=StopSection)

    @field_validator("settings")
    @classmethod
    def _own(cls, settings: Settings) -> Settings:
        return _checked_settings(settings)

    @model_validator(mode="after")
    def _checked(self) -> Recipe:
        last = self.percent(self.stop.rounds)
        if self.stop.rounds > 1 and last is not None and not self.slim.step:
            raise ValueError(f"slim.step: must be above 0 for {self.stop.rounds} rounds, got 0")
        if last is not None and last >= 1:
            raise ValueError(f"slim: round {self.stop.rounds} would remove {last:.0%} of all")
        untrained = self.scratch or Path(self.model).suffix.lower() in (".yaml", ".yml")
        if untrained and self.train is None:
            raise ValueError(f"model: {self.model} starts from random weights, add a train section")
        chosen = self.sparsify is not None and self.sparsify.method == "auto"
        for name in ("criterion", "scope"):
            if chosen and getattr(self.slim, name) is not None:
                raise ValueError(
                    f"slim.{name}: what goes is what sparsify brought to zero. Leave it out."
                )
        return self

    def percent(self, number: int) -> float | None:
        """Share of the dense network's prunable channels that is gone after a round, from 1."""
        if self.slim.percent is None:
            return None
        return self.slim.percent + (number - 1) * self.slim.step

    def limits(self, number: int, dense: Mapping[str, float]) -> dict[str, float]:
        """What may stay after a round, in amounts; ``dense`` is what the dense network has."""
        found = {}
        for name, limit in self.slim.limits.items():
            share = min(limit if limit < 1 else limit / dense[name], 1.0)
            found[name] = dense[name] * share ** (number / self.stop.rounds)
        return found

    @property
    def precision(self) -> Precision:
        """In which the model's file keeps its numbers."""
        return "fp32" if Path(self.model).suffix == ".cfg" else "fp16"

    def teacher(self, dense: Path) -> DistillOptions | None:
        """Whom fine-tuning learns from; ``dense`` is the file of the dense network."""
        tune = self.finetune
        if tune is None or tune.teacher == "none":
            return None
        path = str(dense) if tune.teacher == "dense" else tune.teacher
        return DistillOptions(
            teacher=path, mode=tune.distil, weight=float(tune.weight), fade=tune.fade
        )


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: it cannot be read, is no YAML, or something in it is unknown, missing or out
            of range; the message names file, line and path.
    """
    return parse_recipe(read_text(path, RecipeError, most_mb=MAX_YAML_MB), path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """As :func:`read_recipe`, of text; ``path`` is what errors call it and where files are sought.

    Raises:
        RecipeError: as there.
    """
    read = parse_yaml(text, path, RecipeError, unique=True)
    return _recipe(read.value, read.lines, path)


def recipe_of(given: Mapping[str, Any]) -> Recipe:
    """Check a recipe that is no file; the files that it names are sought in the current folder.

    Raises:
        RecipeError: as :func:`read_recipe`.
    """
    return _recipe(_plain(given), {}, Path("recipe"))


def _plain(value: Any) -> Any:
    """A value as YAML would give it: paths are texts."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _recipe(data: Any, lines: Mapping[Where, int], path: Path) -> Recipe:
    """A checked recipe.

    Args:
        data: what was read.
        lines: where the values of a file stand; empty where there is none.
        path: what errors call it, and beside what files are sought.
    """
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path}: got {cut(repr(data), 60)}, expected a recipe with model, data, slim."
        )
    for name in ("train", "sparsify", "slim", "finetune", "stop"):
        if name in data and data[name] is None:
            at = _at(path, lines, (name,))
            raise RecipeError(f"{at}{name}: is empty. Fill it or leave it out.")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as exc:
        raise RecipeError(_message(exc, lines, path)) from exc
    found = {key: _beside(getattr(recipe, key), path) for key in ("model", "weights", "data")}
    tune = recipe.finetune
    if tune is not None and tune.teacher not in ("none", "dense"):
        teacher = _beside(tune.teacher, path) or ""
        if not Path(teacher).is_file():
            at = _at(path, lines, ("finetune", "teacher"))
            raise RecipeError(
                f"{at}finetune.teacher: no such file, got {tune.teacher!r}, expected "
                "none, dense or a .pt or .cfg."
            )
        found["finetune"] = tune.model_copy(update={"teacher": teacher})  # type: ignore[assignment]
    return recipe.model_copy(update=found)


def _beside(name: str | None, recipe: Path) -> str | None:
    """A file beside the recipe, where there is one of that name; absolute, to be one anywhere."""
    try:
        if name and (recipe.parent / name).exists():
            return str((recipe.parent / name).resolve())
    except (OSError, ValueError):  # no name that a file can have
        pass
    return name


def _at(path: Path, lines: Mapping[Where, int], at: Where) -> str:
    """File and line of a value, or of the section that it is missing in."""
    while at and at not in lines:
        at = at[:-1]
    return f"{path}:{lines[at]}: " if at in lines else f"{path}: "


def _message(exc: ValidationError, lines: Mapping[Where, int], path: Path) -> str:
    """The first thing that is wrong, in one line."""
    error = exc.errors()[0]
    at: Where = error["loc"]
    name = ".".join(map(str, at))
    where = _at(path, lines, at) + (f"{name}: " if name else "")
    kind, value = error["type"], cut(repr(error["input"]), 60)
    if kind == "extra_forbidden":
        fields = ", ".join(_section(at[:-1]).model_fields)
        return f"{where}is unknown, expected one of {fields}."
    if kind == "missing":
        return f"{where}is missing."
    if kind == "value_error":
        return f"{where}{str(error['ctx']['error']).rstrip('.')}."
    expected = error["msg"].removeprefix("Input should be ")
    return f"{where}got {value}, expected {expected}."


def _section(at: Where) -> type[BaseModel]:
    """The section at a path."""
    kinds: dict[Where, type[BaseModel]] = {
        (): Recipe,
        ("train",): TrainSection,
        ("sparsify",): SparsifySection,
        ("slim",): SlimSection,
        ("finetune",): FinetuneSection,
        ("stop",): StopSection,
    }
    return kinds[at]
