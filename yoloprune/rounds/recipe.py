"""Recipes: the whole loop in one YAML file, checked before anything runs.

The file is not trusted. What is wrong with it is said with its line and its path, and nothing
of it is ever run or evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from yoloprune.errors import RecipeError, YoloPruneError
from yoloprune.prune.budget import LIMITS, Budget, Precision
from yoloprune.prune.score import Reduce
from yoloprune.texts import (
    MAX_YAML_MB,
    Where,
    cut,
    parse_amount,
    parse_time,
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
)

Epochs = Annotated[int, Field(ge=1, strict=True)]
Settings = dict[str, Any]
Limit = str | int | float | None


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Let pydantic say where a record that checks itself stands."""
    try:
        yield
    except YoloPruneError as exc:
        raise ValueError(str(exc)) from exc


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _checked_settings(settings: Settings) -> Settings:
    with _as_value_error():
        check_settings(settings)
    try:
        json.dumps(settings)
    except (TypeError, ValueError) as exc:
        raise ValueError("values must be numbers, texts, true, false, lists or maps") from exc
    return settings


class TrainSection(_Section):
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
        with _as_value_error():
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


class SlimSection(_Section):
    """The cuts.

    Attributes:
        percent: share of the dense network's prunable channels that the first round removes; may
            be left out where a limit is set.
        step: what each further round adds to it.
        macs, params, bytes: limits, of which all hold after the last round: shares of the dense
            network's, or amounts such as ``2.1G``. Each round before it takes the same factor.
        precision: that ``bytes`` are counted in; as the model's file keeps them if not.
        min_channels, max_layer_prune, round_to: as in ``Budget``, of each cut.
        reduce: how tied channels make one score.
        compensate: fold constants of removed channels into what reads them.
        search: how long each round looks for better shares than even ones: ``90s``, ``3m``; 0 not
            at all. It is left out where the cut takes switched-off channels alone.
    """

    percent: float | None = None
    step: float = Field(default=0.0, ge=0, lt=1)
    macs: Limit = None
    params: Limit = None
    bytes: Limit = None
    precision: Precision | None = None
    min_channels: int = 8
    max_layer_prune: float = 0.9
    round_to: int = 8
    reduce: Reduce = "mean"
    compensate: bool = True
    search: str | int | float = "3m"

    @field_validator("search")
    @classmethod
    def _time(cls, search: str | int | float) -> str | int | float:
        parse_time(str(search))
        return search

    @property
    def seconds(self) -> float:
        """Of search."""
        return parse_time(str(self.search))

    @field_validator("macs", "params", "bytes")
    @classmethod
    def _limit(cls, limit: str | float | None, info: ValidationInfo) -> str | float | None:
        if limit is not None:
            parse_amount(str(limit), of_bytes=info.field_name == "bytes")
        return limit

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by name: below 1 a share of the dense network's, else an amount."""
        set_ = {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}
        return {k: parse_amount(str(v), of_bytes=k == "bytes") for k, v in set_.items()}

    @model_validator(mode="after")
    def _checked(self) -> SlimSection:
        if self.step and self.percent is None:
            raise ValueError("step: is added to percent. Give that too.")
        if self.precision is not None and self.bytes is None:
            raise ValueError("precision: is what bytes are counted in. Give these too.")
        with _as_value_error():
            self.budget(self.percent, self.limits, "fp32")
        return self

    def budget(
        self, percent: float | None, limits: Mapping[str, float], precision: Precision
    ) -> Budget:
        """Of a cut of so much of what is there."""
        return Budget(
            percent=percent,
            **limits,
            precision=self.precision or precision,
            min_channels=self.min_channels,
            max_layer_prune=self.max_layer_prune,
            round_to=self.round_to,
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


class StopSection(_Section):
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


class Recipe(_Section):
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
        return self

    def percent(self, number: int) -> float | None:
        """Share of the dense network's prunable channels that is gone after a round, from 1."""
        if self.slim.percent is None:
            return None
        return self.slim.percent + (number - 1) * self.slim.step

    def limits(self, number: int, dense: Mapping[str, int]) -> dict[str, float]:
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
    data, lines = read.value, read.lines
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path}: got {cut(repr(data), 60)}, expected a recipe with model, data, slim."
        )
    for name in ("train", "sparsify", "slim", "finetune", "stop"):
        if name in data and data[name] is None:
            raise RecipeError(
                f"{path}:{lines[(name,)]}: {name}: is empty. Fill it or leave it out."
            )
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as exc:
        raise RecipeError(_message(exc, lines, path)) from exc
    found = {key: _beside(getattr(recipe, key), path) for key in ("model", "weights", "data")}
    tune = recipe.finetune
    if tune is not None and tune.teacher not in ("none", "dense"):
        teacher = _beside(tune.teacher, path) or ""
        if not Path(teacher).is_file():
            line = lines[("finetune", "teacher")]
            raise RecipeError(
                f"{path}:{line}: finetune.teacher: no such file, got {tune.teacher!r}, expected "
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


def _message(exc: ValidationError, lines: Mapping[Where, int], path: Path) -> str:
    """The first thing that is wrong, in one line."""
    error = exc.errors()[0]
    at: Where = error["loc"]
    name = ".".join(map(str, at))
    known = at
    while known not in lines:
        known = known[:-1]
    where = f"{path}:{lines[known]}: " + (f"{name}: " if name else "")
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
