"""How far the outputs of two runtimes are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TOLERANCE = 1e-3
# ONNX Runtime's sigmoid is right to about 1e-8, which is much of a score of 1e-5 and no matter
_LEAST_SCALE = 0.01


def difference(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest relative difference of two models' outputs.

    Boxes (the first four channels) are compared on their own scale, everything else on its
    own, but at least 0.01. Lists of best detections, ``[B, N, 6 …]``, are compared as sets, for
    equal scores may come in any order. Class maps are integers: the share of pixels that differ.

    Args:
        expected: arrays of the one, in order.
        found: arrays of the other.

    Returns:
        A ratio; infinite where the shapes differ or a number is not finite.
    """
    if [a.shape for a in expected] != [b.shape for b in found]:
        return float("inf")
    return max(_one_difference(a, b) for a, b in zip(expected, found, strict=True))


def _one_difference(a: Array, b: Array) -> float:
    if np.issubdtype(a.dtype, np.integer):
        return float((a != b).mean())
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    if a.ndim != 3:
        return _relative(a, b, _LEAST_SCALE)
    if _are_detections(a):
        return max(_set_difference(one, other) for one, other in zip(a, b, strict=True))
    return max(_relative(a[:, :4], b[:, :4], 0.0), _relative(a[:, 4:], b[:, 4:], _LEAST_SCALE))


def _are_detections(a: Array) -> bool:
    """Whether ``[B, N, 6 …]`` is a list of detections: its classes, in column 5, are whole numbers.

    A head's raw output has its shape, too, where the picture is small: more channels than anchors.
    """
    return 6 <= a.shape[2] < a.shape[1] and bool((a[..., 5] == np.round(a[..., 5])).all())


def _relative(a: Array, b: Array, least: float) -> float:
    if a.size == 0:
        return 0.0
    scale = max(float(np.abs(a).max()), least)
    return float(np.abs(a - b).max()) / scale if scale else float(np.abs(b).max())


def _set_difference(a: Array, b: Array) -> float:
    """Two lists of detections ``[N, 6 …]``: box, score, class; each finds its like."""
    scale = np.maximum(np.abs(a).max(axis=0), 1e-12)
    scale[:4] = scale[:4].max()
    scale[4] = max(scale[4], _LEAST_SCALE)
    scores = _relative(np.sort(a[:, 4]), np.sort(b[:, 4]), _LEAST_SCALE)
    apart = np.abs(a[:, None] - b[None]) / scale
    apart[..., 5] = a[:, None, 5] != b[None, :, 5]
    nearest = apart.max(axis=2).min(axis=1)
    # what ties with the last one of a list may be missing from the other
    counted = a[:, 4] > a[:, 4].min() + TOLERANCE * scale[4]
    return max(scores, float(nearest[counted].max(initial=0.0)))
