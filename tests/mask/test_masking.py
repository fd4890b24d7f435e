"""Masks: how many, where, how they combine, and what is left when they are permanent."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.nets import Chain, conv
from yoloprune.errors import MaskError, MeasureError
from yoloprune.mask.masking import is_pruned, made_permanent, mask_model, masks_of
from yoloprune.mask.sparsity import sparsity
from yoloprune.mask.spec import METHODS, MaskSpec


def zeros(model: nn.Module, kind: str = "conv") -> list[float]:
    return [one.share for one in sparsity(model).tensors if one.group == kind]


class Wide(nn.Module):
    """8 → 16, grouped by 4, then transposed; all of it divisible by 4 but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 16, groups=4)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.b(self.a(x)))


@pytest.mark.parametrize("method", ["random_unstructured", "l1_unstructured"])
def test_each_layer_loses_its_share(method: str) -> None:
    masked = mask_model(Chain(), MaskSpec(method=method, amount=0.25))  # type: ignore[arg-type]
    sizes = [216, 432, 24]
    assert zeros(masked) == [round(0.25 * size) / size for size in sizes]
    assert zeros(masked, "bn") == [0.0, 0.0]


def test_a_number_is_a_number() -> None:
    masked = mask_model(Chain(), MaskSpec(method="l1_unstructured", amount=7))
    assert [one.zeros for one in sparsity(masked).tensors if one.group == "conv"] == [7, 7, 7]
    with pytest.raises(MaskError, match="out: cannot be masked so: ValueError: amount=100"):
        mask_model(Chain(), MaskSpec(method="l1_unstructured", amount=100))


def test_l1_takes_the_smallest() -> None:
    model = Chain()
    masked = mask_model(model, MaskSpec(method="l1_unstructured", amount=0.5))
    weight, left = model.a[0].weight.abs(), masked.a[0].weight
    assert weight[left == 0].max() <= weight[left != 0].min()
    assert torch.equal(left[left != 0], model.a[0].weight[left != 0])


def test_global_takes_the_smallest_of_all_layers_and_kinds() -> None:
    model = Chain()
    for norm in (model.a[1], model.b[1]):
        nn.init.uniform_(norm.weight, -0.1, 0.1)
    masked = mask_model(model, MaskSpec(method="global_unstructured", amount=0.5, kind="both"))
    tensors = [(one[i].weight, two[i].weight) for one, two in (
        (model.a, masked.a), (model.b, masked.b)) for i in (0, 1)]  # fmt: skip
    tensors.append((model.out.weight, masked.out.weight))
    gone = torch.cat([before[after == 0].abs() for before, after in tensors])
    kept = torch.cat([before[after != 0].abs() for before, after in tensors])
    assert gone.max() <= kept.min()
    assert gone.numel() == round(0.5 * (gone.numel() + kept.numel()))
    assert zeros(masked, "bn")[0] > 0


@pytest.mark.parametrize("method", ["random_structured", "ln_structured"])
@pytest.mark.parametrize(("dim", "axes"), [(0, (1, 2, 3)), (1, (0, 2, 3))])
def test_whole_slices_go(method: str, dim: int, axes: tuple[int, ...]) -> None:
    masked = mask_model(Chain(), MaskSpec(method=method, amount=0.5, dim=dim))  # type: ignore[arg-type]
    weight = masked.b[0].weight
    dead = (weight == 0).all(dim=axes)
    assert int(dead.sum()) == weight.shape[dim] // 2
    assert int((weight == 0).sum()) == int(dead.sum()) * weight.numel() // weight.shape[dim]


@pytest.mark.parametrize("n", [1.0, 2.0, float("inf"), float("-inf")])
def test_slices_go_by_their_norm(n: float) -> None:
    model = Chain()
    masked = mask_model(model, MaskSpec(method="ln_structured", amount=3, n=n))
    norms = torch.linalg.vector_norm(model.b[0].weight.detach(), n, dim=(1, 2, 3))
    dead = (masked.b[0].weight == 0).all(dim=(1, 2, 3))
    assert norms[dead].max() <= norms[~dead].min() and int(dead.sum()) == 3


