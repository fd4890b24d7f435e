"""``yoloprune.Sparsity`` in loops of users' own: exact zeros, free cuts, restarts, errors."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from nets import Residual, conv
from torch import Tensor, nn

import yoloprune as yp
from yoloprune.train.sparsity import sparsity_of

EXAMPLE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
STEPS = 20


class Mixed(nn.Module):
    """A residual between convs; read by a normed conv, a bare one, and a linear layer."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 24), conv(24, 32), conv(32, 24)
        line = nn.Linear(24, 8)
        self.next: nn.Module = {
            "normed": lambda: conv(24, 8),
            "bare": lambda: nn.Conv2d(24, 8, 3, padding=1),
            "linear": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), line),
        }[last]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.next(x + self.c(self.b(x)))


def net(last: str = "bare") -> nn.Module:
    torch.manual_seed(0)
    return Mixed(last)


def batch(step: int) -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def train(
    model: nn.Module,
    sparsity: yp.Sparsity,
    how: torch.optim.Optimizer | None = None,
    steps: range = range(STEPS),
) -> None:
    """A loop as users have one."""
    how = how or optimizer(model)
    model.train()
    for step in steps:
        (model(batch(step)) - 1).square().mean().backward()
        how.step()
        sparsity.step()
        how.zero_grad()


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(EXAMPLE.double())


@pytest.mark.parametrize("last", ["normed", "bare", "linear"])
@pytest.mark.parametrize("how", [{"macs": 0.5}, {"percent": 0.4, "criterion": "gamma"}])
def test_the_cut_after_the_loop_changes_nothing(last: str, how: dict[str, Any]) -> None:
    model = net(last)
    start = outputs(model)
    sparsity = yp.Sparsity(model, EXAMPLE, steps=STEPS, **how)
    assert torch.equal(outputs(model), start)
    train(model, sparsity)
    found = yp.slim(model, EXAMPLE, plan=sparsity.plan)
    assert (outputs(model) - start).abs().max() > 0.1  # it did learn
    torch.testing.assert_close(outputs(found.model), outputs(model), rtol=0, atol=1e-12)
    sides = found.metrics
    if "macs" in how:
        assert sides["after"]["macs"] <= 0.5 * sides["before"]["macs"]
    else:
        assert found.plan.reached.percent >= 0.4
    assert not found.warnings


