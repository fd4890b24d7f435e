"""The order of the stages: what is tested is what is written, and a failed test writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import yoloprune.prune.slim as pipeline
from yoloprune.errors import CutError, FormatError, MeasureError, PlanError
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import Source, load
from yoloprune.prune.budget import Budget
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.slim import slim

REPO = Path(__file__).parents[2]


def options(out: Path, **changes: Any) -> SlimOptions:
    return SlimOptions(**{"budget": Budget(percent=0.5), "out": out, "repeats": 0, **changes})


def test_a_wrong_cut_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = load("yoloprune-demo.cfg")
    right = pipeline.cut_units

    def wrong(*args: Any, **kwargs: Any) -> Any:
        thin = right(*args, **kwargs)
        conv = thin.model[2].conv
        conv.weight.data = conv.weight.data.roll(1, 0)
        return thin

    monkeypatch.setattr(pipeline, "cut_units", wrong)
    with pytest.raises(CutError, match="self-test: the cut changes the output"):
        slim(model, source, options(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("compensate", [True, False])
def test_what_is_written_is_what_was_made(compensate: bool, tmp_path: Path) -> None:
    model, source = load("yoloprune-demo.cfg")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = slim(model, source, options(tmp_path, compensate=compensate))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    written, _ = load(result.summary["files"]["model"][0])
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(written(image)[0], result.model.eval()(image)[0])
    assert PrunePlan.read(tmp_path / "yoloprune-demo-slim-plan.json") == result.plan
    reached = result.plan.reached.channels / result.plan.reached.prunable_channels
    assert reached == pytest.approx(0.5, abs=0.01)


def test_accuracy_stands_beside_size_where_data_is_given(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", ShapesSpec(images=1, val=12, seed=3))
    model, source = load("yoloprune-demo.cfg")
    how = options(tmp_path / "out", budget=Budget(percent=0.6), data=str(data))
    summary = slim(model, source, how).summary
    assert summary["before"]["AP50"] > 0.6  # trained on such pictures
    # trained sparse for this very cut, which therefore costs next to nothing
    assert summary["after"]["AP50"] == pytest.approx(summary["before"]["AP50"], abs=0.05)
    assert summary["warnings"] == []


def test_other_classes_are_told_before_anything_is_cut(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", ShapesSpec(images=1, val=2, seed=3))
    named = data.read_text()
    assert "names:" in named
    data.write_text(named[: named.index("names:")] + "names: [a, b, c, d]\n")
    model, source = load("yoloprune-demo.cfg")
    with pytest.raises(MeasureError, match="names 4 classes, the model knows 3"):
        slim(model, source, options(tmp_path / "out", data=str(data)))
    assert not (tmp_path / "out").exists()


def test_splitting_routes_is_for_darknet(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8))
    with pytest.raises(FormatError, match="--split-routes: is for Darknet models only"):
        slim(model, Source(tmp_path / "m.pt"), options(tmp_path / "out", split_routes=True))


def test_shares_are_searched_for_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, source = load("yoloprune-demo.cfg", REPO / "weights/yoloprune-demo-dense.weights")
    data = write_shapes(tmp_path / "data", ShapesSpec(images=12, val=2, size=160, seed=3))
    how = options(tmp_path / "out", search=2.0, calib=str(data))
    summary = slim(model, source, how).summary
    found = summary["search"]
    assert found["parts"] + found["trials"] >= 1 and found["seconds"] < 60
    assert found["kept"] == (found["found_unseen"] < found["even_unseen"])
    assert {stage["layers"][0] for stage in found["stages"]} >= {"model.0.conv"}
    assert summary["asked"]["percent"] == how.budget.percent
    assert not (tmp_path / "out/yoloprune-demo-search.json").exists()
    few = options(tmp_path / "few", search=3.0, calib=str(data), calib_images=5)
    fewer = slim(model, source, few).summary
    assert fewer["search"] is None
    even = slim(model, source, options(tmp_path / "even", calib=str(data))).summary
    for known, told in ((summary, False), (fewer, False), (even, True)):
        assert known["verdict"]["state"] != "works"
        assert ("--search 2m" in known["verdict"]["words"]) is told
    assert "--search: left out" in caplog.text and "has 5 pictures" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"calib": None}, "--search: looks at pictures."),
        ({"repair": False}, "--search: compares repaired cuts."),
        ({"criterion": "gamma"}, "--search: looks for shares of stages"),
        ({"scope": "global"}, "--search: looks for shares of stages"),
        ({"scope": "isomorphic"}, "--search: looks for shares of stages"),
        ({"criterion": "fisher"}, "--search: looks for shares of stages"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    flags: dict[str, object], message: str, tmp_path: Path
) -> None:
    model, source = load("yoloprune-demo.cfg")
    data = write_shapes(tmp_path / "data", ShapesSpec(images=9, val=2, size=160, seed=3))
    given = {"search": 3.0, "calib": str(data), **flags}
    with pytest.raises(PlanError, match=message):
        slim(model, source, options(tmp_path / "out", **given))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