def test_a_transposed_convolution_has_its_axes_swapped() -> None:
    masked = mask_model(Wide(), MaskSpec(method="ln_structured", amount=0.5, dim=0))
    assert int((masked.up.weight == 0).all(dim=(0, 2, 3)).sum()) == 4  # of 8 outputs, in axis 1


def test_two_of_four_neighbours_stay() -> None:
    model = Wide()
    masked = mask_model(model, MaskSpec(method="n_m"))
    assert zeros(masked) == [0.0, 0.5, 0.5]  # 3 input channels are no groups of 4
    groups = model.b[0].weight.detach().abs().reshape(16, 1, 4, 9)
    left = masked.b[0].weight.reshape(16, 1, 4, 9)
    assert ((left != 0).sum(2) == 2).all()
    least = groups.masked_fill(left == 0, 9).amin(2)
    assert (groups.masked_fill(left != 0, 0).amax(2) <= least).all()
    up = masked.up.weight.reshape(4, 4, 8, 2, 2)
    assert ((up != 0).sum(1) == 2).all()
    one = mask_model(model, MaskSpec(method="n_m", pattern=(1, 4), layers=("b",)))
    assert zeros(one) == [0.0, 0.75, 0.0]
    with pytest.raises(MaskError, match="--pattern 2:5: no layer's input channels"):
        mask_model(model, MaskSpec(method="n_m", pattern=(2, 5)))


