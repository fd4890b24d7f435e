"""The union-find over channel ids: its classes, and what a new layer or a join touches."""

from __future__ import annotations

import numpy as np
import pytest

from yoloprune.channels.ids import NONE, Ids


def classes(ids: Ids) -> set[frozenset[int]]:
    """The classes as sets of ids."""
    roots = ids.find(np.arange(ids.count, dtype=np.int32))
    return {frozenset(np.flatnonzero(roots == root).tolist()) for root in set(roots.tolist())}


def merged(n: int, pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    """The classes by repeated union of sets."""
    found = [{i} for i in range(n)]
    for a, b in pairs:
        if NONE not in (a, b):
            whole = found[a] | found[b]
            for i in whole:
                found[i] = whole
    return {frozenset(one) for one in found}


@pytest.mark.parametrize("seed", range(20))
def test_joins_give_the_classes_of_plain_sets(seed: int) -> None:
    random = np.random.default_rng(seed)
    ids, pairs = Ids(), []
    ids.fresh(60)
    for size in (1, 7, 20):
        a, b = random.integers(0, ids.count, (2, size)).astype(np.int32)
        ids.unify(a, b)
        pairs += list(zip(a.tolist(), b.tolist(), strict=True))
        ids.fresh(5)
    assert classes(ids) == merged(ids.count, pairs)


def test_many_layers_copy_the_ids_a_few_times_only() -> None:
    """What a layer begins or joins must not cost what all layers before it have."""
    ids = Ids()
    arrays = []
    line = ids.fresh(8)
    for _ in range(5000):
        new = ids.fresh(8)
        ids.unify(line, new)
        line = new
        if not arrays or arrays[-1] is not ids.parent:
            arrays.append(ids.parent)
    assert ids.count == 40009
    assert len(arrays) < 20
    assert len(classes(ids)) == 9


def test_a_long_way_to_the_root_is_walked_once() -> None:
    """Joined from the last pair to the first, every id hangs below the one before it."""
    ids = Ids()
    n = ids.fresh(4096).size
    for last in range(n, 1, -1):
        ids.unify(np.array([last - 1], dtype=np.int32), np.array([last], dtype=np.int32))
    steps = 0
    while ids.parent[ids.parent[n]] != ids.parent[n]:
        ids.find(np.array([n], dtype=np.int32))
        steps += 1
    assert steps <= 12
    assert len(classes(ids)) == 2
