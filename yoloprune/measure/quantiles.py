"""The quantiles by which scales and scores are shown everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_QUANTILES = {
    "min": 0.0,
    "p05": 0.05,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "max": 1.0,
}


def quantiles(values: FloatArray) -> dict[str, float]:
    """``min, p05, p25, p50, p75, p95, max`` of a non-empty float64 ``[n]``."""
    found = np.quantile(values, list(_QUANTILES.values()))
    return dict(zip(_QUANTILES, map(float, found), strict=True))
