"""Forward passes that stop, start late and are given up."""

from __future__ import annotations

import threading

import pytest
import torch

from yoloprune.prune.lanes import Lane, crews, share_out, split


def test_lanes_run_one_at_a_time_and_stop_where_they_say() -> None:
    said: list[str] = []
    lanes: list[Lane] = []

    def forward(name: str, number: int) -> None:
        for step in range(2):
            said.append(f"{name}{step}")
            lanes[number].stop((name, step))
        said.append(f"{name} ends")

    lanes += [Lane(lambda: forward("a", 0)), Lane(lambda: forward("b", 1))]
    assert not lanes[0].begun
    assert [lanes[0].go(), lanes[1].go()] == [("a", 0), ("b", 0)]
    assert lanes[0].begun and lanes[0].at == ("a", 0)
    assert [lanes[1].go(), lanes[1].go(), lanes[0].go(), lanes[0].go()] == [
        ("b", 1), None, ("a", 1), None
    ]  # fmt: skip
    assert said == ["a0", "b0", "b1", "b ends", "a1", "a ends"]


def test_a_lane_that_fails_raises_where_it_was_told_to_go() -> None:
    lane = Lane(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        lane.go()


def test_a_lane_that_is_given_up_ends_and_lets_go() -> None:
    before = threading.active_count()
    let_go = []

    def forward() -> None:
        try:
            lane.stop(0)
        finally:
            let_go.append(True)

    lane = Lane(forward)
    lane.go()
    assert threading.active_count() == before + 1
    lane.give_up()
    assert let_go == [True] and threading.active_count() == before and lane.at is None
    lane.give_up()


@pytest.mark.parametrize(("count", "share", "held"), [(64, 0.25, 16), (2, 0.25, 1), (5, 0.9, 4)])
def test_pictures_held_out_are_spread_over_all(count: int, share: float, held: int) -> None:
    fitted, out = split(count, share)
    assert sorted(fitted + out) == list(range(count)) and len(out) == held
    assert min(out) < -(-count // held)


@pytest.mark.parametrize(("count", "most"), [(64, 100), (64, 5), (3, 1), (2, 9)])
def test_every_picture_is_in_one_lane(count: int, most: int) -> None:
    pictures = torch.arange(count).view(-1, 1, 1, 1)
    handfuls = share_out(pictures, 0.25, most=most)
    assert sorted(torch.cat([h.images for h in handfuls]).ravel().tolist()) == list(range(count))
    assert [h.index for h in handfuls] == list(range(len(handfuls)))
    assert {h.held_out for h in handfuls[:2]} == {False, True}
    assert max(len(h.images) for h in handfuls) <= min(most, 16)


def test_lanes_start_where_there_is_room_for_what_is_soon_to_come() -> None:
    room = [9] * 3 + [3] + [9] * 12
    found = crews(room, 5)
    assert found[0] == found[3] == (0, 1, 2)
    assert found[4] == found[-1] == (0, 1, 2, 3, 4)


def test_a_lane_that_was_given_up_does_not_come_back() -> None:
    assert crews([4] * 11 + [1] + [6] * 3, 6)[0] == (0, 1, 2, 3)
    found = crews([4] * 11 + [1] + [6] * 3, 6)
    assert found[2] == found[11] == (0, 1)  # two at least
    assert found[12] == (0, 1, 4, 5)
