"""How outputs of two runtimes are compared: by place, or as sets of detections."""

from __future__ import annotations

import numpy as np
import pytest

from yoloprune.models.difference import difference


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


def test_detections_in_another_order_are_the_same() -> None:
    found = random(2, 300, 6)
    found[..., 5] = np.floor(80 * found[..., 5])
    shuffled = found[:, np.random.default_rng(1).permutation(300)]
    assert difference([found], [shuffled]) == 0.0
    shuffled[1, 7, 4] += 0.5
    assert difference([found], [shuffled]) > 0.1


@pytest.mark.parametrize("anchors", [84, 2100])
def test_heads_of_small_pictures_are_no_sets(anchors: int) -> None:
    """At 64 px a segmentation head gives [1, 116, 84]: more channels than anchors."""
    raw = random(1, 116, anchors)
    near = raw * (1 + 1e-6 * random(1, 116, anchors))
    assert difference([raw], [near]) < 2e-6
    assert difference([raw], [raw[:, :, ::-1].copy()]) > 0.1


def test_other_shapes_and_numbers_that_are_not_finite_never_agree() -> None:
    assert difference([random(1, 84, 20)], [random(1, 84, 21)]) == np.inf
    broken = random(1, 84, 20)
    broken[0, 5, 5] = np.nan
    assert difference([random(1, 84, 20)], [broken]) == np.inf
