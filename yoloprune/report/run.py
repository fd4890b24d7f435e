"""The page and the model card of one ``run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yoloprune.measure.changed import Changed
from yoloprune.report.card import Card, write_card
from yoloprune.report.charts import Layer
from yoloprune.report.conditions import conditions, flat, machine
from yoloprune.report.figures import share, signed
from yoloprune.report.layers import layers_part
from yoloprune.report.page import Head, Part, write_page
from yoloprune.report.pictures import changed_part
from yoloprune.report.scatter import Axes, Point, scatter
from yoloprune.report.sides import METRICS, TILES, compare, takeaway
from yoloprune.report.spread import spread_part


def write_run_page(target: Path, record: Mapping[str, Any], changed: Changed | None = None) -> Path:
    """Write the page of a recipe: one HTML file, nothing loaded from elsewhere.

    Args:
        target: the file; its folder is made if need be.
        record: what ``run --json`` holds.
        changed: what the result sees beside the dense network.

    Returns:
        The file that was written.

    Raises:
        YoloPruneError: the folder cannot be written to.
    """
    dense, result = _ends(record)
    rows = compare(dense, result)
    parts = [
        Part(name="tiles", title="", data={"rows": [row for row in rows if row.key in TILES]}),
        _rounds(record),
        _chart(record, "latency_ms", 1.0, "milliseconds a pass, median", "AP over latency"),
        _chart(record, "macs", 1e-9, "GMACs a picture", "AP over MACs"),
        _layers(record),
        changed and changed_part(
            changed.counts, changed.changes, changed.classes, changed.images, "the dense network"
        ),
        spread_part(record.get("spreads")),
        _made(record),
    ]  # fmt: skip
    name = Path(record["model"]).name
    head = Head(
        title=f"{name}, {record['accepted']} of a recipe",
        over=["yoloprune run", name, record["date"][:10]],
        takeaway=_takeaway(record),
        method=_method(record),
        verdict={
            "state": "bad" if record["accepted"] == "dense" else "good",
            "words": f"The result is {record['accepted']} ({record['stopped']}).",
            "next": f"yoloprune export {record['files']['model'][0]} --format onnx",
        },
    )
    return write_page(target, head, [part for part in parts if part])


def write_run_card(target: Path, record: Mapping[str, Any]) -> Path:
    """Write the model card of a recipe's result.

    Args:
        target: the file.
        record: as :func:`write_run_page` takes it.

    Returns:
        The file that was written.

    Raises:
        YoloPruneError: the folder cannot be written to.
    """
    dense, result = _ends(record)
    name = f"{Path(record['model']).stem}-{record['accepted']}"
    card = Card(
        name=name,
        origin=record["model"],
        takeaway=_takeaway(record),
        files=record["files"]["model"],
        figures=[
            ("", "dense", record["accepted"], "change"),
            *((row.name, row.before, row.after, row.change) for row in compare(dense, result)),
        ],
        method=_method(record),
        command=record["command"],
        date=record["date"],
        metrics={name: {key: result[key] for key in METRICS if result.get(key) is not None}},
        data=record["data"],
        split=record["split"],
    )
    return write_card(target, card)


def _ends(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Rows of the dense network and of the result."""
    rows = {row["name"]: row for row in record["rounds"]}
    return rows["dense"], rows[record["accepted"]]


def _takeaway(record: Mapping[str, Any]) -> str:
    name, rounds = Path(record["model"]).name, len(record["rounds"]) - 1
    if record["accepted"] == "dense":
        return f"{name}: none of {rounds} rounds kept within the limits of the recipe."
    return takeaway(f"{name}, {record['accepted']} of {rounds}", compare(*_ends(record)))


def _method(record: Mapping[str, Any]) -> list[str]:
    size = " × ".join(map(str, record["imgsz"]))
    return [
        f"All networks were timed in turn in one process on {machine(record['environment'])}: the "
        f"median of {record['passes']} forward passes without non-maximum suppression at {size} "
        "pixels.",
        f"AP is measured on {record['images']:,} pictures of the {record['split']} split of "
        f"{record['data']}, by pycocotools.",
        "Each round goes on from the one before it, and all are compared with the dense network.",
    ]


def _rounds(record: Mapping[str, Any]) -> Part:
    dense = record["rounds"][0]
    rows = [
        {
            **row,
            "result": row["name"] == record["accepted"],
            "gone": share(row["percent"]) if "percent" in row else "",
            "change": "" if row is dense else signed(row["AP"] - dense["AP"], 3),
            "left": {key: share(row[key] / dense[key]) for key in ("macs", "params", "bytes")},
        }
        for row in record["rounds"]
    ]
    return Part(name="rounds", title="Round by round", data={"rows": rows}, sortable=True)


def _chart(record: Mapping[str, Any], key: str, unit: float, words: str, title: str) -> Part | None:
    rows: Sequence[Mapping[str, Any]] = record["rounds"]
    if len(rows) < 2:
        return None
    points = [
        Point(
            x=row[key] * unit, y=row["AP"], label=row["name"],
            kind="before" if row["name"] == "dense" else "after",
            ringed=row["name"] == record["accepted"],
            weight=float(row["name"] in ("dense", record["accepted"])),
        )
        for row in rows
    ]  # fmt: skip
    rule = (record["recipe"].get("stop") or {}).get("max_ap_drop")
    floor = None if rule is None else rows[0]["AP"] - rule
    chart = {
        "title": "",
        "svg": scatter(points, Axes(x=words, y="AP", floor=floor), f"{title} of every round"),
    }
    key_words = [("dense", "round before"), ("rounds, the result ringed", "round after")]
    if floor is not None:
        key_words.append(("lowest that the recipe allows", "dashed"))
    data = {"charts": [chart], "key": key_words, "words": "Up and left is better."}
    return Part(name="charts", anchor=f"over-{key}", title=title, data=data)


def _layers(record: Mapping[str, Any]) -> Part | None:
    if record["accepted"] == "dense":
        return None
    return layers_part([Layer(**one) for one in record["layers"]], "Layer by layer")


def _made(record: Mapping[str, Any]) -> Part:
    tables = [
        ("The recipe", list(flat(record["recipe"]))),
        ("Files", list(flat(record["files"]))),
        ("Measured on", list(flat(conditions(record)))),
    ]
    data = {"command": record["command"], "tables": tables}
    return Part(name="made", title="How it was made", data=data)
