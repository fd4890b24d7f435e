"""``yoloprune.run_recipe``: the whole loop, dense → [sparsify → slim → fine-tune] × rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.api.result import Table
from yoloprune.api.wording import speaks_arguments
from yoloprune.errors import RecipeError
from yoloprune.measure.copies import find_device
from yoloprune.models.door import load, torch_device
from yoloprune.plain import plain
from yoloprune.rounds.folder import finished_record, refuse_others
from yoloprune.rounds.recipe import read_recipe, recipe_of
from yoloprune.rounds.run import run_recipe as carry_out

_SHOWN = ("AP", "AP50", "params", "macs", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RecipeRun:
    """What a recipe came to.

    Attributes:
        model: the network of the last round within the limits.
        files: of it, its own first.
        record: all numbers and settings, JSON-able, as ``run.json`` in its folder.
    """

    model: nn.Module
    files: tuple[Path, ...]
    record: Mapping[str, Any] = field(repr=False)

    def table(self) -> Table:
        """A row a round, the dense network first; the result's name is marked."""
        rounds = self.record["rounds"]
        return Table(
            title=f"{plain(self.record['data'])}: stopped, {plain(self.record['stopped'])}",
            columns=("", *_SHOWN),
            rows=tuple(
                (self._marked(row["name"]), *(_shown(row[key]) for key in _SHOWN)) for row in rounds
            ),
            values=tuple(rounds),
        )

    def _marked(self, name: str) -> str:
        return f"{name} ←" if name == self.record["accepted"] else name

    def __repr__(self) -> str:
        row = next(r for r in self.record["rounds"] if r["name"] == self.record["accepted"])
        numbers = ", ".join(f"{key} {_shown(row[key])}" for key in _SHOWN)
        return f"<RecipeRun {row['name']}: {numbers}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


@speaks_arguments
def run_recipe(
    recipe: str | PathLike[str] | Mapping[str, Any],
    out: str | PathLike[str],
    *,
    overwrite: bool = False,
    verbose: bool = False,
) -> RecipeRun:
    """Carry a recipe out; after a kill the same call goes on, after its end it gives the result.

    Args:
        recipe: a YAML file, or what would stand in one; files that a mapping names are sought in
            the current folder.
        out: folder for everything: each stage, the record, the page, the resulting network.
        overwrite: begin anew where there is another run, and replace its results.
        verbose: let Ultralytics say all that it says.

    Raises:
        RecipeError: the recipe is wrong, or the folder belongs to another one.
        YoloPruneError: a stage failed, or another process is at work in the folder.
    """
    if isinstance(recipe, Mapping):
        checked = recipe_of(recipe)
    elif isinstance(recipe, str | PathLike):
        checked = read_recipe(Path(recipe))
    else:
        raise RecipeError(f"recipe: got {type(recipe).__name__}, expected a file or a mapping.")
    find_device(torch_device(checked.device))
    folder = Path(out)
    if not overwrite:
        refuse_others(folder, checked)
        record = finished_record(folder)
        if record is not None:
            files = tuple(folder / Path(file).name for file in record["files"]["model"])
            return RecipeRun(model=_loaded(files), files=files, record=record)
    done = carry_out(checked, folder, overwrite=overwrite, verbose=verbose)
    files = tuple(Path(file) for file in done.record["files"]["model"])
    return RecipeRun(model=done.model, files=files, record=done.record)


def _loaded(files: tuple[Path, ...]) -> nn.Module:
    weights = files[1] if files[0].suffix == ".cfg" else None
    return load(files[0], weights)[0]
