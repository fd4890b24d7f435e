"""Sensitivity: what is measured, that it is kept, and what shares come of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import Concat, Residual
from torch import Tensor, nn
from typer.testing import CliRunner

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.cli.main import app
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import DataError, PlanError
from yoloprune.measure.size import count
from yoloprune.models.door import save
from yoloprune.prune.apart import Seen
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import within_groups
from yoloprune.prune.cost import Costs
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import score
from yoloprune.prune.selftest import silenced
from yoloprune.prune.sensing import SensitivityOptions, sense
from yoloprune.prune.sensitivity import Measurement, Sensitivity, alone, by_curves, parts

SIDE = 32


class Branches(nn.Module):
    """Three branches of one cost, one of which the output does not hear at all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.loud, self.soft, self.dumb = (nn.Conv2d(8, 16, 3, padding=1) for _ in range(3))
        self.out = nn.ModuleList(nn.Conv2d(16, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        heard = zip((1.0, 0.1, 0.0), (self.loud, self.soft, self.dumb), self.out, strict=True)
        return sum((g * out(torch.relu(m(x))) for g, m, out in heard), torch.zeros(()))


def pictures(n: int = 8) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def options(file: Path, **changes: Any) -> SensitivityOptions:
    made = SensitivityOptions(
        file=file, model="net", pictures=pictures(), imgsz=(SIDE, SIDE), criterion="l2",
        shares=(0.25, 0.5), jobs=1,
    )  # fmt: skip
    return replace(made, **changes)


def test_parts_are_groups_and_what_balances_tie_to_them() -> None:
    graph = trace(Concat().eval())
    assert sorted(len(part.units) for part in parts(graph)) == [3, 5]
    model = Residual().eval()
    found = parts(trace(model))
    assert [part.layers for part in found] == [("a.0", "c.0"), ("b.0",)]
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n" + HALVES
    halves = parts(trace(DarknetModel(parse_cfg(text))))
    assert halves[0].units.size == 16  # both halves of the route are one part


HALVES = (
    "[convolutional]\nbatch_normalize=1\nfilters=16\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
    "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
    "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n"
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)


def test_alone_nothing_else_goes() -> None:
    model = Branches().eval()
    graph = trace(model)
    scores = within_groups(score(model, graph, criterion="l2"), graph)
    loud = next(part for part in parts(graph) if part.name == "loud")
    remove = alone(Planner(graph), loud, scores, 0.5)
    assert np.isin(remove, loud.units).all() and remove.size == 8
    least = np.sort(scores.values[loud.units])[:8]
    np.testing.assert_array_equal(np.sort(scores.values[remove]), least)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Sensitivity]:
    model, file = Branches().eval(), tmp_path_factory.mktemp("sense") / "net.json"
    return model, file, sense(model, options(file))


def test_what_is_measured_is_what_the_silenced_network_sees(
    measured: tuple[nn.Module, Path, Sensitivity],
) -> None:
    model, _, found = measured
    graph = trace(model)
    scores = within_groups(score(model, graph, criterion="l2"), graph)
    costs = Costs(model, graph, count(model, SIDE))
    order = torch.from_numpy(np.random.default_rng(0).permutation(8))
    see = Seen(model, pictures()[order[5:]])
    by_name = {part.name: part for part in parts(graph)}
    assert {(m.part, m.share) for m in found.measured} == {
        (name, share) for name in by_name for share in (0.25, 0.5)
    }
    for m in found.measured:
        remove = alone(Planner(graph), by_name[m.part], scores, m.share)
        assert m.before == pytest.approx(see.apart(silenced(model, graph, remove)), rel=1e-5)
        kept = np.ones(graph.n_units, dtype=bool)
        kept[remove] = False
        assert m.macs == costs.macs(kept) / costs.full.macs
        assert m.after is not None and m.after <= m.before * 1.01 + 1e-9
        assert m.removed == m.share  # 8 and 16 channels divide


def test_without_repair_all_pictures_are_compared_on(tmp_path: Path) -> None:
    model = Branches().eval()
    found = sense(model, options(tmp_path / "f", repair=False, shares=(0.5,)))
    graph = trace(model)
    scores = within_groups(score(model, graph, criterion="l2"), graph)
    see = Seen(model, pictures())
    by_name = {part.name: part for part in parts(graph)}
    for m in found.measured:
        remove = alone(Planner(graph), by_name[m.part], scores, 0.5)
        assert m.after is None
        assert m.before == pytest.approx(see.apart(silenced(model, graph, remove)), rel=1e-5)


def test_locally_only_what_reads_the_cut_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(*given: object) -> nn.Module:
        raise AssertionError("all layers were repaired")

    model, file = Branches().eval(), tmp_path / "f"
    with monkeypatch.context() as patch:
        patch.setattr("yoloprune.prune.trials.Trials.repaired", whole)
        found = sense(model, options(file, shares=(0.5,), local=True))
    assert all(m.after is not None and m.after <= m.before * 1.01 + 1e-9 for m in found.measured)
    with pytest.raises(PlanError, match="holds what was measured of another network"):
        sense(model, options(file, shares=(0.5,)))  # the two are not mixed


def test_the_louder_the_more_is_lost(measured: tuple[nn.Module, Path, Sensitivity]) -> None:
    at_half = {m.part: m for m in measured[2].measured if m.share == 0.5}
    assert at_half["loud"].before > 20 * at_half["soft"].before > 0
    assert at_half["dumb"].before == 0
    assert at_half["loud"].after < 0.9 * at_half["loud"].before  # type: ignore[operator]


def test_shares_by_curves_take_what_is_not_heard(
    measured: tuple[nn.Module, Path, Sensitivity],
) -> None:
    model, _, found = measured
    graph = trace(model)
    scores = within_groups(score(model, graph, criterion="l2"), graph)
    made = by_curves(scores, graph, found)
    remove = Planner(graph).choose(made, Budget(percent=0.4, min_channels=1))
    gone = {part.name: float(np.isin(part.units, remove).mean()) for part in parts(graph)}
    assert gone["dumb"] == 0.875 > gone["soft"] > gone["loud"]  # of 0.9 that may go
    for part in parts(graph):  # within a part, the order stands
        inside = scores.values[part.units]
        went = np.isin(part.units, remove)
        if went.any() and not went.all():
            assert inside[went].max() < inside[~went].min()


def test_curves_rise_and_go_on_beyond_what_was_measured() -> None:
    graph = trace(Branches().eval())
    scores = within_groups(score(Branches().eval(), graph, criterion="l2"), graph)
    lost = {0.25: 0.2, 0.5: 0.1}  # an outlier below the one before
    rows = tuple(
        Measurement(part="loud", share=s, removed=s, macs=1, before=9, after=v, seconds=0)
        for s, v in lost.items()
    )
    found = Sensitivity(model="", identity="", by="sight", full=0, criterion="l2", measured=rows)
    made = by_curves(scores, graph, found)
    loud = next(part for part in parts(graph) if part.name == "loud")
    values = made.values[loud.units][np.argsort(scores.values[loud.units])]
    assert (np.diff(values) > 0).all()
    assert values[3] == pytest.approx(0.2 * (3.5 / 16) / 0.25, rel=1e-6)
    assert np.isnan(np.delete(made.values, loud.units)).all()


def test_what_is_there_is_not_measured_again(
    measured: tuple[nn.Module, Path, Sensitivity], tmp_path: Path
) -> None:
    model, _, found = measured
    file = tmp_path / "net.json"
    marked = [replace(m, seconds=-1.0) for m in found.measured[:5]]
    replace(found, measured=tuple(marked)).write(file)
    again = sense(model, options(file))
    assert sum(m.seconds == -1.0 for m in again.measured) == 5
    assert [replace(m, seconds=0.0) for m in again.measured] == [
        replace(m, seconds=0.0) for m in found.measured
    ]
    assert Sensitivity.read(file) == again


def test_each_result_is_kept_at_once(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    file = tmp_path / "net.json"
    with pytest.raises(KeyboardInterrupt):
        sense(Branches().eval(), options(file, progress=stop))
    assert len(Sensitivity.read(file).measured) == 3


@pytest.mark.slow
def test_several_processes_measure_the_same(
    measured: tuple[nn.Module, Path, Sensitivity], tmp_path: Path
) -> None:
    found = sense(darknet(), options(tmp_path / "one.json"))
    both = sense(darknet(), options(tmp_path / "two.json", jobs=2))
    for a, b in zip(found.measured, both.measured, strict=True):
        assert (a.part, a.share, a.removed) == (b.part, b.share, b.removed)
        assert a.before == pytest.approx(b.before, rel=1e-4)


def test_results_of_another_network_or_pictures_are_left_alone(
    measured: tuple[nn.Module, Path, Sensitivity],
) -> None:
    model, file, found = measured
    with pytest.raises(PlanError, match="holds what was measured of another network, or on other"):
        sense(model, options(file, pictures=pictures(9)))
    assert Sensitivity.read(file) == found


def test_too_few_pictures_or_wrong_shares(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 3 pictures and no data"):
        sense(Branches().eval(), options(tmp_path / "f", pictures=pictures(3)))
    with pytest.raises(PlanError, match="--shares: must be above 0 and below 1, got 1"):
        sense(Branches().eval(), options(tmp_path / "f", shares=(1.0,)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("by"), "is no sensitivity file"),
        (lambda d: d["measured"][0].update(extra=1), "is no sensitivity file"),
        (lambda d: d.update(version=7), "version 7 or by"),
        (lambda d: d["measured"][0].update(before="x"), r"measured\[0\].before: got 'x'"),
        (lambda d: d["measured"][0].update(removed=2), r"measured\[0\].removed: got 2"),
        (lambda d: d["measured"][1].update(macs=-5), r"measured\[1\].macs: got -5"),
        (lambda d: d["measured"][0].pop("part"), r"measured\[0\].part: is missing"),
        (lambda d: d.update(measured=[]), "holds no part"),
        (lambda d: d.update(measured=3), "is no sensitivity file"),
    ],
)
def test_a_damaged_file_is_refused(
    edit: Any, message: str, measured: tuple[nn.Module, Path, Sensitivity], tmp_path: Path
) -> None:
    data = json.loads(measured[1].read_text())
    edit(data)
    (tmp_path / "f.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=message) as caught:
        Sensitivity.read(tmp_path / "f.json")
    assert "\n" not in str(caught.value)


def test_curves_of_another_network_are_refused(
    measured: tuple[nn.Module, Path, Sensitivity],
) -> None:
    model = Residual().eval()
    graph: ChannelGraph = trace(model)
    with pytest.raises(PlanError, match="is of another network: it has no dumb that can be pruned"):
        by_curves(score(model, graph, criterion="l2"), graph, measured[2])


def darknet() -> DarknetModel:
    torch.manual_seed(0)
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n" + HALVES
    return DarknetModel(parse_cfg(text)).eval()


def test_the_commands(tmp_path: Path) -> None:
    import cv2

    save(darknet(), tmp_path / "net.cfg")
    random = np.random.default_rng(0)
    for i in range(8):
        cv2.imwrite(str(tmp_path / f"{i}.png"), random.integers(0, 255, (32, 32, 3), np.uint8))
    net, out = str(tmp_path / "net.cfg"), tmp_path / "out"
    calib = ["--calib", str(tmp_path), "--criterion", "l2"]
    done = CliRunner().invoke(
        app, ["sensitivity", net, *calib, "--jobs", "1", "--shares", "0.5", "-o", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert (out / "net-sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert f"next: yoloprune slim {net} --macs 0.5 --sensitivity {out}" in done.output
    file = out / "net-sensitivity.json"
    quick = ["sensitivity", net, *calib, "--jobs", "1", "--quick", "-o", str(tmp_path / "quick")]
    assert CliRunner().invoke(app, quick).exit_code == 0
    full, fast = (Sensitivity.read(f) for f in (file, tmp_path / "quick/net-sensitivity.json"))
    assert {row.share for row in fast.measured} == {0.5}
    assert all(row.after is None and row.before > 0 for row in fast.measured)
    assert all(row.after is not None for row in full.measured)
    typed = [*quick[:-1], str(tmp_path / "typed"), "--shares", "0.25,0.5,0.75"]  # the default
    assert CliRunner().invoke(app, typed).exit_code == 0
    asked = Sensitivity.read(tmp_path / "typed/net-sensitivity.json").measured
    assert {row.share for row in asked} == {0.25, 0.5, 0.75}
    assert all(row.after is None for row in asked)
    cut = ["slim", net, *calib, "--macs", "0.6", "--round-to", "1", "--min-channels", "2"]
    cut += ["--sensitivity", str(file), "-o", str(tmp_path / "slim")]
    done = CliRunner().invoke(app, cut)
    assert done.exit_code == 0, done.output
    told = "shares that lose least for what they cost, as net-sensitivity.json measured"
    assert told in " ".join(done.output.split())
    done = CliRunner().invoke(app, [*cut, "--search", "9s", "--overwrite"])
    assert done.exit_code == 1
    assert "--sensitivity: sets the shares of all parts. Leave --search" in done.output
