"""Networks that take part in a bench, read from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from yoloprune.errors import MeasureError
from yoloprune.measure.bench_group import Entrant
from yoloprune.models.door import Source, load


def entrants_of(files: Mapping[str, str | None], *, trust: bool = False) -> list[Entrant]:
    """The networks, under names that differ.

    Args:
        files: model file → weights of a ``.cfg``, where they were named.
        trust: unpickle a ``.pt`` of unknown classes.

    Raises:
        FormatError: one cannot be read.
        MeasureError: one stands twice.
    """
    # two weights of one cfg are told apart by them
    names = distinct([Path(weights or path) for path, weights in files.items()])
    found = []
    for (path, weights), name in zip(files.items(), names, strict=True):
        model, source = load(path, weights, trust=trust)
        found.append(
            Entrant(name=name, model=model, files=files_of(source), plan=plan_beside(source))
        )
    return found


def files_of(source: Source) -> tuple[Path, ...]:
    """The files of a network."""
    return (source.model, *((source.weights,) if source.weights else ()))


def plan_beside(source: Source) -> Path | None:
    """The plan that stands beside a slim network."""
    plan = source.model.with_name(f"{source.model.stem}-plan.json")
    return plan if plan.is_file() else None


def distinct(paths: Sequence[Path]) -> list[str]:
    """Names of files without suffixes, with as many of their folders as tell them apart.

    Raises:
        MeasureError: one stands twice.
    """
    parts = [(*path.resolve().parent.parts[1:], path.stem) for path in paths]
    if len(set(parts)) < len(parts):
        raise MeasureError(f"bench: a network stands twice, got {', '.join(map(str, paths))}.")
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    return ["/".join(own[-length:]) for own in parts]