class Transposing(prune.BasePruningMethod):
    """Keeps all, by a mask that lies in memory otherwise than the weight."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return torch.ones_like(t).transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize(
    "spec",
    [MaskSpec(method="n_m"), MaskSpec(method="custom", custom=f"{__name__}:Transposing")],
    ids=["n_m", "custom"],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_lie_in_memory_as_they_did(spec: MaskSpec, layout: torch.memory_format) -> None:
    """Another layout alone makes torch faster or slower, which is nothing that a mask did."""
    model = Wide().to(memory_format=layout)  # type: ignore[call-overload]
    masked = mask_model(model, spec)
    for made in (masked, made_permanent(masked)):
        strides = [made.get_submodule(path).weight.stride() for path in ("b.0", "up")]
        assert strides == [model.b[0].weight.stride(), model.up.weight.stride()]


def test_n_of_m_counts_what_is_masked_already() -> None:
    model = mask_model(Wide(), MaskSpec(method="random_unstructured", amount=0.3))
    both = mask_model(model, MaskSpec(method="n_m"))
    before = model.b[0].weight.reshape(16, 4, 9) != 0
    after = both.b[0].weight.reshape(16, 4, 9) != 0
    assert not (after & ~before).any()
    assert torch.equal(after.sum(1), before.sum(1).clamp(max=2))


def test_a_percentile_is_of_everything() -> None:
    model = Chain()
    masked = mask_model(model, MaskSpec(method="percentile", amount=0.4))
    sizes = torch.cat([m.weight.detach().abs().flatten() for m in (model.a[0], model.b[0],
                                                                   model.out)])  # fmt: skip
    assert abs(sparsity(masked).share("conv") - 0.4) <= 1 / sizes.numel()
    left = torch.cat([m.weight.flatten() for m in (masked.a[0], masked.b[0], masked.out)])
    assert sizes[left == 0].max() < sizes[left != 0].min()
    again = mask_model(masked, MaskSpec(method="percentile", amount=0.4))
    assert sparsity(again).share() == sparsity(masked).share()


def test_names_choose_layers() -> None:
    spec = {"method": "l1_unstructured", "amount": 0.5}
    assert zeros(mask_model(Chain(), MaskSpec(**spec, layers=("b",)))) == [0, 0.5, 0]
    assert zeros(mask_model(Chain(), MaskSpec(**spec, layers=("[ab].*", "out")))) == [0.5] * 3
    with pytest.raises(MaskError, match=r"--layers: c: matches no layer"):
        mask_model(Chain(), MaskSpec(**spec, layers=("c",)))


def test_masks_combine_in_a_container() -> None:
    """Each run masks its share of what the last one left."""
    first = mask_model(Chain(), MaskSpec(method="l1_unstructured", amount=0.5))
    second = mask_model(first, MaskSpec(method="random_unstructured", amount=0.5))
    hook = next(iter(second.b[0]._forward_pre_hooks.values()))
    assert isinstance(hook, prune.PruningContainer) and len(list(hook)) == 2
    assert zeros(second)[1] == 0.75
    assert not ((second.b[0].weight != 0) & (first.b[0].weight == 0)).any()
    assert zeros(first)[1] == 0.5  # the first is as it was


def test_permanent_masks_are_taken_up_further() -> None:
    """L1 alone would choose the zeros again, as the smallest of all."""
    spec = {"method": "l1_unstructured", "amount": 0.5}
    plain = made_permanent(mask_model(Chain(), MaskSpec(**spec)))
    assert zeros(mask_model(plain, MaskSpec(**spec)))[1] == 0.5
    further = mask_model(plain, MaskSpec(**spec, further=True))
    assert zeros(further)[1] == 0.75
    kept = mask_model(mask_model(Chain(), MaskSpec(**spec)), MaskSpec(**spec))
    assert zeros(kept)[1] == zeros(further)[1]


def test_structured_masks_grow_too() -> None:
    spec = {"method": "ln_structured", "amount": 0.5}
    once = made_permanent(mask_model(Chain(), MaskSpec(**spec)))
    twice = mask_model(once, MaskSpec(**spec, further=True))
    dead = [one.dead_outputs for one in sparsity(twice).tensors if one.group == "conv"]
    assert dead == [6, 5, 3]  # of 8, 6, 4: half, then half of what is left (1.5 is 2)


def test_permanent_is_the_same_network() -> None:
    model = Chain()
    masked = mask_model(model, MaskSpec(method="l1_unstructured", amount=0.5, kind="both"))
    plain = made_permanent(masked)
    assert is_pruned(masked) and not is_pruned(plain) and not is_pruned(model)
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(p.requires_grad and p.is_leaf for p in plain.parameters())
    x = torch.rand(1, 3, 16, 16)
    for one in (masked, plain, model):
        one.eval()
    assert torch.equal(masked(x), plain(x)) and not torch.equal(plain(x), model(x))
    assert torch.equal(copy.deepcopy(plain)(x), plain(x))


def test_a_masked_network_that_learnt_is_still_copied() -> None:
    """After a forward pass with gradients torch refuses to copy the weight."""
    masked = mask_model(Chain(), MaskSpec(method="l1_unstructured", amount=0.5))
    optimizer = torch.optim.SGD(masked.parameters(), 0.1)
    masked(torch.rand(2, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    plain = made_permanent(masked)
    assert zeros(plain) == zeros(masked) == [0.5, 0.5, 0.5]
    mask = masked.b[0].weight_mask
    assert torch.equal(plain.b[0].weight, masked.b[0].weight_orig * mask)


def test_the_network_given_is_not_changed_and_random_numbers_are_left_alone() -> None:
    model = Chain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = mask_model(model, MaskSpec(method="random_structured", amount=0.5, seed=3))
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    again = mask_model(model, MaskSpec(method="random_structured", amount=0.5, seed=3))
    other = mask_model(model, MaskSpec(method="random_structured", amount=0.5, seed=4))
    assert torch.equal(first.b[0].weight, again.b[0].weight)
    assert not torch.equal(first.b[0].weight, other.b[0].weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wild_numbers_are_refused() -> None:
    model = Chain()
    model.out.weight.data[0] = float("nan")
    with pytest.raises(MeasureError, match="out.weight: 6 of 24 values are no finite numbers"):
        mask_model(model, MaskSpec(method="l1_unstructured", amount=0.5))


OWN = """
import torch
from torch.nn.utils.prune import BasePruningMethod

