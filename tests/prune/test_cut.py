"""Surgery: exact, on a copy, and refused where it would not be.

The oracle is masking: a model in which the removed channels are silenced must give what the
model without them gives.
"""

from __future__ import annotations

import copy
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.trace import picture
from yoloprune.errors import CutError
from yoloprune.prune.cut import cut_units, self_test, slice_axis, slice_grouped
from yoloprune.prune.selftest import relative_difference

CONFIGS = ["yolov8n", "yolo11n", "yolov5n", "yolov9t", "yolov10n", "yolov3-tiny"]


def build(name: str) -> nn.Module:
    """A stock model with random weights and statistics."""
    from ultralytics.nn.tasks import DetectionModel

    return nets.randomised(DetectionModel(f"{name}.yaml", verbose=False))


def named(net: type) -> str:
    return net.__name__


@pytest.mark.parametrize("net", nets.EXACT, ids=named)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cutting_equals_silencing(net: type[nn.Module], seed: int) -> None:
    model = nets.randomised(net()).double()
    graph = nets.traced(model)
    remove = nets.random_units(graph, seed=seed)
    assert remove.size
    slim = cut_units(model, graph, remove, compensate=False)
    assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9
    given = torch.rand(2, 3, 16, 20, dtype=torch.float64)
    with torch.no_grad():
        before, after = model(given), slim(given)
        assert relative_difference(before, after) > 0.01


@pytest.mark.parametrize("net", [n for n, _ in nets.FROZEN], ids=named)
def test_frozen_nets_stay_exact_around_what_is_frozen(net: type[nn.Module]) -> None:
    class Deeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.net = nets.conv(3, 6), net()
            self.net.a = nets.conv(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.first(x))

    model = nets.randomised(Deeper()).double()
    graph = nets.traced(model)
    remove = nets.random_units(graph)
    assert remove.size == 3
    slim = cut_units(model, graph, remove, compensate=False)
    assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9


def test_widths_are_those_counted_by_hand() -> None:
    model = nets.randomised(nets.Chunked())
    graph = nets.traced(model)
    # One channel of each half; the second half is also what the residual block writes.
    slim = cut_units(model, graph, np.array([1, 6]), compensate=False)
    assert slim.a[0].weight.shape == (6, 3, 3, 3)
    assert slim.a[1].num_features == 6 and slim.a[1].running_var.shape == (6,)
    assert slim.m[0].weight.shape == (3, 3, 3, 3)
    assert slim.out.weight.shape == (4, 9, 1, 1)
    assert (slim.a[0].out_channels, slim.m[0].in_channels, slim.out.in_channels) == (6, 3, 9)
    assert slim.c == 3
    kept = [0, 2, 3, 4, 5, 7]
    assert torch.equal(slim.a[0].weight, model.a[0].weight[kept])
    columns = [0, 2, 3, 4, 5, 7, 8, 9, 11]
    assert torch.equal(slim.out.weight, model.out.weight[:, columns])


def test_the_swapped_in_forward_agrees_after_a_cut() -> None:
    model = nets.randomised(nets.Chunked())
    slim = cut_units(model, nets.traced(model), np.array([0, 2, 5, 6]), compensate=False)
    given = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(slim(given), slim.forward_split(given))


def test_grouped_weights_keep_other_inputs_in_each_group() -> None:
    model = nets.randomised(nets.Grouped())
    slim = cut_units(model, nets.traced(model), np.array([0, 7, 8, 13]), compensate=False)
    weight = model.g[0].weight
    expected = torch.cat((weight[[1, 2]][:, [1, 2, 3]], weight[[3, 4]][:, [0, 1, 2]]))
    assert torch.equal(slim.g[0].weight, expected)
    assert (slim.g[0].in_channels, slim.g[0].out_channels, slim.g[0].groups) == (6, 4, 2)


