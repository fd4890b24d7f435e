"""The folder of a recipe's run: whose it is, and whether it came to its end. Light: no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yoloprune.errors import RecipeError
from yoloprune.files import keep_results
from yoloprune.rounds.recipe import Recipe

STATE = "state.json"
RECORD = "run.json"
PAGE = "report.html"
CARD = "result-card.md"
_RESULTS = (
    "rounds.png",
    PAGE,
    CARD,
    *(f"result.{end}" for end in ("cfg", "weights", "names", "pt")),
)


def _json(path: Path) -> dict[str, Any] | None:
    """What a file of ours says; None where it is missing or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def changes(before: Any, now: Any, at: str = "") -> list[str]:
    """What differs between two recipes, as ``path: old → new``."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        parts = (changes(before.get(k), now.get(k), f"{at}.{k}" if at else str(k)) for k in keys)
        return [change for part in parts for change in part]
    return [] if before == now else [f"{at}: {before!r} → {now!r}"]


def refuse_changes(folder: Path, changed: list[str]) -> None:
    """Let a run not go on with another recipe than it was begun with.

    Raises:
        RecipeError: something changed; it says what.
    """
    if changed:
        raise RecipeError(
            f"{folder}: was begun with another recipe, changed since: {'; '.join(changed)}. "
            "Choose another folder with -o, undo the change, or replace it with --overwrite."
        )


def _since(state: dict[str, Any], recipe: Recipe) -> list[str]:
    """What of a recipe changed since a run began; not whether the model's file did."""
    before = state.get("recipe")
    if not isinstance(before, dict):
        return ["recipe: is damaged"]
    return changes(
        {key: value for key, value in before.items() if key != "model_sha256"},
        recipe.model_dump(mode="json"),
    )


def is_unfinished_run_of(recipe: Recipe, folder: Path) -> bool:
    """Whether the same command was at work in a folder, and was stopped."""
    state = _json(folder / STATE)
    return state is not None and not _since(state, recipe) and finished_record(folder) is None


def refuse_others(folder: Path, recipe: Recipe) -> None:
    """Let no other run's results be replaced, and none be gone on with by another recipe.

    Raises:
        YoloPruneError: there are some.
    """
    others = "Choose another folder with -o, or replace it with --overwrite."
    if not (folder / STATE).exists():
        there = (path for name in (RECORD, *_RESULTS) if (path := folder / name).exists())
        keep_results(folder, there, others)
        return
    state = _json(folder / STATE)
    if state is None:
        raise RecipeError(f"{folder / STATE}: is damaged. {others}")
    refuse_changes(folder, _since(state, recipe))


def finished_record(folder: Path) -> dict[str, Any] | None:
    """What a run came to, if it came to its end and its result is still there."""
    record = _json(folder / RECORD)
    if record is None or not (folder / STATE).is_file():
        return None
    files = record.get("files", {}).get("model", [])
    whole = files and all((folder / Path(file).name).is_file() for file in files)
    return record if whole else None
