"""Criteria by the loss, against differences of it and against gates that stand in the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import nets
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import DropBlock2d

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import PlanError
from yoloprune.prune import slopes
from yoloprune.prune.evidence import Lessons
from yoloprune.prune.slopes import Slopes, fisher, hessian, taylor

CPU = torch.device("cpu")
CFG = (
    "[net]\nwidth=32\nheight=32\nchannels=3\n"
    + nets.CONV.format(8)
    + nets.SAME.format(8)
    + "[shortcut]\nfrom=-2\nactivation=linear\n"
    + nets.CONV.format(6)
    + "[convolutional]\nfilters=7\nsize=1\nstride=1\nactivation=linear\n"
    + "[yolo]\nmask=0\nanchors=10,10\nclasses=2\nnum=1\n"
)


class Taught(nn.Module):
    """Any net with a loss: each picture's error against its label's class, squared."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(x)
        return sum(found) if isinstance(found, tuple) else found

    def loss(self, batch: Any, said: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        found = self(batch["img"]) if said is None else said
        aims = batch["cls"].view(-1, *[1] * (found.ndim - 1))
        return (found - aims).square().flatten(1).mean(1), {}


class Bare(nn.Module):
    """Layers without a BatchNorm, one of them with a bias; ``b`` is added to ``a``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3, bias=False)
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(torch.tanh(self.a(x) + self.b(x))))


class Mixed(nn.Module):
    """``plain`` has no BatchNorm, and is added to what has one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.plain = nets.conv(3, 6, act=False), nn.Conv2d(3, 6, 1)
        self.out = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.a(x) + self.plain(x)))


def lessons(count: int = 10, side: int = 16) -> Lessons:
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    labels = tuple(np.array([[k % 2, 0.4, 0.5, 0.3, 0.5]]) for k in range(count))
    return Lessons(images=images, labels=labels, told="by hand")


def made(net: Callable[[], nn.Module]) -> tuple[Any, ChannelGraph]:
    torch.manual_seed(0)
    model = nets.randomised(Taught(net()))
    return model, nets.traced(model)


def gated(model: nn.Module, graph: ChannelGraph, gates: Tensor) -> None:
    """Let gates ``[n_units]`` scale what comes out of BatchNorms and of layers without one."""
    for axis in graph.axes:
        module = model.get_submodule(axis.module)
        norm = isinstance(module, nn.BatchNorm2d) and axis.tensor.endswith(".weight")
        if norm or (axis.role == "out" and axis.module in graph.bare):
            units = torch.from_numpy(axis.units.ravel())
            module.register_forward_hook(
                lambda m, a, out, units=units: out * gates[units].view(1, -1, 1, 1)
            )


def slope_by_difference(model: nn.Module, graph: ChannelGraph, unit: int, batch: Any) -> float:
    """Of the mean loss of a picture, by a gate on the unit, in float64."""
    batch = {**batch, "img": batch["img"].double()}
    losses = []
    for gate in (1 + 1e-5, 1 - 1e-5):
        gates = torch.ones(graph.n_units, dtype=torch.float64)
        gates[unit] = gate
        other: Any = copy.deepcopy(model).double()
        gated(other, graph, gates)
        losses.append(other.loss(batch)[0].mean().item())
    return (losses[0] - losses[1]) / 2e-5


NETS = (nets.Residual, nets.Depthwise, nets.Grouped, nets.Shared, Bare, Mixed)


