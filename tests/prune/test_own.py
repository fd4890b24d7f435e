"""Criteria of the user's own."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from nets import Residual
from typer.testing import CliRunner

from tests.nets import CONV
from yoloprune.channels import trace
from yoloprune.cli.main import app
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import PlanError
from yoloprune.models.door import save
from yoloprune.prune import own
from yoloprune.prune.choose import check_criterion
from yoloprune.prune.own import score_by

MODULE = """
import numpy as np

def backwards(model, graph, reduce):
    return -np.arange(graph.n_units, dtype=float)

def spoils(model, graph, reduce):
    import torch
    for values in model.parameters():
        values.data.zero_()
    return torch.arange(graph.n_units, dtype=torch.float32).requires_grad_()

def short(model, graph, reduce):
    return np.zeros(2)

def nothing(model, graph, reduce):
    return np.full(graph.n_units, np.nan)

def broken(model, graph, reduce):
    raise RuntimeError("no such luck\\nsecond line")

number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_criteria_7.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_of_a_module_in_the_current_folder() -> None:
    model = Residual().eval()
    graph = trace(model)
    found = score_by(model, graph, "my_criteria_7:backwards", "max")
    np.testing.assert_array_equal(found.values, -np.arange(graph.n_units))
    assert (found.criterion, found.reduce) == ("my_criteria_7:backwards", "max")


def test_a_function_gets_a_copy_and_may_give_a_tensor() -> None:
    model = Residual().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model)
    found = score_by(model, graph, "my_criteria_7:spoils")
    np.testing.assert_array_equal(found.values, np.arange(graph.n_units))
    assert all(bool((value == before[name]).all()) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_criteria_7:short", r"gave shape \(2,\), expected \(18,\): one number a unit"),
        ("my_criteria_7:nothing", "gave 0 finite numbers for 18 units"),
        ("my_criteria_7:broken", "failed: RuntimeError: no such luck$"),
        ("my_criteria_7:number", "is no function, got int"),
        ("my_criteria_7:missing", "cannot be imported: AttributeError"),
        ("no_such_module_7:f", "cannot be imported: ModuleNotFoundError"),
        ("best", "unknown, got 'best', expected gamma, .*, recon, or one of your own as module:"),
    ],
)
def test_what_cannot_be_is_one_line(name: str, message: str) -> None:
    model = Residual().eval()
    with pytest.raises(PlanError, match=message) as caught:
        score_by(model, trace(model), name)
    assert "\n" not in str(caught.value)


def test_an_entry_point_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="mine", value="my_criteria_7:backwards", group=own.GROUP)

    def points(group: str) -> EntryPoints:
        assert group == "yoloprune.criteria"
        return EntryPoints([point])

    monkeypatch.setattr(own, "entry_points", points)
    check_criterion("mine", None, pictures=False)
    model = Residual().eval()
    assert score_by(model, trace(model), "mine").criterion == "mine"
    with pytest.raises(PlanError, match="expected gamma, .*, recon, mine, or one"):
        check_criterion("other", None, pictures=False)


def test_the_command_cuts_by_it(here: Path) -> None:
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n" + CONV.format(16)
    text += "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    text += "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
    save(DarknetModel(parse_cfg(text)), here / "net.cfg")
    cut = ["slim", "net.cfg", "--criterion", "my_criteria_7:backwards", "-o", "out"]
    done = CliRunner().invoke(app, [*cut, "--percent", "0.5"])
    assert done.exit_code == 0, done.output
    plan = (here / "out/net-slim-plan.json").read_text()
    assert "[8, 9, 10, 11, 12, 13, 14, 15]" in plan
