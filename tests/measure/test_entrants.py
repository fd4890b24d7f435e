"""Names of networks that take part in a bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from yoloprune.errors import MeasureError
from yoloprune.measure.entrants import distinct


def test_names_are_as_long_as_they_must() -> None:
    assert distinct([Path("a/x.pt"), Path("a/y.pt")]) == ["x", "y"]
    assert distinct([Path("a/b/x.pt"), Path("c/b/x.pt")]) == ["a/b/x", "c/b/x"]
    with pytest.raises(MeasureError, match="stands twice"):
        distinct([Path("a/x.pt"), Path("a/../a/x.pt")])
