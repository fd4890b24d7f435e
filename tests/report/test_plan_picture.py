"""The picture of a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from yoloprune.prune.cost import Cost
from yoloprune.prune.outline import Line, Outline
from yoloprune.report.plan import write_plan_picture

COST = Cost(macs=1000, params=10, bytes={"fp32": 40, "fp16": 20, "int8": 10})
LINE = Line(
    layer="a [b] $x$ \x1b.conv", type="Conv2d", before=16, after=8, macs_before=700, macs_after=300,
    frozen=4, why={"output of the model": 4},
)  # fmt: skip


def outline(*lines: Line) -> Outline:
    return Outline(lines=lines, before=COST, after=COST, elsewhere=(0, 0), limits=())


def size(path: Path, found: Outline) -> tuple[int, int]:
    assert write_plan_picture(path, found, r"$\frac{ [red] net.cfg") == path
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_row_a_layer_and_a_panel_a_quantity(tmp_path: Path) -> None:
    few = size(tmp_path / "few.png", outline(LINE, LINE))
    many = size(tmp_path / "many.png", outline(*[LINE] * 12))
    assert many[1] - few[1] == pytest.approx(10 * 0.19 * 110, abs=2)
    timed = size(tmp_path / "t.png", outline(replace(LINE, ms_before=2.0, ms_after=1.0), LINE))
    assert timed[0] - few[0] == pytest.approx(2.4 * 110, abs=2)


def test_kept_frozen_and_removed_take_their_share(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    size(path, outline(replace(LINE, layer="a")))
    with Image.open(path) as image:
        rgb = image.convert("RGB")
        left = rgb.crop((0, 70, rgb.width // 2, rgb.height))
        seen = {colour: n for n, colour in left.getcolors(1 << 24)}
    kept, frozen, gone = (seen.get(c, 0) for c in ((0, 114, 178), (127, 140, 151), (230, 159, 0)))
    assert kept == pytest.approx(frozen, rel=0.05) and gone == pytest.approx(2 * kept, rel=0.05)
