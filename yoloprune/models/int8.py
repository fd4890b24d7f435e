"""Networks in 8 bits, by the runtimes' own tools, with what 8 bits would harm kept in float.

Accuracy is nothing that can be measured at this level: who wants parts kept until AP holds hands a
function in that measures the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.errors import ExportError, YoloPruneError, typed_line
from yoloprune.models.difference import difference
from yoloprune.models.fake_quant import group_errors, output_error
from yoloprune.models.int8_litert import LiteRtTool
from yoloprune.models.int8_onnx import OnnxTool
from yoloprune.models.int8_openvino import OpenVinoTool
from yoloprune.models.keep_float import (
    DECODING,
    KeepFloat,
    because_of,
    dominant,
    kept_by_rule,
    parse_keep_float,
    ranked,
    rest_of,
)
from yoloprune.models.net_graph import NetGraph

log = logging.getLogger(__name__)

Batches = Sequence[NDArray[np.float32]]
_LOOK = 4
"""Pictures that groups are judged on: anchors are many, and errors hardly differ by picture."""
_COMPARED = 16
"""Pictures that outputs are compared on."""
_POOR = 0.25
"""Error of the outputs that is warned of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """How a network is brought to 8 bits.

    Attributes:
        calibration: ``[N, C, H, W]`` as the network is given pictures, uint8 or float in 0 … 1; or
            batches of such.
        keep_float: ``auto``, ``none``, or layers, modules and globs with commas between.
        accuracy: measures a file; None where nothing is measured.
        max_drop: what that may fall by from the file in float32: more is kept in float until it
            holds. Needs ``accuracy``.
        advance: told how many groups are judged, and of how many.
    """

    calibration: Tensor | Iterable[Tensor] | None = None
    keep_float: str = "auto"
    accuracy: Callable[[Path], float] | None = None
    max_drop: float | None = None
    advance: Callable[[int, int], None] = field(default=lambda done, total: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Record:
    """How a file came to 8 bits.

    Attributes:
        tool: name and version of what did it.
        settings: of the tool.
        pictures: that it was calibrated on.
        agreement: largest difference from the outputs in float32, as a share of their scale; None
            of what Ultralytics' exporters made.
        error: how far detections are from those in float32, see ``output_error``.
        group_errors: the same of each group alone, in torch; empty where none were judged.
        ap, ap_fp32: as measured on the very files; None where they were not.
        max_drop: that was asked for.
        held: whether it was reached; None where none was asked for.
        tries: files that were made.
        seconds: all of it.
    """

    tool: str
    settings: Mapping[str, Any]
    pictures: int
    agreement: float | None = None
    error: float | None = None
    group_errors: Mapping[str, float] = field(default_factory=dict)
    ap: float | None = None
    ap_fp32: float | None = None
    max_drop: float | None = None
    held: bool | None = None
    tries: int = 1
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable record."""
        return asdict(self)


class Tool(Protocol):
    """What brings one network to 8 bits for one runtime."""

    name: str
    suffix: str
    source: Path
    graph: NetGraph
    settings: dict[str, Any]

    def quantise(self, target: Path, batches: Batches, floats: Collection[str]) -> None:
        """Write a file in 8 bits, but for operations of some names."""

    def run(self, file: Path, batches: Batches) -> list[list[NDArray[Any]]]:
        """Outputs of a file for each batch."""


TOOLS: dict[str, Callable[[Path, Path, nn.Module], Tool]] = {
    "onnx": OnnxTool,
    "openvino": OpenVinoTool,
    "litert": LiteRtTool,
}
"""Format → what brings it to 8 bits here."""


def quantise(
    model: nn.Module, made: Path, file_format: str, batch: int, options: Int8Options
) -> tuple[Path, dict[str, str], Int8Record]:
    """Bring an exported network to 8 bits.

    Args:
        model: that was exported. Not modified.
        made: its file in float32; the result goes beside it.
        file_format: one of ``TOOLS``.
        batch: pictures a pass that the file takes.
        options: how.

    Returns:
        The file, what is kept in float and why, and how it went.

    Raises:
        ExportError: there are no pictures, a pattern matches nothing, or the tool fails.
    """
    start = time.perf_counter()
    asked = parse_keep_float(options.keep_float)
    pictures = as_pictures(options.calibration)
    batches = _batches(pictures, batch)
    work = made.parent / "int8"
    work.mkdir()
    try:
        tool = TOOLS[file_format](made, work, model)
        trial = _Trial(tool, batches, made.with_name(f"{_stem(made, tool)}_int8{tool.suffix}"))
        kept, errors = _chosen(model, tool.graph, asked, pictures, options)
        found = _settled(trial, kept, errors, options)
    except YoloPruneError:
        raise
    except Exception as exc:  # a converter can raise anything
        line = typed_line(exc, 300)
        raise ExportError(f"{file_format}: bringing it to 8 bits failed ({line}).") from exc
    agreement, error = trial.agreement()
    if not error <= _POOR:
        log.warning(
            "warning: %s: outputs differ from float32's by %.2g in all. Keep more in float, or "
            "calibrate on pictures of the network's own kind.", trial.target.name, error,
        )  # fmt: skip
    record = Int8Record(
        tool=tool.name, settings=tool.settings, pictures=len(pictures), agreement=agreement,
        error=error, group_errors=errors, ap=found.ap, ap_fp32=found.ap_fp32,
        max_drop=options.max_drop, held=found.held, tries=trial.tries,
        seconds=time.perf_counter() - start,
    )  # fmt: skip
    return trial.target, found.kept, record


def check_int8(file_format: str, options: Int8Options) -> None:
    """Refuse what means nothing for a format, before any work.

    Raises:
        ExportError: it does not.
    """
    parse_keep_float(options.keep_float)
    asked = options.keep_float != "auto" or options.max_drop is not None
    if asked and file_format not in TOOLS:
        raise ExportError(
            f"--keep-float, --max-drop: not for {file_format}, where its own tool says what stays "
            f"in float, expected one of {', '.join(TOOLS)}."
        )


def as_pictures(calibration: Tensor | Iterable[Tensor] | None) -> Tensor:
    """Float pictures ``[N, C, H, W]`` in 0 … 1 of what was handed in.

    Raises:
        ExportError: there are none.
    """
    if calibration is not None and not isinstance(calibration, Tensor):
        handed = list(calibration)
        calibration = torch.cat(handed) if handed else None
    if calibration is None or not len(calibration):
        raise ExportError(
            "--precision int8: needs pictures to calibrate on, got none. Name some dozens of the "
            "network's own kind with --calib."
        )
    pictures = calibration.cpu()
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()


def _batches(pictures: Tensor, size: int) -> Batches:
    """Pictures in batches of one size; the last one is filled up with the first pictures."""
    count = -(-len(pictures) // size) * size
    order = torch.arange(count) % len(pictures)
    return [pictures[part].numpy() for part in torch.split(order, size)]


def _stem(made: Path, tool: Tool) -> str:
    return made.name.removesuffix(tool.suffix)


def _chosen(
    model: nn.Module, graph: NetGraph, asked: KeepFloat, pictures: Tensor, options: Int8Options
) -> tuple[dict[str, str], dict[str, float]]:
    """What is kept at first, and the error of every group that is not kept by rule."""
    kept = kept_by_rule(graph, asked)
    if not asked.auto:
        return kept, {}
    groups = rest_of(graph, kept)
    errors = group_errors(model, groups, pictures[:_LOOK], options.advance)
    return kept | because_of(dominant(errors), errors), errors


@dataclass(frozen=True, slots=True)
class _Found:
    kept: dict[str, str]
    ap: float | None = None
    ap_fp32: float | None = None
    held: bool | None = None


@dataclass(slots=True)
class _Trial:
    """Makes the file anew with other parts in float."""

    tool: Tool
    batches: Batches
    target: Path
    tries: int = 0

    def make(self, kept: Mapping[str, str]) -> None:
        graph = self.tool.graph
        floats = set(graph.inside([path for path in kept if path != DECODING]))
        if DECODING in kept:
            floats.update(graph.decoding)
        self.tool.quantise(self.target, self.batches, floats)
        self.tries += 1

    def agreement(self) -> tuple[float, float]:
        """Largest difference from float32, and error of the detections."""
        few = self.batches[: max(1, _COMPARED // len(self.batches[0]))]
        expected = self.tool.run(self.tool.source, few)
        found = self.tool.run(self.target, few)
        pairs = list(zip(expected, found, strict=True))
        errors = [output_error(torch.from_numpy(a[0]), torch.from_numpy(b[0])) for a, b in pairs]
        return max(difference(a, b) for a, b in pairs), sum(errors) / len(errors)


def _settled(
    trial: _Trial, kept: dict[str, str], errors: Mapping[str, float], options: Int8Options
) -> _Found:
    """Make the file, and keep more in float where accuracy was asked for and does not hold."""
    trial.make(kept)
    accuracy = options.accuracy
    if accuracy is None:
        return _Found(kept)
    full, reached = accuracy(trial.tool.source), accuracy(trial.target)
    if options.max_drop is None:
        return _Found(kept, reached, full)
    left = [group for group in ranked(errors) if group not in kept]

    def reached_with(count: int) -> float:
        trial.make(kept | because_of(left[:count], errors))
        return accuracy(trial.target)

    # Fewest of the ranking that hold, by doubling, then halving what is between.
    failed, count = 0, 0
    while full - reached > options.max_drop and count < len(left):
        failed, count = count, min(max(1, 2 * count), len(left))
        reached = reached_with(count)
    held, last = full - reached <= options.max_drop, count
    while held and count - failed > 1:
        last = (failed + count) // 2
        found = reached_with(last)
        if full - found <= options.max_drop:
            count, reached = last, found
        else:
            failed = last
    if last != count:
        trial.make(kept | because_of(left[:count], errors))
    if not held:
        log.warning(
            "warning: %s: AP %.4f is %.4f below float32's, more than --max-drop %g, with all that "
            "may be kept in float.", trial.target.name, reached, full - reached, options.max_drop,
        )  # fmt: skip
    return _Found(kept | because_of(left[:count], errors), reached, full, held)