class Odd(BasePruningMethod):
    PRUNING_TYPE = "unstructured"
    def compute_mask(self, t, default_mask):
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask

class Share(Odd):
    def __init__(self, amount, dim): self.amount, self.dim = amount, dim
    def compute_mask(self, t, default_mask):
        mask = default_mask.clone()
        mask.view(-1)[: int(self.amount * mask.numel())] = 0
        return mask

class Half(Odd):
    def compute_mask(self, t, default_mask): return default_mask / 2

class Falls(Odd):
    def compute_mask(self, t, default_mask): raise KeyError("nothing here")

class Wants(Odd):
    def __init__(self, budget): self.budget = budget
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_masks.py").write_text(OWN)
    yield "my_masks"
    sys.modules.pop("my_masks", None)


def test_classes_of_the_users(own: str) -> None:
    masked = mask_model(Chain(), MaskSpec(method="custom", custom=f"{own}:Odd"))
    assert zeros(masked) == [0.5, 0.5, 0.5]
    masked = mask_model(Chain(), MaskSpec(method="custom", custom=f"{own}:Share", amount=0.25))
    assert zeros(masked) == [0.25, 0.25, 0.25]
    spec = MaskSpec(method="global_unstructured", custom=f"{own}:Share", amount=0.5)
    assert zeros(mask_model(Chain(), spec)) == [1.0, 120 / 432, 0.0]


@pytest.mark.parametrize(
    ("name", "amount", "message"),
    [
        ("Half", None, "--custom my_masks:Half: its mask of a.0 is not all zeros and ones"),
        ("Falls", None, "--custom my_masks:Falls: failed at a.0: KeyError: 'nothing here'"),
        ("Wants", None, "my_masks:Wants: its __init__ needs budget. Offered are amount, n and dim"),
        ("Share", None, "my_masks:Share: its __init__ needs amount. Give --amount"),
        ("Odd", 0.5, "--amount: is not for my_masks:Odd, which takes none"),
        ("torch", None, "--custom my_masks:torch: is no class derived from torch.nn.utils.prune"),
        ("None_", None, "--custom my_masks:None_: cannot be imported: AttributeError"),
    ],
)
def test_classes_that_are_none(own: str, name: str, amount: float | None, message: str) -> None:
    with pytest.raises(MaskError, match=message.replace("(", r"\(")):
        mask_model(Chain(), MaskSpec(method="custom", custom=f"{own}:{name}", amount=amount))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_masks_of_a_file(suffix: str, tmp_path: Path) -> None:
    """With and without torch's ending, in numbers and booleans; other layers stay whole."""
    file = tmp_path / f"masks{suffix}"
    stays = np.random.default_rng(0).random((6, 8, 3, 3)) < 0.7
    masks = {"b.0.weight_mask": stays.astype(np.float32), "out.weight": np.eye(4, 6)[..., None, None] == 1}  # noqa: E501  # fmt: skip
    (np.savez(file, **masks) if suffix == ".npz" else save_file(masks, file))
    model = Chain()
    masked = mask_model(model, MaskSpec(method="custom", mask=file))
    assert torch.equal(masked.b[0].weight, model.b[0].weight * torch.from_numpy(stays))
    assert zeros(masked)[::2] == [0.0, 20 / 24]
    assert set(masks_of(made_permanent(masked))) == {"b.0.weight", "out.weight"}


