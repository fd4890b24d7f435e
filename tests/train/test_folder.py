"""A run's folder: whose results are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from yoloprune.errors import TrainError
from yoloprune.train.folder import FILE, HANDED, forget, refuse_results


def test_what_a_killed_run_left_is_forgotten_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / HANDED).mkdir()
    handed = (f"{HANDED}/data.yaml", f"{HANDED}/train.txt")
    for name in (FILE, "args.yaml", "results.csv", "weights/last.pt", *handed):
        (tmp_path / name).write_text("{}")
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(TrainError, match="holds a run already|is damaged"):
        refuse_results(tmp_path)
    forget(tmp_path)
    refuse_results(tmp_path)  # else --overwrite of a recipe would be refused by its own stage
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert not (tmp_path / HANDED).exists()