def test_a_cut_in_the_middle_would_change_a_lot() -> None:
    model = net()
    sparsity = yp.Sparsity(model, EXAMPLE, macs=0.5, steps=STEPS)
    train(model, sparsity, steps=range(STEPS // 2))
    with pytest.raises(yp.YoloPruneError, match=r"^plan: .* after 70% of 20 steps, got 10\."):
        _ = sparsity.plan
    plan = sparsity._auto.plan(model, sparsity._origin)
    assert (outputs(yp.slim(model, EXAMPLE, plan=plan).model) - outputs(model)).abs().max() > 1e-3


def test_a_restarted_training_ends_as_an_undisturbed_one() -> None:
    whole = net()
    sparsity = yp.Sparsity(whole, EXAMPLE, macs=0.5, steps=STEPS)
    train(whole, sparsity)

    first = net()
    begun, how = yp.Sparsity(first, EXAMPLE, macs=0.5, steps=STEPS), optimizer(first)
    train(first, begun, how, range(12))
    file = io.BytesIO()
    torch.save([first.state_dict(), how.state_dict(), begun.state_dict()], file)
    file.seek(0)
    model = net()
    weights, momentum, state = torch.load(file, weights_only=True)
    model.load_state_dict(weights)
    again, how = yp.Sparsity(model, EXAMPLE, macs=0.5, steps=STEPS), optimizer(model)
    how.load_state_dict(momentum)
    again.load_state_dict(state)
    train(model, again, how, range(12, STEPS))
    assert again.plan == sparsity.plan
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_restart_keeps_the_criterion_that_it_was_begun_with() -> None:
    model = net()
    begun = yp.Sparsity(model, EXAMPLE, macs=0.5, steps=STEPS)
    train(model, begun, steps=range(18))  # scales are sparse: by themselves, they ask for gamma
    again = yp.Sparsity(model, EXAMPLE, macs=0.5, steps=STEPS)
    assert (begun._options.criterion, again._options.criterion) == ("taylor", "gamma")
    again.load_state_dict(begun.state_dict())
    assert again._options.criterion == "taylor" and again.done
    assert again.plan == begun.plan


def test_with_the_optimizer_it_is_bit_by_bit_what_train_does() -> None:
    ours, theirs = net(), net()
    how = optimizer(ours)
    sparsity = yp.Sparsity(ours, EXAMPLE, macs=0.5, steps=STEPS, optimizer=how)
    graph = yp.trace(theirs, EXAMPLE[:1])
    budget = yp.Budget(macs=0.5, round_to=8)
    auto = sparsity_of(theirs, graph, yp.SparsityOptions(budget=budget), size=16)
    other = optimizer(theirs)
    auto.watch(theirs, other)
    for step in range(STEPS):
        for model, one in ((ours, how), (theirs, other)):
            model.train()
            (model(batch(step)) - 1).square().mean().backward()
            one.step()
            one.zero_grad()
        sparsity.step()
        auto.step(theirs, other, (step + 1) / STEPS)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert sparsity.plan.reached.channels > 0


def test_scaled_and_gathered_gradients_reach_the_same_zeros() -> None:
    runs = []
    for parts in (1, 2):
        model = net().eval()  # statistics fixed: halves of a batch add up
        sparsity, how = yp.Sparsity(model, EXAMPLE, macs=0.5, steps=STEPS), optimizer(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=parts > 1)
        for step in range(STEPS):
            for part in batch(step).chunk(parts):
                scaler.scale((model(part) - 1).square().mean() / parts).backward()
            scaler.step(how)
            scaler.update()
            sparsity.step()
            how.zero_grad()
        runs.append((sparsity.plan.layers, outputs(model)))
    assert runs[0][0] == runs[1][0]
    torch.testing.assert_close(*(out for _, out in runs), rtol=0, atol=1e-4)


def test_an_average_takes_the_zeros_over() -> None:
    model = net()
    average = copy.deepcopy(model)
    sparsity, how = yp.Sparsity(model, EXAMPLE, macs=0.5, steps=STEPS), optimizer(model)
    for step in range(STEPS):
        train(model, sparsity, how, range(step, step + 1))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 0.1)
    before = outputs(average)
    sparsity.follow(average)
    assert (outputs(average) - before).abs().max() > 1e-3
    thin = yp.slim(average, EXAMPLE, plan=sparsity.plan).model
    torch.testing.assert_close(outputs(thin), outputs(average), rtol=0, atol=1e-12)


def test_scales_that_stay_are_not_rounded_in_double_precision() -> None:
    model = net().double()
    sparsity = yp.Sparsity(model, EXAMPLE, percent=0.3, steps=STEPS, criterion="gamma")
    tiny = 1 + 1e-12
    for value in model.parameters():
        value.data *= tiny
    sparsity.step()
    scales = torch.cat(
        [m.weight.detach() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    )
    stays = scales == tiny
    assert 0.5 < stays.double().mean() < 0.8
    assert (scales[~stays] < 0.95).all()


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, pytest.param(torch.compile, marks=pytest.mark.slow)]
)
def test_a_model_that_is_wrapped_or_compiled_is_opened(wrap: Any) -> None:
    model = net()
    sparsity = yp.Sparsity(nn.DataParallel(wrap(model)), EXAMPLE, macs=0.5, steps=2)
    train(model, sparsity, steps=range(2))
    found = yp.slim(wrap(model), EXAMPLE, plan=sparsity.plan)
    assert type(found.model) is Mixed
    torch.testing.assert_close(outputs(found.model), outputs(model), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"steps": 0}, "^steps: must be a whole number, at least 1, got 0"),
        ({"steps": 2.5}, r"^steps: must be a whole number, at least 1, got 2\.5"),
        ({"macs": 2, "percent": 3}, "^percent: must be above 0 and below 1, got 3"),
        ({"criterion": "l2"}, "^criterion: unknown, got 'l2', expected gamma, taylor"),
        ({"until": 0}, "^until: must be above 0 and at most 1, got 0"),
        ({"min_channels": 64}, "^plan: none of .* held by min_channels 64"),
        ({"example_input": None}, "^example_input: is missing"),
        ({"model": "mine.pt"}, "^model: got str, expected the nn.Module that is trained"),
        ({"model": nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1))}, "no prunable Batch"),
        ({"optimizer": torch.optim.SGD(Residual().parameters())}, "^optimizer: steps none of the"),
    ],
)
def test_errors_speak_of_arguments(how: dict[str, Any], says: str) -> None:
    given = {"model": net(), "example_input": EXAMPLE, "steps": 5, **how}
    with pytest.raises(yp.YoloPruneError, match=says):
        yp.Sparsity(**given)


def test_a_step_without_gradients_says_so() -> None:
    sparsity = yp.Sparsity(net(), EXAMPLE, macs=0.5, steps=STEPS)
    with pytest.raises(yp.YoloPruneError, match=r"^step: finds no gradients .*zero_grad\(\)"):
        sparsity.step()
    assert sparsity.taken == 0


def test_a_plan_of_other_weights_is_refused() -> None:
    model = net()
    weights = copy.deepcopy(model.state_dict())
    sparsity = yp.Sparsity(model, EXAMPLE, macs=0.5, steps=STEPS)
    train(model, sparsity)
    model.load_state_dict(weights)
    with pytest.raises(yp.YoloPruneError, match=r"^plan: \d+ of the channel groups .* not at zero"):
        _ = sparsity.plan


def test_a_state_of_another_training_is_refused() -> None:
    sparsity = yp.Sparsity(net(), EXAMPLE, macs=0.5, steps=STEPS)
    state = sparsity.state_dict()
    with pytest.raises(yp.YoloPruneError, match="^state: is none of Sparsity, auto, budget"):
        sparsity.load_state_dict({"taken": 3})
    small = yp.Sparsity(Residual(), EXAMPLE, steps=STEPS, min_channels=1, round_to=1)
    gammas = yp.Sparsity(net(), EXAMPLE, macs=0.5, steps=STEPS, criterion="gamma")
    for other, changed in (
        (yp.Sparsity(net(), EXAMPLE, macs=0.5, steps=9), "changed since: steps: 20 → 9$"),
        (yp.Sparsity(net(), EXAMPLE, macs=0.6, steps=STEPS), "budget: .*0.5.* → .*0.6"),
        (gammas, "criterion: taylor → gamma$"),
        (small, "channels: 64 → 18;"),
    ):
        with pytest.raises(yp.YoloPruneError, match=changed):
            other.load_state_dict(state)
        assert other.taken == 0
