"""How and where a result was measured, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def conditions(result: Mapping[str, Any]) -> dict[str, Any]:
    """Name → value of what a record of ``slim`` or ``run`` says of how it was measured."""
    rows: dict[str, Any] = {}
    if result.get("date"):
        rows["date"] = result["date"]
    if result.get("imgsz"):
        rows["input"] = " × ".join(map(str, result["imgsz"])) + " pixels"
    timing = (result.get("before") or {}).get("latency") or {}
    for key in ("batch", "device", "threads", "precision", "warmup"):
        if key in timing:
            rows[key] = timing[key]
    if "times_ms" in timing:
        rows["timed passes"] = len(timing["times_ms"])
    rows |= result.get("environment") or {}
    if isinstance(result.get("seconds"), Mapping):
        stages = (f"{name} {value:.2f}" for name, value in result["seconds"].items())
        rows["seconds a stage"] = ", ".join(stages)
    return rows


def machine(environment: Mapping[str, Any] | None) -> str:
    """What computed: the GPU where one did, else the processor."""
    known = environment or {}
    return str(known.get("gpu") or known.get("cpu") or "this machine")


def flat(data: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """A mapping as rows: a name, and lines of text."""
    for key, value in data.items():
        name = str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield from ((f"{name}: {inner}", lines) for inner, lines in flat(value))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            texts = [str(item) for item in value]
            lines = all(isinstance(item, str) for item in value)
            yield name, texts if lines else [", ".join(texts)]
        elif value is not None:
            yield name, [str(value)]
