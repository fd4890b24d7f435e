"""What each operation costs in multiply-adds, and a watcher that adds them up by module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yoloprune.channels.table import is_pointwise
from yoloprune.channels.threads import one_thread

Shape = tuple[int, ...]
MacRule = Callable[[tuple[Any, ...], Any], int]
MAC_RULES: dict[str, MacRule] = {}

# At most one operation an element and no product with parameters: nothing, by convention.
# Reductions and views are told by torch's own tags, pointwise operations by tag or name.
_FREE_NAMES = """
    _adaptive_avg_pool2d _local_scalar_dense _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _softmax _to_copy _unsafe_index _unsafe_view
    _upsample_nearest_exact2d adaptive_max_pool2d arange argsort avg_pool2d batch_norm cat
    constant_pad_nd copy_ cudnn_batch_norm cumsum empty empty_like empty_strided fill_ flip full
    full_like gather grid_sampler_2d index index_put_ index_select linspace max
    max_pool2d_with_indices min native_batch_norm native_dropout native_group_norm
    native_layer_norm new_empty new_full new_ones new_zeros nonzero ones ones_like pixel_shuffle
    pixel_unshuffle promote_types rand rand_like randn reflection_pad2d repeat replication_pad2d
    roll scalar_tensor scatter sort stack topk upsample_bicubic2d upsample_bilinear2d
    upsample_nearest2d zero_ zeros zeros_like
"""
FREE_OPS = frozenset(f"aten::{name}" for name in _FREE_NAMES.split())
_FREE_TAGS = {torch.Tag.reduction, torch.Tag.view_copy}


def is_free(func: Any) -> bool:
    """Whether an operation costs nothing, by convention."""
    named = func.is_view or func._schema.name in FREE_OPS
    return named or is_pointwise(func) or bool(_FREE_TAGS.intersection(func.tags))


def mac_rule(*names: str) -> Callable[[MacRule], MacRule]:
    """Enter a rule into the table, under names such as ``aten::mm``."""

    def enter(rule: MacRule) -> MacRule:
        for name in names:
            if name in MAC_RULES or name in FREE_OPS:
                raise ValueError(f"{name} has a rule already")
            MAC_RULES[name] = rule
        return rule

    return enter


@mac_rule("aten::convolution", "aten::_convolution")
def _convolution(args: tuple[Any, ...], result: Any) -> int:
    """Each output (transposed: each input) element meets one filter of the weight."""
    image, weight, transposed = args[0], args[1], args[6]
    elements = image.numel() if transposed else result.numel()
    return int(elements * math.prod(weight.shape[1:]))


@mac_rule("aten::mm", "aten::bmm")
def _product(args: tuple[Any, ...], result: Any) -> int:
    return int(result.numel() * args[0].shape[-1])


@mac_rule("aten::addmm", "aten::baddbmm")
def _added_product(args: tuple[Any, ...], result: Any) -> int:
    return int(result.numel() * args[1].shape[-1])


@mac_rule("aten::mv", "aten::dot")
def _vector_product(args: tuple[Any, ...], result: Any) -> int:
    return int(args[0].numel())


@mac_rule(
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_attention_math",
)
def _attention(args: tuple[Any, ...], result: Any) -> int:
    """``Q·Kᵀ`` and its product with ``V``, of ``[..., L, D]`` tensors."""
    query, key, value = args[:3]
    pairs = query.shape[:-1].numel() * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


# Those whose values nobody needs for a count: only the shape of the result is made.
_SHAPE_ONLY = {"aten::convolution", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}
_SHAPE_ONLY |= {"aten::mish", "aten::silu"}


class MacTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of a forward pass and the module that it serves.

    Attributes:
        macs: path of a module → multiply-adds of its own.
        unknown: operation → calls, of those that are neither in ``MAC_RULES`` nor free.
        shapes: path of a module → shapes of its first tensor argument and result.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.shapes: dict[str, tuple[Shape | None, Shape | None]] = {}
        self._stack = [""]

    def watch(self, model: nn.Module, image: torch.Tensor) -> None:
        """Run a forward pass and count it. Heavy products return zeros of the right shape."""
        hooks = []
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(self._enter(name)))
            hooks.append(module.register_forward_hook(self._leave(name), with_kwargs=True))
        try:
            # Not inference_mode: there linear and matmul would arrive undivided.
            with one_thread(), torch.no_grad(), self:
                model(image)
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._stack.append(name)

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self._stack.pop()
            given = args or tuple(kwargs.values())
            self.shapes[name] = (_first_shape(given), _first_shape(result))

        return hook

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Carry out one operation, or only shape its result, and count it."""
        kwargs = kwargs or {}
        name = func._schema.name
        if name in _SHAPE_ONLY:
            meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in args]
            shape = func(*meta, **kwargs).shape
            result = next(a for a in args if isinstance(a, torch.Tensor)).new_zeros(shape)
        else:
            result = func(*args, **kwargs)
        rule = MAC_RULES.get(name)
        if rule is not None:
            self.macs[self._stack[-1]] += rule(args, result)
        elif not is_free(func):
            self.unknown[str(func)] += 1
        return result


def _first_shape(values: Any) -> Shape | None:
    while isinstance(values, (tuple, list)) and values:
        values = values[0]
    return tuple(values.shape) if isinstance(values, torch.Tensor) else None
