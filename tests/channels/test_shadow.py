"""What a storage's ids are to its views, and how much memory and bookkeeping they take."""

from __future__ import annotations

import numpy as np
import torch

from yoloprune.channels.shadow import Shadows, compact


def line(n: int) -> np.ndarray:
    """Ids 1 … n along the second of four axes."""
    return np.arange(1, n + 1, dtype=np.int32).reshape(1, -1, 1, 1)


def test_ids_are_held_once_a_channel_until_a_view_asks() -> None:
    shadows, tensor = Shadows(), torch.zeros(1, 4, 8, 8)
    shadows.put(tensor, line(4))
    whole = shadows.get(tensor)
    assert whole is not None and whole.shape == (1, 4, 8, 8)
    assert [n for n, step in zip(whole.shape, whole.strides, strict=True) if step] == [4]
    part = shadows.get(tensor[:, 1:3])
    assert part is not None and part[0, :, 7, 7].tolist() == [2, 3]
    again = shadows.get(tensor)
    assert again is not None and np.array_equal(again, whole)


def test_writing_to_a_part_leaves_the_rest() -> None:
    shadows, tensor = Shadows(), torch.zeros(1, 4, 2, 2)
    shadows.put(tensor, line(4))
    shadows.put(tensor[:, 2:], line(2) + 10)
    found = shadows.get(tensor)
    assert found is not None and found[0, :, 1, 1].tolist() == [1, 2, 11, 12]
    beside = torch.zeros(1, 4, 2, 2)
    shadows.put(beside[:, 2:], line(2))
    found = shadows.get(beside)
    assert found is not None and found[0, :, 0, 0].tolist() == [0, 0, 1, 2]


def test_the_last_id_written_to_shared_memory_is_the_one_read() -> None:
    shadows, tensor = Shadows(), torch.zeros(1, 1, 2, 2).expand(1, 3, 2, 2)
    shadows.put(tensor, line(3))
    found = shadows.get(tensor)
    assert found is not None and np.unique(found).tolist() == [3]


def test_dead_storages_are_forgotten_beside_many_living_ones() -> None:
    """However many parameters live: a sweep of all of them each time would be quadratic."""
    shadows = Shadows()
    living = [torch.zeros(1) for _ in range(3000)]
    for tensor in living:
        shadows.number(tensor)
    sweeps, known = 0, shadows._of
    for _ in range(2000):
        shadows.number(torch.zeros(1))
        sweeps += known is not shadows._of
        known = shadows._of
    assert len(known) < len(living) + 100
    assert sweeps <= 1


def test_what_is_kept_of_an_activation_is_small() -> None:
    whole = np.broadcast_to(line(8), (1, 8, 64, 64))
    for ids in (whole, np.ascontiguousarray(whole)):
        kept = compact(ids)
        assert np.array_equal(kept, whole)
        owner = kept
        while owner.base is not None:
            owner = owner.base
        assert owner.size == 8