def test_the_given_model_stays_bit_equal_and_shares_nothing() -> None:
    model = nets.randomised(nets.Heads())
    model.a[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    graph = nets.traced(model)
    slim = cut_units(model, graph, nets.random_units(graph))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    mine = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}
    assert not any(p.data_ptr() in mine for p in (*slim.parameters(), *slim.buffers()))
    assert not slim.a[0].weight.requires_grad and slim.a[1].weight.requires_grad
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in slim.parameters())
    assert [type(m) for m in slim.modules()] == [type(m) for m in model.modules()]
    assert (slim.key, model.key) == (int(graph.prunable[8:11].sum()) - 1, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    model = nets.randomised(nets.Residual()).to(dtype)
    graph = nets.traced(model)
    slim = cut_units(model, graph, nets.random_units(graph))
    assert {p.dtype for p in slim.parameters()} == {dtype}


def test_the_empty_cut_is_the_identity() -> None:
    model = nets.randomised(nets.Chunked())
    slim = cut_units(model, nets.traced(model), np.zeros(0, dtype=np.int64))
    assert slim is not model
    for (k, a), (_, b) in zip(model.state_dict().items(), slim.state_dict().items(), strict=True):
        assert torch.equal(a, b), k


@pytest.mark.parametrize(
    ("net", "remove", "message"),
    [
        (nets.Chain, [*range(8)], r"a\.0: nothing would remain of its 8 channels"),
        (nets.Chain, [14], "unit 14: must stay .output of the model."),
        (nets.Chain, [18], "unit 18 is out of range, expected 0 to 17"),
        (nets.Chain, [-1], "out of range"),
        (nets.Chunked, [0, 1, 4], r"chunk\(2\) in the model: equal numbers must stay, got .2, 3."),
        (nets.Grouped, [0], "groups into g.0: equal numbers must stay"),
    ],
)
def test_what_would_break_the_model_is_refused(
    net: type[nn.Module], remove: list[int], message: str
) -> None:
    model = nets.randomised(net())
    with pytest.raises(CutError, match=message):
        cut_units(model, nets.traced(model), np.array(remove))


def test_a_graph_of_another_model_is_refused() -> None:
    graph = nets.traced(nets.randomised(nets.Residual()))
    with pytest.raises(CutError, match=r"c\.0\.weight: is not in this model"):
        cut_units(nets.randomised(nets.Chain()), graph, np.array([0]))
    thin = nets.randomised(nets.Residual())
    thin.a = nets.conv(3, 6)
    with pytest.raises(CutError, match="axis 0 has 6 channels, the graph has 8"):
        cut_units(thin, graph, np.array([0]))


def test_tied_parameters_stay_tied() -> None:
    class Tied(nets.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.b = nets.conv(8, 8)
            self.c = nets.conv(8, 8)
            self.c[0].weight = self.b[0].weight
            self.out = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.c(self.b(self.a(x))))

    model = nets.randomised(Tied()).double()
    graph = nets.traced(model)
    remove = nets.random_units(graph)
    slim = cut_units(model, graph, remove, compensate=False)
    assert slim.c[0].weight is slim.b[0].weight
    assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9


def test_down_to_one_channel_everywhere() -> None:
    model = nets.randomised(nets.Residual()).double()
    graph = nets.traced(model)
    remove = np.array([*range(1, 8), *range(9, 14)])
    slim = cut_units(model, graph, remove, compensate=False)
    assert slim.a[0].weight.shape[0] == slim.b[0].weight.shape[0] == 1
    assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9


def test_the_self_test_finds_a_wrong_cut() -> None:
    model = nets.randomised(nets.Residual()).double()
    graph = nets.traced(model)
    other = cut_units(model, graph, np.array([1, 9]), compensate=False)
    assert not self_test(model, graph, np.array([2, 9]), other).passed
    broken = cut_units(model, graph, np.array([1, 9]), compensate=False)
    broken.out = nn.Conv2d(5, 4, 1).double()
    with pytest.raises(CutError, match="the cut model does not run"):
        self_test(model, graph, np.array([1, 9]), broken)


class Chaos(nn.Module):
    """Blows a difference up a thousandfold in each of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3) for i, o in ((3, 40), (40, 40), (40, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sin(1000 * layer(x))
        return x


def test_a_model_that_blows_rounding_up_is_held_to_its_own_rounding() -> None:
    model = nets.randomised(Chaos()).double()
    graph = nets.traced(model)
    remove = nets.random_units(graph)
    slim = cut_units(model, graph, remove, compensate=False)
    with torch.no_grad():  # as if its sums were added in another order, which wider kernels do
        slim.layers[0].weight.mul_(1 + 2**-52)
    found = self_test(model, graph, remove, slim)
    assert 1e-9 < found.max_rel_diff < found.tolerance < 1e-3
    assert found.passed
    other = self_test(model, graph, remove[1:], slim)
    assert other.max_rel_diff > 0.05
    assert not other.passed
    still = nets.randomised(nets.Residual()).double()
    usual = self_test(still, nets.traced(still), np.array([1]), cut_units(
        still, nets.traced(still), np.array([1]), compensate=False
    ))  # fmt: skip
    assert (usual.rounding, usual.tolerance) == (0.0, 1e-9)


def test_slices_of_tensors() -> None:
    tensor = torch.arange(24.0).reshape(4, 6)
    assert torch.equal(slice_axis(tensor, dim=1, keep=np.array([0, 5])), tensor[:, [0, 5]])
    grouped = slice_grouped(tensor, dim=1, keep=np.array([[0, 1], [4, 5]]))
    assert torch.equal(grouped, torch.cat((tensor[:2, :2], tensor[2:, 4:])))


# --- stock Ultralytics models


@pytest.mark.parametrize("name", CONFIGS)
def test_stock_models_cut_exactly(name: str) -> None:
    model = build(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graph = trace(model)
    remove = nets.random_units(graph)
    assert remove.size > 0.3 * graph.n_units
    slim = cut_units(model, graph, remove, compensate=False)
    result = self_test(model, graph, remove, slim)
    assert result.max_rel_diff <= 1e-9
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    given = picture(model, 64)
    with torch.no_grad():
        # One-to-one heads sort their results; the raw scores of both tell more.
        full, thin = _raw(model(given)), _raw(slim(given))
    assert relative_difference(full, thin) > 0.05
    assert sum(p.numel() for p in slim.parameters()) < 0.55 * _size(model)
    _trains(slim)


def _raw(output: tuple[Tensor, dict[str, Tensor]]) -> list[Tensor]:
    raw = output[1]
    raw = raw.get("one2one", raw)
    return [raw["boxes"], raw["scores"]]


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _trains(slim: nn.Module) -> None:
    """Forward and backward in training mode reach every parameter that takes part."""
    trained = copy.deepcopy(slim).train()
    output = trained(torch.rand(2, 3, 64, 64))
    branches = [output[k] for k in ("one2many", "one2one") if k in output] or [output]
    sum(b[k].square().mean() for b in branches for k in ("boxes", "scores")).backward()
    bare = [n for n, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    assert not bare


# Shares on the installed n-scale models; depthwise layers create no channels of their own.
SHARES = {"yolov8n": 0.924, "yolo11n": 0.941, "yolov5n": 0.928, "yolov9t": 0.948, "yolov10n": 0.897}


@pytest.mark.parametrize(("name", "share"), SHARES.items())
def test_all_but_the_outputs_can_go(name: str, share: float) -> None:
    graph = trace(build(name))
    channels = graph.channels
    assert channels[graph.prunable].sum() / channels.sum() >= share
    assert {reason.partition(" in ")[0] for reason in graph.frozen.values()} <= {
        "output of the model",
        "softmax over channels",
    }


def test_fused_blocks_cut_exactly() -> None:
    model = build("yolov9t").fuse(verbose=False)
    graph = trace(model)
    assert graph.norm_of == {}
    remove = nets.random_units(graph)
    slim = cut_units(model, graph, remove, compensate=False)
    assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9


def test_cut_twice_and_fused_afterwards() -> None:
    model = build("yolo11n")
    for seed in (0, 1):
        graph = trace(model)
        remove = nets.random_units(graph, share=0.3, seed=seed)
        slim = cut_units(model, graph, remove, compensate=False)
        assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9
        model = slim
    given = picture(model, 96)
    with torch.no_grad():
        before = _raw(model(given))
        after = _raw(copy.deepcopy(model).fuse(verbose=False)(given))
    assert relative_difference(before, after) < 1e-3


def test_exporters_forward_agrees_after_a_cut() -> None:
    model = build("yolov8n")
    graph = trace(model)
    slim = cut_units(model, graph, nets.random_units(graph), compensate=False)
    given = picture(model, 64)
    with torch.no_grad():
        before = _raw(slim(given))
        for module in slim.modules():
            if hasattr(module, "forward_split"):
                module.forward = module.forward_split
        assert relative_difference(before, _raw(slim(given))) == 0


def test_caches_of_the_head_do_not_survive() -> None:
    model = build("yolov8n")
    with torch.no_grad():
        model(torch.rand(1, 3, 96, 96))
    graph = trace(model)
    slim = cut_units(model, graph, nets.random_units(graph), compensate=False)
    assert model.model[-1].shape is not None
    assert slim.model[-1].shape is None
    layer = slim.model[0]
    assert layer.np == sum(p.numel() for p in layer.parameters())


def _every_yaml() -> list[str]:
    import ultralytics

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    return sorted(path.name for path in folder.rglob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("yaml", _every_yaml())
def test_every_installed_configuration_cuts_exactly(yaml: str) -> None:
    from ultralytics.nn import tasks
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    config = YAML.load(check_yaml(yaml))
    if "scales" in config:
        config["scale"] = "n" if "n" in config["scales"] else next(iter(config["scales"]))
    task = tasks.guess_model_task(config)
    if any("TorchVision" in str(layer) for layer in config["backbone"]):
        pytest.skip("its backbone is downloaded")
    classes = {
        "classify": tasks.ClassificationModel, "segment": tasks.SegmentationModel,
        "pose": tasks.PoseModel, "obb": tasks.OBBModel, "depth": getattr(tasks, "DepthModel", None),
        "semantic": getattr(tasks, "SemanticSegmentationModel", None),
    }  # fmt: skip
    kind = classes.get(task) or tasks.DetectionModel
    if "rtdetr" in yaml:
        kind = tasks.RTDETRDetectionModel
    elif "world" in yaml:
        kind = tasks.WorldModel
    elif "yoloe" in yaml:
        kind = tasks.YOLOESegModel if "seg" in yaml else tasks.YOLOEModel
    model = nets.randomised(kind(config, verbose=False))
    graph = trace(model)
    remove = nets.random_units(graph)
    slim = cut_units(model, graph, remove, compensate=False)
    assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9
