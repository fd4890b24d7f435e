"""How much of a network's output each part costs in 8 bits, measured alone, in torch.

What every runtime does is imitated: a layer's weights take 255 steps an output channel, what it
reads takes 256 steps between the least and the largest value seen on calibration pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.models.difference import difference
from yoloprune.models.net_graph import within

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_LEAST = 1e-12


def group_errors(
    model: nn.Module,
    groups: Sequence[str],
    pictures: Tensor,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Error of the outputs where one group alone is in 8 bits.

    Args:
        model: a detector in evaluation mode. Not modified.
        groups: paths of modules.
        pictures: float ``[N, C, H, W]`` in 0 … 1.
        advance: told after each group how many are done, and of how many.

    Returns:
        Group → :func:`output_error`.
    """
    runner = copy.deepcopy(model).cpu().float().eval()
    layers: dict[str, nn.Module] = {
        path: m for path, m in runner.named_modules() if isinstance(m, _LAYERS)
    }
    with torch.inference_mode():
        with _ranges(layers) as ranges:
            expected = first_tensor(runner(pictures))
        found = {}
        for done, group in enumerate(groups, 1):
            inside = {path: m for path, m in layers.items() if within(path, [group])}
            with _in_8_bits(inside, ranges):
                found[group] = output_error(expected, first_tensor(runner(pictures)))
            advance(done, len(groups))
    return found


def first_tensor(output: Any) -> Tensor:
    """What a model tells of a picture, without what only training needs."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    found: Tensor = output
    return found


def output_error(expected: Tensor, found: Tensor) -> float:
    """How far detections are from those of the full network, as a share.

    Of candidates ``[B, 4 + nc, N]``: mean shift of a box as a share of its size, weighted by its
    score, and the length of what scores differ by, beside that of the scores. Candidates that the
    full network holds for nothing weigh nothing. Of anything else: the largest difference.

    Args:
        expected: of the full network.
        found: of the one that is judged; of the same shape.
    """
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    if expected.ndim != 3 or expected.shape[1] < 5 or expected.shape[2] <= expected.shape[1]:
        return difference([expected.numpy()], [found.numpy()])
    scores, made = expected[:, 4:], found[:, 4:]
    apart = float((made - scores).norm() / scores.norm().clamp(min=_LEAST))
    weight = scores.amax(1)
    shift = (found[:, :4] - expected[:, :4]).abs().mean(1) / expected[:, 2:4].mean(1).clamp(min=1)
    return apart + float((weight * shift).sum() / weight.sum().clamp(min=_LEAST))


@contextmanager
def _ranges(layers: dict[str, nn.Module]) -> Iterator[dict[str, tuple[float, float]]]:
    """Least and largest value that each layer reads, while the block lasts; 0 is always among."""
    found: dict[str, tuple[float, float]] = {}

    def watch(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            low, high = (float(v) for v in args[0].aminmax())
            before = found.get(path, (0.0, 0.0))
            found[path] = min(before[0], low), max(before[1], high)

        return note

    with _hooked((m, watch(path)) for path, m in layers.items()):
        yield found


@contextmanager
def _in_8_bits(
    layers: dict[str, nn.Module], ranges: dict[str, tuple[float, float]]
) -> Iterator[None]:
    def rounded(path: str) -> Callable[..., tuple[Tensor, ...]]:
        low, high = ranges.get(path, (0.0, 0.0))
        step = max(high - low, _LEAST) / 255

        def enter(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            zero = round(-low / step)
            steps = (args[0] / step).round().add(zero).clamp(0, 255).sub(zero)
            return (steps * step, *args[1:])

        return enter

    before = {path: m.weight for path, m in layers.items()}
    try:
        for m in layers.values():
            m.weight = nn.Parameter(_weights(m), requires_grad=False)
        with _hooked((m, rounded(path)) for path, m in layers.items()):
            yield
    finally:
        for path, m in layers.items():
            m.weight = before[path]


def _weights(module: nn.Module) -> Tensor:
    """Weights of a layer in 255 steps an output channel, symmetric around 0."""
    weight: Any = module.weight
    output = int(isinstance(module, nn.ConvTranspose2d))
    others = [axis for axis in range(weight.ndim) if axis != output]
    step = weight.abs().amax(others, keepdim=True).clamp(min=_LEAST) / 127
    rounded: Tensor = (weight / step).round() * step
    return rounded


@contextmanager
def _hooked(hooks: Any) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
