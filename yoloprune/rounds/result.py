"""What a recipe came to: timed, put where it is easily found, and told on a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.files import replacing_together, write_bytes
from yoloprune.measure.changed import CONFIDENCE, Changed, compare_sight
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import DetectOptions, detect
from yoloprune.measure.environment import environment
from yoloprune.measure.latency import LatencyOptions, measure_latency
from yoloprune.measure.spread import spreads
from yoloprune.models.door import torch_device
from yoloprune.report.rounds import write_rounds_picture
from yoloprune.report.run import write_run_card, write_run_page
from yoloprune.rounds.folder import CARD, PAGE, RECORD
from yoloprune.rounds.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All rounds of a recipe that came to its end.

    Attributes:
        recipe: as it was checked.
        out: its folder.
        models: ``dense`` and every round, in order.
        records: what was measured of each.
        accepted: name of the one that is the result.
        why: the rounds ended.
        sources: files of the result, in the folder of its round.
        dataset: that they were measured on.
        imgsz: height and width of the input in pixels.
        command: that was typed; empty where there was none.
    """

    recipe: Recipe
    out: Path
    models: Mapping[str, nn.Module]
    records: Sequence[Mapping[str, Any]]
    accepted: str
    why: str
    sources: tuple[Path, ...]
    dataset: Dataset
    imgsz: tuple[int, int]
    command: str = ""


def write_result(outcome: Outcome) -> dict[str, Any]:
    """Time all rounds in turn, copy the result, and write the record, the page and the card.

    Returns:
        The machine-readable record.

    Raises:
        YoloPruneError: a file cannot be written.
    """
    recipe, out = outcome.recipe, outcome.out
    device = torch_device(recipe.device)
    how = LatencyOptions(imgsz=outcome.imgsz, device=device, repeats=50)
    times = measure_latency(outcome.models, how)
    rows = [
        {
            "name": name,
            **record,
            "latency_ms": times[name].median_ms,
            "latency_iqr_ms": times[name].iqr_ms,
        }
        for name, record in zip(outcome.models, outcome.records, strict=True)
    ]
    files = _copied(outcome)
    picture = write_rounds_picture(out, rows, outcome.accepted, recipe.stop.max_ap_drop)
    changed = _changed(outcome)
    before, after = outcome.models["dense"], outcome.models[outcome.accepted]
    record = {
        "rounds": rows,
        "accepted": outcome.accepted,
        "stopped": outcome.why,
        "model": recipe.model,
        "imgsz": list(outcome.imgsz),
        "data": recipe.data,
        "split": outcome.dataset.split,
        "images": len(outcome.dataset.images),
        "layers": _layers(before, after),
        "spreads": spreads({"before": before, "after": after}),
        "changed": None if changed is None else changed.to_dict(),
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        "command": outcome.command,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": asdict(environment(device)),
        "passes": how.repeats,
        "files": {
            "model": [str(file) for file in files],
            "picture": str(picture),
            "report": str(out / PAGE),
            "card": str(out / CARD),
        },
    }
    write_run_page(out / PAGE, record, changed)
    write_run_card(out / CARD, record)
    write_bytes(out / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    return record


def _copied(outcome: Outcome) -> list[Path]:
    """The result's files in the folder itself."""
    sources = outcome.sources
    files = [outcome.out / f"result{file.suffix}" for file in sources]
    names = sources[0].with_suffix(".names")
    named = (names,) if sources[0].suffix == ".cfg" and names.is_file() else ()
    targets = (*files, *(outcome.out / "result.names" for _ in named))
    with replacing_together(*targets) as copies:
        for file, copy in zip((*sources, *named), copies, strict=True):
            shutil.copyfile(file, copy)
    return files


def _changed(outcome: Outcome) -> Changed | None:
    """What the result sees beside the dense network; None where it is that."""
    if outcome.accepted == "dense":
        return None
    device = torch_device(outcome.recipe.device)
    options = DetectOptions(imgsz=outcome.imgsz, device=device, conf=CONFIDENCE)
    before, after = (
        list(detect(outcome.models[name], outcome.dataset.images, options))
        for name in ("dense", outcome.accepted)
    )
    return compare_sight(outcome.dataset, before, after, model=outcome.accepted)


def _layers(before: nn.Module, after: nn.Module) -> list[dict[str, Any]]:
    """Output channels of every convolution that both have, in network order."""
    widths = [
        {path: m.out_channels for path, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        for model in (before, after)
    ]
    return [
        {"path": path, "before": width, "after": widths[1][path]}
        for path, width in widths[0].items()
        if path in widths[1]
    ]