@pytest.mark.parametrize("net", NETS)
def test_taylor_and_fisher_are_squares_of_slopes_of_the_loss(net: type[nn.Module]) -> None:
    model, graph = made(net)
    given = lessons()
    found = {"taylor": taylor(model, graph, given, CPU), "fisher": fisher(model, graph, given, CPU)}
    free = np.flatnonzero(graph.prunable)
    assert free.size and all(np.isfinite(values[free]).all() for values in found.values())
    for unit in free[:: max(1, free.size // 2)].tolist():
        batches = (given.batch(0, 8, CPU), given.batch(8, 8, CPU))
        by_batch = [slope_by_difference(model, graph, unit, batch) ** 2 for batch in batches]
        assert found["taylor"][unit] == pytest.approx(np.mean(by_batch), rel=1e-3)
        single = [
            slope_by_difference(model, graph, unit, given.batch(k, 1, CPU)) for k in range(10)
        ]
        assert found["fisher"][unit] == pytest.approx(np.square(single).mean() / 2, rel=1e-3)


def test_tied_channels_are_summed_before_they_are_squared() -> None:
    """``a`` and ``c`` of the residual net are one unit: its slope is the sum of both."""
    model, graph = made(nets.Residual)
    batch = lessons(1).batch(0, 1, CPU)
    model.loss(batch)[0].sum().backward()
    norms = [model.net.a[1], model.net.c[1]]
    parts = [n.weight * n.weight.grad + n.bias * n.bias.grad for n in norms]
    units = next(a for a in graph.out_axes if a.module == "net.a.0").units
    model.zero_grad()
    slope = (parts[0] + parts[1]).detach().numpy()
    assert fisher(model, graph, lessons(1), CPU)[units] == pytest.approx(slope**2 / 2, rel=1e-4)


class Quadratic(nn.Module):
    """A loss that is quadratic in the gates of ``body.0``: c / 2 times squared outputs.

    The last layer gives each output one channel, or mixes them all.
    """

    def __init__(self, sign: float = 1.0, *, mixed: bool = False, derived: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nets.conv(3, 8, act=False), nn.Conv2d(8, 8, 1, bias=False))
        if not mixed:
            self.body[1].weight.data = torch.diag(torch.linspace(-1, 2, 8)).view(8, 8, 1, 1)
        self.sign, self.derived = sign, derived

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.body(x)]

    def loss(self, batch: Any, said: Any) -> tuple[Tensor, dict[str, Tensor]]:
        (found,) = said
        weights = self.sign * torch.linspace(0.5, 2, 8).view(8, 1, 1) / found[0, 0].numel()
        if self.derived:
            return (weights * found.square()).sum((1, 2, 3)) / 2, {}
        return ByGradient.apply(found, weights * found.detach()), {}


class ByGradient(torch.autograd.Function):
    """A value of which only the gradient is given, as in Darknet's losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("derived", [False, True])
def test_hessian_is_that_of_a_quadratic_loss(
    monkeypatch: pytest.MonkeyPatch, mixed: bool, derived: bool
) -> None:
    torch.manual_seed(0)
    model = nets.randomised(Quadratic(mixed=mixed, derived=derived))
    graph, given, probes = nets.traced(model), lessons(2), 300
    monkeypatch.setattr(slopes, "PROBES", probes)
    with torch.no_grad():
        made = model.body[0](given.images).double().square().mean((0, 2, 3))
        weight = model.body[1].weight[:, :, 0, 0].double()
    # out_k = sum over j of w_kj g_j y_j, so that d²/dg_j² is the sum over k of c_k w_kj² y_j².
    expected = (torch.linspace(0.5, 2, 8).double() @ weight.square() * made).numpy()
    units = next(a for a in graph.out_axes if a.module == "body.0.0").units
    found = 2 * hessian(model, graph, given, CPU)[units]
    error = 4 * np.sqrt(2 / (2 * probes))  # four standard errors of squares of sums of signs
    np.testing.assert_allclose(found, expected, rtol=error)


def test_what_bends_down_counts_nothing() -> None:
    model = nets.randomised(Quadratic(-1.0))
    graph = nets.traced(model)
    assert (hessian(model, graph, lessons(2), CPU)[graph.prunable] == 0).all()


@pytest.mark.parametrize("make", [lambda: darknet(), lambda: ultralytics("yolov8n.yaml")])
def test_two_draws_of_a_hessian_agree(make: Callable[[], Any]) -> None:
    """On whole networks, where a sum of signed terms would be all noise."""
    model, given = make(), lessons(1, 64)
    graph, asked = trace(model), None
    asked = Slopes(model, graph, CPU)
    batch = given.batch(0, 1, CPU)
    one, other = (sum(asked.bend(batch, 10 * k + n) for n in range(4)) for k in range(2))
    free = graph.prunable & (one > 0) & (other > 0)
    assert free.sum() > 0.9 * graph.prunable.sum()
    assert np.corrcoef(np.log(one[free]), np.log(other[free]))[0, 1] > 0.9


def reference(model: Any, graph: ChannelGraph, batch: Any) -> np.ndarray:
    """Slopes by gates that stand in the network as tensors of their own."""
    other = copy.deepcopy(model).train()
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    gates = torch.ones(graph.n_units, requires_grad=True)
    gated(other, graph, gates)
    (other.loss(batch)[0].sum() / len(batch["img"])).backward()
    assert gates.grad is not None
    return gates.grad.double().numpy()


def darknet() -> Any:
    torch.manual_seed(0)
    return nets.randomised(DarknetModel(parse_cfg(CFG)))


def ultralytics(name: str) -> Any:
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    torch.manual_seed(0)
    model = nets.randomised(DetectionModel(name, nc=2, verbose=False))
    model.args = DEFAULT_CFG
    return model


@pytest.mark.parametrize("make", [darknet, lambda: ultralytics("yolov8n.yaml")])
def test_both_families_are_asked_by_their_own_loss(make: Callable[[], Any]) -> None:
    model, given = make(), lessons(2, 64)
    graph = trace(model)
    expected = sum(reference(model, graph, given.batch(k, 1, CPU)) ** 2 for k in range(2)) / 4
    found = fisher(model, graph, given, CPU)
    free = graph.prunable & np.isfinite(found)
    assert free.sum() == graph.prunable.sum()
    np.testing.assert_allclose(found[free], expected[free], rtol=2e-2, atol=1e-5 * expected.max())
    assert (found[free] > 0).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov10n.yaml", "yolo11n.yaml", "yolo26n.yaml"])
def test_heads_that_are_trained_twice(name: str) -> None:
    model, given = ultralytics(name), lessons(1, 64)
    graph = trace(model)
    found = fisher(model, graph, given, CPU)
    assert np.isfinite(found[graph.prunable]).all()


def test_labels_decide() -> None:
    model, given = darknet(), lessons(2, 64)
    graph = trace(model)
    empty = Lessons(images=given.images, labels=(np.zeros((0, 5)),) * 2, told="nothing")
    one, other = fisher(model, graph, given, CPU), fisher(model, graph, empty, CPU)
    free = graph.prunable
    assert np.isfinite(other[free]).all() and not np.allclose(one[free], other[free])


class TwoHeads(nn.Module):
    """The loss reads ``out``; nothing learns from ``b``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nets.conv(3, 8), nets.conv(8, 6)
        self.out, self.other = nn.Conv2d(8, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        return self.out(x), self.other(self.b(x))

    def loss(self, batch: Any, said: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return said[0].square().sum(), {}


@pytest.mark.parametrize("by", [taylor, fisher, hessian])
def test_what_no_gradient_reaches_has_no_score(by: Callable[..., np.ndarray]) -> None:
    model = nets.randomised(TwoHeads())
    graph = nets.traced(model)
    values = by(model, graph, lessons(2), CPU)
    of = {axis.module: axis.units for axis in graph.out_axes}
    assert np.isfinite(values[of["a.0"]]).all() and np.isnan(values[of["b.0"]]).all()


def test_the_model_is_as_it_was() -> None:
    model, graph = made(nets.Residual)
    model.net.b[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    hessian(model, graph, lessons(2), CPU)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training and not model.net.b[0].weight.requires_grad
    assert not hasattr(model, "criterion")


def test_dropout_is_left_out() -> None:
    class Dropped(nets.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.drop = DropBlock2d(0.5, 3)  # of another library than torch's own layers

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.b(self.drop(self.a(x))))

    model, graph = made(Dropped)
    one, other = (fisher(model, graph, lessons(2), CPU) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y: 1 / 0, "own loss cannot be computed: ZeroDivisionError: division by zero."),
        (lambda y: y * float("nan"), "gradients that are no finite numbers"),
        (lambda y: y.detach(), "own loss depends on no gate"),
    ],
)
def test_a_loss_that_fails_is_one_line(loss: Any, message: str) -> None:
    class Failing(Taught):
        def loss(self, batch: Any, said: Any = None) -> Any:
            return loss(said), {}

    model = nets.randomised(Failing(nets.Chain()))
    for by in (fisher, hessian):
        with pytest.raises(PlanError, match=message) as error:
            by(model, nets.traced(model), lessons(1), CPU)
        assert "\n" not in str(error.value)