def test_files_that_are_none(tmp_path: Path) -> None:
    def fails(name: str, message: str, **masks: np.ndarray) -> None:
        if masks:
            np.savez(tmp_path / name, **masks)
        with pytest.raises(MaskError, match=message):
            mask_model(Chain(), MaskSpec(method="custom", mask=tmp_path / name))

    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    (tmp_path / "a.safetensors").write_bytes(b"broken")
    fails("a.pt", r"got .pt, which can run code when it is read, expected .npz or .safetensors")
    fails("a.npz", "a.npz: is damaged: File is not a zip file")
    fails("a.safetensors", "a.safetensors: is damaged")
    fails("none.npz", "none.npz: no such file")
    fails("b.npz", "c.weight: is no weight that is masked here, expected names such as a.0.weight",
          **{"c.weight": np.ones(3)})  # fmt: skip
    fails("c.npz", r"out.weight: got shape \[4, 6\], expected \[4, 6, 1, 1\]",
          **{"out.weight": np.ones((4, 6))})  # fmt: skip
    fails("d.npz", "out.weight: expected zeros and ones only",
          **{"out.weight": np.full((4, 6, 1, 1), 0.5)})  # fmt: skip
    fails("e.npz", "is damaged: Object arrays cannot be loaded",
          **{"out.weight": np.full((4, 6, 1, 1), None)})  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "l2"}, "--method: unknown, got 'l2', expected random_unstructured, l1_unstr"),
        ({"method": "l1_unstructured"}, "--amount: is missing, which --method l1_unstructured"),
        ({"method": "l1_unstructured", "amount": 0.0}, "--amount: got 0, expected a share"),
        ({"method": "l1_unstructured", "amount": 1.5}, "--amount: got 1.5, expected a share"),
        ({"method": "percentile", "amount": 3}, "--amount: got 3, expected a share between 0 and"),
        ({"method": "n_m", "amount": 0.5}, "--amount: is not for --method n_m"),
        ({"method": "n_m", "pattern": (4, 4)}, "--pattern: got 4:4, expected N:M with 1 <= N < M"),
        ({"method": "n_m", "kind": "bn"}, "--kind bn: is not for --method n_m"),
        ({"method": "ln_structured", "amount": 0.5, "kind": "both"}, "--kind both: is not for"),
        ({"method": "ln_structured", "amount": 0.5, "dim": 4}, "--dim: got 4, expected 0 to 3"),
        ({"method": "custom"}, "--method custom: needs either --mask FILE or --custom"),
        ({"method": "n_m", "custom": "a:B"}, "--custom: is not for --method n_m"),
    ],
)
def test_specs_that_are_none(given: dict[str, object], message: str) -> None:
    with pytest.raises(MaskError, match=message):
        MaskSpec(**given)  # type: ignore[arg-type]


def test_rounds_mask_more_of_what_is_left() -> None:
    spec = MaskSpec(method="random_unstructured", amount=0.5, seed=7)
    assert spec.in_round(3) == MaskSpec(
        method="random_unstructured", amount=0.5, seed=9, further=True
    )
    rounds = [MaskSpec(method="percentile", amount=0.5).in_round(i).amount for i in (1, 2, 3)]
    assert rounds == [0.5, 0.75, 0.875]
    with pytest.raises(MaskError, match="--rounds: masks of --method n_m do not grow by rounds"):
        MaskSpec(method="n_m").in_round(1)
    assert set(METHODS) >= {"ln_structured", "custom"}


def test_zeros_are_counted_by_tensor_layer_and_network() -> None:
    model = Chain()
    with torch.no_grad():
        model.b[0].weight.zero_()
        model.a[1].weight[:2] = 0
        model.a[1].bias.fill_(1)
        model.b[1].bias.fill_(1)
    found = sparsity(model)
    assert [one.zeros for one in found.tensors] == [0, 2, 0, 432, 0, 0, 0, 0]
    assert found.share() == 434 / sum(p.numel() for p in model.parameters())
    assert found.share("bn") == 2 / 14 and found.share("conv") == 432 / 672
    assert found.layers["a.1"] == 2 / 16 and found.layers["b.0"] == 1
    assert found.dead_layers == ("b.0",)
    assert found.tensors[3].dead_outputs == 6


def test_what_layers_share_counts_once() -> None:
    model = Chain()
    model.b.again = nn.Conv2d(8, 6, 3)
    model.b.again.weight = model.b[0].weight
    names = [(one.layer, one.name) for one in sparsity(model).tensors]
    assert ("b.0", "weight") in names and ("b.again", "weight") not in names
    masked = mask_model(model, MaskSpec(method="random_unstructured", amount=0.5))
    assert [(one.layer, one.name) for one in sparsity(masked).tensors] == names
