"""Rules for layers: what a file may say, and what each mistake in it is told as."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoloprune.errors import PlanError
from yoloprune.prune.budget import Budget
from yoloprune.prune.plan import PrunePlan, Reached
from yoloprune.prune.ratios import Rule, parse_ratios, read_ratios, to_mapping


def read(text: str, folder: Path) -> tuple[Rule, ...]:
    path = folder / "r.yaml"
    path.write_text(text)
    return read_ratios(path)


def test_a_file_of_every_kind_of_rule(tmp_path: Path) -> None:
    rules = read(
        "backbone.*: 0.3\nmodel.4.*: {min: 0.1, max: 0.5}\n12: 0\nx: {keep: 64}\ny: {max: 1}\n",
        tmp_path,
    )
    assert rules == (
        Rule(pattern="backbone.*", share=0.3),
        Rule(pattern="model.4.*", min=0.1, max=0.5),
        Rule(pattern="12", share=0.0),
        Rule(pattern="x", keep=64),
        Rule(pattern="y", max=1.0),
    )
    assert [rule.takes for rule in rules] == [True, True, False, False, False]
    assert [rule.caps for rule in rules] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: got None, expected a mapping such as"),
        ("- a: 0.3\n", "r.yaml: got [{'a': 0.3}], expected a mapping"),
        ("{}\n", "r.yaml: has no rule"),
        ("a: 0.3\nb: 0.2\na: 0.1\n", "r.yaml:3: a: stands twice, first in line 1"),
        ("12: 0.3\n'12': 0.2\n", "r.yaml:2: 12: stands twice, first in line 1"),
        ("\na: 1.0\n", "r.yaml:2: a: got 1.0, expected a share from 0 to below 1"),
        ("a: -0.1\n", "r.yaml:1: a: got -0.1, expected a share"),
        ("a: .nan\n", "r.yaml:1: a: got nan, expected a share"),
        ("a: true\n", "r.yaml:1: a: got True, expected a share"),
        ("a: 30%\n", "r.yaml:1: a: got '30%', expected a share"),
        ("a: [0.1, 0.2]\n", "r.yaml:1: a: got [0.1, 0.2], expected a share"),
        ("a:\n", "r.yaml:1: a: got None, expected a share"),
        ("a: {}\n", "r.yaml:1: a: is an empty mapping"),
        ("a: {least: 0.1}\n", "r.yaml:1: a.least: is unknown, expected one of min, max, keep"),
        ("a: {min: 1}\n", "r.yaml:1: a.min: got 1, expected a share from 0 to below 1"),
        ("a: {max: 1.5}\n", "r.yaml:1: a.max: got 1.5, expected a share from 0 to 1"),
        ("a: {min: 0.6, max: 0.5}\n", "r.yaml:1: a: min is above max, got 0.6 and 0.5"),
        ("a: {keep: 0}\n", "r.yaml:1: a.keep: got 0, expected a whole number, at least 1"),
        ("a: {keep: 8.5}\n", "r.yaml:1: a.keep: got 8.5, expected a whole number"),
        ("a: {min: {x: 1}}\n", "r.yaml:1: a.min: got {'x': 1}, expected a share"),
        ("0.5: 0.3\n", "r.yaml:1: got 0.5, expected a layer's name or a glob"),
        ("? [a]\n: 0.3\n", "r.yaml:1: a key must be a word"),
        ("a: !!python/object/apply:os.system [x]\n", "r.yaml:1: is no YAML"),
        ("a: {0.3\n", "is no YAML"),
    ],
)
def test_each_mistake_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=re.escape(message)) as caught:
        read(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none\.yaml: no such file"):
        read_ratios(tmp_path / "none.yaml")


SHARES = st.floats(0, 1, exclude_max=True)
VALUES = SHARES | st.fixed_dictionaries(
    {}, optional={"max": st.floats(0.5, 1), "keep": st.integers(1, 999), "min": st.floats(0, 0.5)}
).filter(bool)
MAPPINGS = st.dictionaries(st.text("ab.*[]?12", min_size=1), VALUES, min_size=1)


@given(MAPPINGS, st.integers(1, 5))
def test_rules_survive_a_plan_file(mapping: dict[str, object], rounds: int) -> None:
    rules = parse_ratios(mapping, "here")
    assert parse_ratios(to_mapping(rules), "there") == rules
    plan = PrunePlan(
        criterion="gamma",
        budget=Budget(percent=0.5, ratios=rules),
        reached=Reached(percent=0, channels=0, prunable_channels=1, units=0, threshold=0),
        layers={},
    )
    assert PrunePlan.from_json(plan.to_json()) == plan
    for rule in rules:  # what stays after so many equal cuts is what one would leave
        each = rule.in_rounds(rounds)
        for name in ("share", "min", "max"):
            once, often = getattr(rule, name), getattr(each, name)
            if once is not None:
                assert (1 - often) ** rounds == pytest.approx(1 - once, abs=1e-9)


def test_a_plan_without_rules_is_as_it_was() -> None:
    budget = Budget(percent=0.5)
    assert "ratios" not in budget.to_dict()
    plan = PrunePlan(
        criterion="gamma",
        budget=Budget(percent=0.5, ratios=(Rule(pattern="a", share=0.25),)),
        reached=Reached(percent=0, channels=0, prunable_channels=1, units=0, threshold=0),
        layers={},
    )
    damaged = plan.to_json().replace('"a": 0.25', '"a": 2')
    with pytest.raises(PlanError, match=r"budget\.ratios: a: got 2, expected a share"):
        PrunePlan.from_json(damaged)


def test_a_budget_of_bounds_alone_takes_nothing() -> None:
    bounds = (Rule(pattern="a", max=0.5), Rule(pattern="b", share=0.0))
    with pytest.raises(PlanError, match="takes nothing: --ratios sets bounds only"):
        Budget(ratios=bounds)
    assert Budget(ratios=(*bounds, Rule(pattern="c", min=0.1))).asked == "ratios of 3 rules"
