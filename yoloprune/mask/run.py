"""A network masked, made permanent, saved and measured."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.mask.files import write_masks
from yoloprune.mask.masking import left_out, made_permanent, mask_model, masks_of
from yoloprune.mask.sparsity import ModelSparsity, sparsity
from yoloprune.mask.spec import MaskSpec
from yoloprune.measure.environment import environment
from yoloprune.measure.latency import is_clear
from yoloprune.measure.tasks import check_data
from yoloprune.models.door import Source, input_size_of, save
from yoloprune.prune.sides import cost, quality

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOptions:
    """How to mask a network, and what to measure of it.

    Attributes:
        spec: which weights.
        out: folder for the model, its masks and the record.
        data: data set to measure on; None measures none.
        split: of the data set.
        imgsz: input size for all measurements; None is the model's own.
        batch: pictures a pass in latency.
        device: where to measure.
        repeats: timed passes; 0 times nothing.
    """

    spec: MaskSpec
    out: Path
    data: str | None = None
    split: str = "val"
    imgsz: int | None = None
    batch: int = 1
    device: str = "cpu"
    repeats: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskResult:
    """What masking gave.

    Attributes:
        model: the network with its masks made permanent.
        before: zeros of the network that was given …
        after: … and of the masked one.
        summary: the machine-readable record that ``--json`` writes.
    """

    model: nn.Module
    before: ModelSparsity
    after: ModelSparsity
    summary: dict[str, Any]


def run_mask(model: nn.Module, source: Source, options: MaskOptions) -> MaskResult:
    """Mask, make permanent, save and measure.

    Args:
        model: a loaded detector; not modified.
        source: the files it came from.
        options: how.

    Raises:
        MaskError: the mask does not fit the network.
        MeasureError: a parameter is not finite, or the measurement failed.
        DataError: the data set is missing or malformed; nothing is written.
    """
    spec = options.spec
    if options.data is not None:
        check_data(model, options.data, options.split)
    masked = made_permanent(mask_model(model, spec))
    zeros = {"before": sparsity(model), "after": sparsity(masked)}
    aside = left_out(model, spec)
    warnings = _warnings(zeros["after"], aside, spec)
    for text in warnings:
        log.warning("warning: %s", text)
    stem = f"{source.model.stem}-masked"
    files = save(masked, options.out / stem)
    masks = options.out / f"{files[0].stem}-masks.npz"
    write_masks(masks, masks_of(masked))
    sides = _measured(model, masked, source, files, options)
    for side, found in zeros.items():
        sides[side]["sparsity"] = {"overall": found.share(), **{
            group: found.share(group) for group in ("conv", "bn")
        }}  # fmt: skip
    summary = {
        "model": str(source.model),
        "imgsz": list(input_size_of(model, options.imgsz)),
        "spec": spec.to_dict(),
        **sides,
        "faster": latency_words(sides["before"], sides["after"]),
        "sparsity": zeros["after"].to_dict(),
        "left_out": list(aside),
        "warnings": warnings,
        "files": {"model": [str(f) for f in files], "masks": str(masks)},
        "environment": asdict(environment(options.device)),
    }
    return MaskResult(model=masked, before=zeros["before"], after=zeros["after"], summary=summary)


def zipped_bytes(paths: Sequence[Path]) -> int:
    """Bytes of files, each behind gzip at its default level: what zeros are worth on the way."""
    return sum(len(gzip.compress(path.read_bytes(), 6, mtime=0)) for path in paths)


def latency_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """What became of the time of a pass; None where it was not measured."""
    if "latency_ms" not in before or "latency_ms" not in after:
        return None
    old, new = before["latency_ms"], after["latency_ms"]
    if not is_clear(old, new, before["latency_iqr_ms"], after["latency_iqr_ms"]):
        return "no clear change: the difference is within the spread of the measurement"
    return f"{old / new:.2f}× faster" if new < old else f"{new / old:.2f}× slower"


def _warnings(after: ModelSparsity, aside: Sequence[str], spec: MaskSpec) -> list[str]:
    found = []
    if aside:
        found.append(
            f"{len(aside)} layers have input channels that {spec.pattern[1]} does not divide, and "
            f"stay whole: {_some(aside)}"
        )
    dead = after.dead_layers
    if dead:
        found.append(f"{len(dead)} layers are zero all over, and pass nothing on: {_some(dead)}")
    return found


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _measured(
    dense: nn.Module,
    masked: nn.Module,
    source: Source,
    files: tuple[Path, ...],
    options: MaskOptions,
) -> dict[str, dict[str, Any]]:
    """Records of both sides."""
    size = input_size_of(dense, options.imgsz)
    origin = (source.model, source.weights) if source.weights else (source.model,)
    models = {"before": dense, "after": masked}
    paths = {"before": origin, "after": files}
    how = {"batch": options.batch, "device": options.device, "repeats": options.repeats}
    records = cost(models, paths, size, **how)  # type: ignore[arg-type]
    for name, model in models.items():
        records[name]["zipped_bytes"] = zipped_bytes(paths[name])
        if options.data is not None:
            records[name] |= quality(
                model, options.data, size, split=options.split, device=options.device
            )
    return records
