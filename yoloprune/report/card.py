"""Model cards: Markdown under a head of YAML, as hubs of models show them beside the files.

What a card cannot know, the licence of the weights and the name of the model on a hub that they
were made from, stands in its head as comments to be filled in.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoloprune.files import write_bytes
from yoloprune.plain import plain

Table = Sequence[Sequence[str]]
"""Rows of texts, the first of them the head."""

_TASKS = {
    "mask_AP": "image-segmentation",
    "keypoint_AP": "keypoint-detection",
    "top1": "image-classification",
}
_NAMES = {"AP": "AP50:95", "mask_AP": "AP50:95 of masks", "keypoint_AP": "AP50:95 of key points"}
_MEASURED = ("AP", "AP50", "mask_AP", "keypoint_AP", "rotated_AP", "top1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card says.

    Attributes:
        name: of the model.
        origin: file that it was made from.
        takeaway: what came out, in a sentence with figures.
        files: of the model.
        figures: the table.
        method: how that was measured, a sentence each.
        command: that made it.
        date: when, ISO 8601.
        metrics: name of a model → name of a metric → fraction; most cards are of one model.
        data: data set that they were measured on, if any.
        split: of it.
        notes: what a user must know.
    """

    name: str
    origin: str
    takeaway: str
    files: Sequence[str]
    figures: Table
    method: Sequence[str]
    command: str
    date: str
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    data: str | None = None
    split: str | None = None
    notes: Sequence[str] = ()


def write_card(target: Path, card: Card) -> Path:
    """Write a card.

    Returns:
        The file that was written.

    Raises:
        YoloPruneError: the folder cannot be written to.
    """
    write_bytes(target, render_card(card).encode())
    return target


def render_card(card: Card) -> str:
    """The text of a card."""
    blocks = [
        _head(card),
        f"# {_text(card.name)}",
        _text(card.takeaway),
        *(f"> {_text(note)}" for note in card.notes),
        "## Figures",
        _table(card.figures),
        " ".join(_text(sentence) for sentence in card.method),
        *(("## How to use it", _use(card)) if card.files else ()),
        "## How it was made",
        f"Made from {_code(card.origin)} by yoloprune"
        f"{f' on {_text(card.date[:10])}' if card.date else ''}:",
        *([_fenced(card.command, "console")] if card.command else []),
        "## Licence",
        "Not stated here: a slim model is a derived work of the one that it was made from, of its "
        "training data and of its framework. Look those up, and name the licence in the head of "
        "this card.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _head(card: Card) -> str:
    import yaml

    about: dict[str, Any] = {
        "library_name": "darknet" if _darknet(card) else "ultralytics",
        "pipeline_tag": next(
            (task for key, task in _TASKS.items() if any(key in m for m in card.metrics.values())),
            "object-detection",
        ),
        "tags": ["yolo", "pruning", "yoloprune"],
    }
    index = [
        {"name": plain(name), "results": [_result(card, metrics, about["pipeline_tag"])]}
        for name, metrics in card.metrics.items()
        if card.data is not None and any(key in metrics for key in _MEASURED)
    ]
    if index:
        about["model-index"] = index
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=10_000)
    return (
        "---\n"
        "# license: to be filled in, see the end of this card\n"
        f"# base_model: OWNER/NAME on the hub of {plain(Path(card.origin).name)}\n"
        f"{text}---"
    )


def _result(card: Card, metrics: Mapping[str, float], task: str) -> dict[str, Any]:
    """One entry of a model index."""
    data = plain(Path(card.data or "").stem)
    return {
        "task": {"type": task},
        "dataset": {"type": data, "name": data, "split": card.split or "val"},
        "metrics": [
            {"type": key, "name": _NAMES.get(key, key), "value": round(metrics[key], 4)}
            for key in _MEASURED
            if key in metrics
        ],
    }


def _use(card: Card) -> str:
    names = [Path(file).name for file in card.files]
    stock = (
        "The files are stock Darknet: any program that reads a cfg and weights reads them, with no "
        "code of yoloprune." if _darknet(card) else
        "The file is a stock Ultralytics checkpoint: `YOLO(file)` loads it, with no code of "
        "yoloprune."
    )  # fmt: skip
    line = f"$ yoloprune predict {shlex.quote(plain(names[0]))} pictures/"
    listed = ", ".join(map(_code, names))
    return f"{listed}. {stock}\n\n{_fenced(line, 'console')}"


def _darknet(card: Card) -> bool:
    return any(Path(file).suffix == ".cfg" for file in card.files)


def _table(rows: Table) -> str:
    head, *body = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text if set(text) <= {"-", ":"} and text else _text(text)


def _text(text: str) -> str:
    """Words that Markdown and HTML leave as they are."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain(text)).replace("<", "&lt;")


def _code(text: str) -> str:
    """A code span, whatever backticks are in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{plain(text)}{space}{fence}"


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{plain(text)}\n{fence}"
