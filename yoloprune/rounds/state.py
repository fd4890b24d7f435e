"""What of a recipe is done, on disk after every stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoloprune.errors import RecipeError
from yoloprune.files import sha256, write_bytes
from yoloprune.rounds.folder import changes, refuse_changes

VERSION = 1


@dataclass(slots=True)
class State:
    """What is done, on disk after every stage.

    Attributes:
        path: of ``state.json``.
        recipe: what the run began with.
        stages: name of a finished stage → its files with their digests, and its record.
    """

    path: Path
    recipe: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def open(path: Path, recipe: dict[str, Any]) -> State:
        """The state of a folder, new where there is none.

        Raises:
            RecipeError: it is of another recipe, or damaged.
        """
        if not path.is_file():
            state = State(path, recipe)
            state.write()
            return state
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version, before, stages = data["version"], data["recipe"], data["stages"]
            for stage in stages.values():
                {**stage["files"]}, {**stage["record"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise RecipeError(f"{path}: is damaged. Choose another folder with -o.") from exc
        if version != VERSION:
            raise RecipeError(f"{path}: is of version {version}, expected {VERSION}.")
        refuse_changes(path.parent, changes(before, recipe))
        return State(path, recipe, stages)

    def write(self) -> None:
        """Put it on disk, whole."""
        data = {"version": VERSION, "recipe": self.recipe, "stages": self.stages}
        write_bytes(self.path, (json.dumps(data, indent=2) + "\n").encode())

    def enter(self, name: str, files: tuple[Path, ...], record: dict[str, Any]) -> None:
        """A stage is done."""
        digests = {str(f.relative_to(self.path.parent)): sha256(f) for f in files}
        self.stages[name] = {"files": digests, "record": record}
        self.write()

    def files(self, name: str) -> tuple[Path, ...]:
        """The files of a finished stage.

        Raises:
            RecipeError: one is missing, or no longer what the stage wrote.
        """
        found = []
        for relative, expected in self.stages[name]["files"].items():
            file = self.path.parent / relative
            if not file.is_file() or sha256(file) != expected:
                raise RecipeError(
                    f"{file}: is not what the stage {name} left there. Put it back, or choose "
                    "another folder with -o."
                )
            found.append(file)
        return tuple(found)


def rounds_done(count: int) -> str:
    """Why rounds ended that no rule stopped."""
    return "1 round is done" if count == 1 else f"{count} rounds are done"
