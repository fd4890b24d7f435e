"""Recipes: what is accepted, and that what is wrong is named with its line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from yoloprune.errors import RecipeError
from yoloprune.prune.budget import Budget
from yoloprune.rounds.cuts import SlimSection
from yoloprune.rounds.recipe import parse_recipe, read_recipe

WHOLE = """\
model: net.cfg
data: data.yaml
imgsz: 160
settings: {lr0: 0.001}
train:
  epochs: 30
sparsify:
  epochs: 10
  until: 0.5
slim:
  percent: 0.3
  step: 0.2
  min_channels: 4
finetune:
  epochs: 20
  teacher: dense
stop:
  rounds: 3
  max_ap_drop: 0.02
  target_macs: 0.4
"""


def test_a_whole_recipe_is_read(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").touch()
    recipe = parse_recipe(WHOLE, tmp_path / "r.yaml")
    assert recipe.model == "net.cfg"  # not there, so left as it is
    assert recipe.data == str(tmp_path / "data.yaml")  # beside the recipe
    assert [recipe.percent(n) for n in (1, 2, 3)] == pytest.approx([0.3, 0.5, 0.7])
    assert recipe.slim.budget(0.3, {}, "fp32") == Budget(percent=0.3, min_channels=4, round_to=8)
    assert recipe.sparsify is not None
    assert recipe.sparsify.options(Budget(percent=0.3)).until == 0.5
    teacher = recipe.teacher(Path("dense.pt"))
    assert teacher is not None and teacher.teacher == "dense.pt" and teacher.mode == "output"


def test_the_least_recipe_has_one_round_without_training() -> None:
    recipe = parse_recipe("model: a.pt\ndata: b.yaml\nslim: {percent: 0.5}\n", Path("r.yaml"))
    assert recipe.stop.rounds == 1
    assert recipe.slim.seconds == 180
    assert recipe.train is recipe.sparsify is recipe.finetune is None
    assert recipe.teacher(Path("dense.pt")) is None


def test_limits_fall_by_the_same_factor_each_round() -> None:
    slim = "{macs: 1.25e8, params: 50%, bytes: 1MB}"
    recipe = parse_recipe(
        f"model: a.pt\ndata: b.yaml\nslim: {slim}\nstop: {{rounds: 3}}\n", Path("r.yaml")
    )
    dense = {"macs": 10**9, "params": 10**6, "bytes": 2 * 10**6}
    found = [recipe.limits(n, dense) for n in (1, 2, 3)]
    assert [f["macs"] for f in found] == pytest.approx([5e8, 2.5e8, 1.25e8])
    assert [f["params"] for f in found] == pytest.approx([1e6 * 0.5 ** (n / 3) for n in (1, 2, 3)])
    assert found[2]["bytes"] == pytest.approx(1e6)
    assert recipe.percent(3) is None
    budget = recipe.slim.budget(None, found[0], recipe.precision)
    assert budget.macs == pytest.approx(5e8)
    assert budget.precision == "fp16"  # as a .pt is kept


def test_latency_falls_by_the_same_factor_each_round() -> None:
    slim = "{latency: 2ms, runtime: torch, threads: 1}"
    recipe = parse_recipe(
        f"model: a.pt\ndata: b.yaml\nslim: {slim}\nstop: {{rounds: 2}}\n", Path("r.yaml")
    )
    found = [recipe.limits(n, {"latency": 8000.0})["latency"] for n in (1, 2)]
    assert found == pytest.approx([4000, 2000])  # microseconds
    assert recipe.slim.budget(None, {"latency": found[0]}, "fp32").latency == pytest.approx(4000)
    assert recipe.slim.searches


def test_ratios_come_to_what_is_asked_after_the_last_round() -> None:
    slim = "{ratios: {backbone: 0.271, 12: {max: 0.19, keep: 8}}}"
    recipe = parse_recipe(
        f"model: a.pt\ndata: b.yaml\nslim: {slim}\nstop: {{rounds: 2}}\n", Path("r.yaml")
    )
    backbone, twelve = recipe.slim.budget(None, {}, "fp32", 3).ratios
    assert backbone.share == pytest.approx(0.1)  # 0.9 ** 3 = 1 - 0.271
    twelve = recipe.slim.budget(None, {}, "fp32", 2).ratios[1]
    assert (twelve.pattern, twelve.max, twelve.keep) == ("12", pytest.approx(0.1), 8)
    assert not recipe.slim.seconds  # there is nothing to search for


@pytest.mark.parametrize(
    ("slim", "message"),
    [
        ("{ratios: {a: 0.1, b: 2}}", "slim.ratios: rules: b: got 2, expected a share"),
        ("{ratios: {a: 0}}", "slim: budget: takes nothing: --ratios sets bounds only"),
        ("{ratios: [1]}", r"slim.ratios: got \[1\], expected a valid dictionary"),
        ("{}", "slim: budget: is empty"),
        ("{macs: 0.5, step: 0.1}", "slim: step: is added to percent"),
        ("{macs: 2MB}", "slim.macs: is neither a share nor an amount, got '2MB'"),
        ("{macs: 0.5, precision: fp16}", "slim: precision: is what bytes are counted in"),
        ("{latency: fast}", "slim.latency: is neither a share nor a time, got 'fast'"),
        ("{macs: 0.5, runtime: torch}", "slim: runtime, threads: say what latency is"),
        ("{latency: 0.5, runtime: abacus}", "slim.runtime: got 'abacus'"),
    ],
)
def test_limits_that_cannot_be(slim: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(f"model: a.pt\ndata: b.yaml\nslim: {slim}\n", Path("r.yaml"))


def of_slim(slim: str) -> SlimSection:
    text = f"model: a.pt\ndata: b.yaml\nslim: {{percent: 0.3, {slim}}}\n"
    return parse_recipe(text, Path("r.yaml")).slim


@pytest.mark.parametrize(
    ("slim", "round_to"),
    [
        ("min_channels: 8", 8),
        ("target: qualcomm-htp", 32),
        ("target: k210", 8),
        ("target: qualcomm-htp, round_to: 16", 16),
    ],
)
def test_a_target_sets_the_rounding(slim: str, round_to: int) -> None:
    assert of_slim(slim).budget(0.3, {}, "fp32").round_to == round_to


def test_a_target_must_be_known() -> None:
    with pytest.raises(
        RecipeError, match=r"r.yaml:3: slim.target: .*got 'toaster', expected one of"
    ):
        of_slim("target: toaster")


@pytest.mark.parametrize(
    ("slim", "seconds"),
    [
        ("scope: local", 180),
        ("criterion: recon", 180),
        ("criterion: fisher, scope: local", 180),
        ("criterion: fisher", 0),
        ("scope: isomorphic", 0),
        ("scope: global, search: 0", 0),
    ],
)
def test_shares_are_searched_for_where_nothing_else_sets_them(slim: str, seconds: float) -> None:
    assert of_slim(slim).seconds == seconds


@pytest.mark.parametrize(
    ("slim", "message"),
    [
        ("criterion: best", "slim.criterion: got 'best', expected one of gamma, l1, .*, recon.$"),
        ("criterion: 'evil_7:f'", "slim.criterion: got 'evil_7:f'.*on the command line only.$"),
        ("scope: wide", "slim.scope: got 'wide', expected 'global', 'local' or 'isomorphic'"),
        ("criterion: fisher, search: 1m", "slim: search: looks for shares of stages. Give scope"),
        ("criterion: recon, scope: global", "slim: scope: recon compares channels within"),
    ],
)
def test_criteria_that_cannot_be(
    slim: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_7.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError, match=message):
        of_slim(slim)


@pytest.mark.parametrize("slim", ["criterion: lamp", "scope: local"])
def test_what_sparsify_chose_is_not_chosen_again(slim: str) -> None:
    whole = WHOLE.replace("  percent: 0.3", f"  percent: 0.3\n  {slim}")
    with pytest.raises(RecipeError, match="what goes is what sparsify brought to zero"):
        parse_recipe(whole, Path("r.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("imgsz: 160", "imgsize: 160", "r.yaml:3: imgsize: is unknown, expected one of model, "),
        ("  until: 0.5", "  util: 0.5", "r.yaml:9: sparsify.util: is unknown, expected one of"),
        ("  epochs: 10", "  epochs: ten", "r.yaml:8: sparsify.epochs: got 'ten', expected a valid"),
        ("  epochs: 10", "  epochs: 0", "r.yaml:8: sparsify.epochs: got 0, expected greater than"),
        ("  epochs: 10\n", "", "r.yaml:7: sparsify.epochs: is missing."),
        ("  percent: 0.3", "  percent: 1.3", "r.yaml:10: slim: --percent: must be above 0 and"),
        ("  until: 0.5", "  until: 1.5", "r.yaml:7: sparsify: --until: must be above 0 and at"),
        ("  until: 0.5", "  method: l1", "r.yaml:7: sparsify: --sparsity l1: needs --strength"),
        ("  until: 0.5", "  method: x", "r.yaml:9: sparsify.method: got 'x', expected 'auto', 'l1"),
        ("  until: 0.5", "  criterion: l2", "r.yaml:9: sparsify.criterion: got 'l2', expected"),
        (
            "  step: 0.2",
            "  step: 0.2\n  search: soon",
            "r.yaml:13: slim.search: is no time, got 'soon'",
        ),
        ("  step: 0.2\n", "", "r.yaml:1: slim.step: must be above 0 for 3 rounds, got 0."),
        ("  step: 0.2", "  step: 0.4", "r.yaml:1: slim: round 3 would remove 110% of all."),
        ("  rounds: 3", "  rounds: many", "r.yaml:18: stop.rounds: got 'many', expected a valid"),
        ("slim:", "slim: 3\nx:", "r.yaml:10: slim: got 3, expected a valid dictionary or"),
        ("data: data.yaml\n", "", "r.yaml:1: data: is missing."),
        ("imgsz: 160", "data: other.yaml", "r.yaml:3: data: stands twice, first in line 2."),
        ("imgsz: 160", "imgsz: [160", "r.yaml:4: is no YAML"),
        ("imgsz: 160", "[1, 2]: 3", "r.yaml:3: a key must be a word."),
        ("imgsz: 160", "seed: 2020-13-45", "r.yaml:3: is no YAML ('2020-13-45' is no timestamp)."),
        ("imgsz: 160", "seed: &a {x: *a}", "r.yaml"),
        ("lr0: 0.001", "epochs: 3", "r.yaml:4: settings: epochs: is not for --set. Use --"),
        (
            "lr0: 0.001",
            "lr: 3",
            "r.yaml:4: settings: lr: is no setting of Ultralytics. Did",
        ),
        ("lr0: 0.001", "optimizer: Foo", "r.yaml:4: settings: optimizer=Foo: unknown, expected"),
        ("lr0: 0.001", "lr0: -x", "r.yaml:4: settings: lr0=-x: "),
        ("lr0: 0.001", "lr0: 2020-01-01", "r.yaml:4: settings: values must be numbers, texts"),
        (
            "  epochs: 20",
            "  epochs: 20\n  weight: .inf",
            "r.yaml:16: finetune.weight: got inf",
        ),
        ("teacher: dense", "teacher: none.pt", "r.yaml:16: finetune.teacher: no such file, got 'n"),
        ("sparsify:\n  epochs: 10\n  until: 0.5\n", "sparsify:\n", "r.yaml:7: sparsify: is empty."),
        ("train:\n  epochs: 30\n", "scratch: true\n", "r.yaml:1: model: net.cfg starts from ran"),
        ("imgsz: 160", "imgsz: !!python/object:os.system {}", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert old in WHOLE
    with pytest.raises(RecipeError) as caught:
        parse_recipe(WHOLE.replace(old, new), Path("r.yaml"))
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_recipe_at_all(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none.yaml: no such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\x00\xff")
    with pytest.raises(RecipeError, match="is not text in UTF-8"):
        read_recipe(tmp_path / "binary.yaml")
    for text in ("", "- 1\n", "words"):
        with pytest.raises(RecipeError, match=r"r.yaml: got .*expected a recipe"):
            parse_recipe(text, Path("r.yaml"))


def test_aliases_that_stand_for_millions_are_refused_at_once() -> None:
    rows = ["x0: &x0 [a, a, a, a, a, a, a, a, a, a]"]
    rows += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 12)]
    text = "\n".join([*rows, "model: *x11", "data: d.yaml", "slim: {percent: 0.5}", ""])
    started = time.monotonic()
    with pytest.raises(RecipeError, match=r"^r.yaml:\d+: stands for more than 1000000 values"):
        parse_recipe(text, Path("r.yaml"))
    assert time.monotonic() - started < 1


def test_what_is_no_regular_file_is_not_read() -> None:
    with pytest.raises(RecipeError, match=r"is no regular file"):
        read_recipe(Path(os.devnull))
