"""What a cut leaves behind, in plain words, and the one command to type next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from yoloprune.channels.graph import ChannelGraph
from yoloprune.prune.repair import RepairRecord

State = Literal["works", "needs training", "dead"]

_WORKS, _DEAD = 0.98, 0.2
"""Shares of the accuracy before: from the first on it works, below the second not at all."""
_EPOCHS = ((0.93, 5), (0.8, 20), (0.0, 40))
"""From a share of the accuracy on, so many epochs usually bring it back."""
_HEAD_WORKS, _HEAD_DEAD = 0.04, 0.5
"""The same by the error of the output layers on pictures, as a share of their variance."""
FIGURES = ("AP", "mask_AP", "keypoint_AP", "rotated_AP", "top1")
"""What a network is judged by: the first of these that was measured."""

_ELSE = "; shares that --search 2m looks for may lose less than even ones"

_KEEP = "result.save(folder)"
_MEND = "the same with calib=, a few dozen inputs without labels"
_TRAIN = "train result.model as the full network was, with a lower learning rate"
"""Steps in Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How it stands with a cut network.

    Attributes:
        state: in one word.
        words: a sentence, with the figure that it rests on.
        epochs: of training that it needs, as a guess; 0 for none.
        next: the command to type next, or in Python the step to take.
    """

    state: State
    words: str
    epochs: int
    next: str


def judge(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    repair: RepairRecord | None,
    *,
    head_error: float | None,
    free: bool,
    arbitrary: bool,
    even: bool,
    model: str | None,
    data: str | None,
) -> Verdict:
    """Say what a cut leaves behind.

    Args:
        before: record of the full network, with its accuracy where that was measured.
        after: the same of the cut one.
        repair: what was repaired, if anything was.
        head_error: of the output layers on held-out pictures, see :func:`head_error`.
        free: whether only channels went that were switched off.
        arbitrary: whether they were chosen by scores that hardly differ.
        even: whether every group lost the same share, and others could have been looked for.
        model: the file of the cut network; None where it is in memory only.
        data: the data set that was given, if any.
    """
    data = data or "DATA.yaml"
    key = next((k for k in FIGURES if k in before and k in after), None)
    if key is not None:
        share = after[key] / before[key] if before[key] else 1.0
        figure = f"{key} {after[key]:.3f}, before the cut {before[key]:.3f}"
        state: State = "works" if share >= _WORKS else "dead" if share < _DEAD else "needs training"
        epochs = next(n for least, n in _EPOCHS if share >= least)
        epochs = 100 if state == "dead" else epochs
    elif repair is not None and head_error is not None:
        figure = f"its outputs are off by {head_error:.1%} of their variance on held-out pictures"
        state = (
            "works" if head_error <= _HEAD_WORKS
            else "dead" if head_error >= _HEAD_DEAD else "needs training"
        )  # fmt: skip
        epochs = 100 if state == "dead" else 20 if head_error > 3 * _HEAD_WORKS else 5
    elif free:
        state, epochs, figure = "works", 0, "only channels went that were switched off"
    else:
        state, epochs = "dead", 100
        figure = "live channels went, and nothing was repaired: give pictures with --calib"
    if state == "works":
        words = f"works as it is ({figure})"
        command = f"yoloprune val {model} --data {data}" if key is None else (
            f"yoloprune export {model} --format onnx"
        )  # fmt: skip
        return Verdict(state=state, words=words, epochs=0, next=command if model else _KEEP)
    if key is None and repair is None:
        command = "the same with --calib FOLDER_OF_PICTURES"
    else:
        command = f"yoloprune train {model} --data {data} --epochs {epochs}"
    if arbitrary:
        figure += "; all scores are alike, so that the choice was arbitrary"
    command = command if model else _MEND if key is None and repair is None else _TRAIN
    said = f"needs about {epochs} epochs" if state != "dead" else "is dead until it is trained"
    words = f"{said} ({figure})" + (_ELSE if even else "")
    return Verdict(state=state, words=words, epochs=epochs, next=command)


def head_error(record: RepairRecord, graph: ChannelGraph) -> float | None:
    """Mean error of the layers whose outputs are the network's own, on held-out pictures.

    Returns:
        A share of their variance; None where no such layer was fitted.
    """
    if record.left_out:
        return record.apart[0]
    ends = set()
    for axis in graph.out_axes:
        why = [graph.frozen.get(int(unit), "") for unit in axis.units.ravel()]
        # some of a Darknet head's channels are frozen by what its decoding selects
        if all(why) and any(reason.startswith("output of the model") for reason in why):
            ends.add(axis.module)
    found = [layer.after for layer in record.layers if layer.path in ends]
    found = [error for error in found if math.isfinite(error)]
    return sum(found) / len(found) if found else None
