"""Watch a model run, and find out which of its channels live or die together.

There is no rule for any model class here. One real forward pass is watched operation by
operation, in evaluation and in training mode (BatchNorm with its running statistics in both),
and the passes share one set of channel ids.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from yoloprune.channels import composites  # noqa: F401  (enters its handlers)
from yoloprune.channels.assemble import assemble
from yoloprune.channels.copying import copy_modules
from yoloprune.channels.functions import intercept
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.ids import IdArray
from yoloprune.channels.opaque import Opaque
from yoloprune.channels.provenance import Attr, TracedInt
from yoloprune.channels.rules import follow
from yoloprune.channels.shadow import compact, key
from yoloprune.channels.table import tensors_in
from yoloprune.channels.threads import one_thread
from yoloprune.channels.tracer import Tracer
from yoloprune.errors import TraceError
from yoloprune.progress import stage

log = logging.getLogger(__name__)

SIZES = (64, 128, 192, 256, 320, 640)
"""Picture sides that are tried in turn: some heads need more positions than the smallest has."""


FROZEN_NORMS = ("FrozenBatchNorm2d",)
"""Classes that compute from buffers what a BatchNorm does in evaluation, by name: torchvision's,
Detectron2's and DETR's trained backbones have them. Their channels are followed like any others;
but a constant that is added before one belongs in its running mean, which no operation tells."""


def trace(
    model: nn.Module, example: Tensor | None = None, *, imgsz: int | None = None
) -> ChannelGraph:
    """Find the channel dependencies of a model.

    Args:
        model: any module that takes one batch. It is not changed.
        example: the batch, ``[1, C, H, W]`` or ``[1, ...]``; made up where it is not given.
        imgsz: side of the made-up picture in pixels; without it the smallest of
            :data:`SIZES` that the model accepts.

    Returns:
        The graph. Units are numbered in the order of the layers that create them.

    Raises:
        TraceError: the model cannot be copied, or its forward pass fails.
    """
    if example is not None and not (isinstance(example, Tensor) and example.is_floating_point()):
        got = example.dtype if isinstance(example, Tensor) else type(example).__name__
        raise TraceError(
            f"example: got {got}, expected one tensor of floating-point numbers. Wrap a network "
            "that takes others in a module that takes one."
        )
    refuse_untraceable(model)
    sides = SIZES if imgsz is None else (imgsz,)
    trouble: TraceError | None = None
    for given in (picture(model, side) for side in sides) if example is None else (example,):
        try:
            with stage("tracing"):
                return _traced(model, given)
        except TraceError as exc:
            log.debug("a picture of shape %s does not fit: %s", tuple(given.shape), exc)
            trouble = trouble or exc
    assert trouble is not None
    raise trouble


def refuse_untraceable(model: nn.Module) -> None:
    """Say of networks whose modules cannot be watched, or have no weights yet, what to give.

    Raises:
        TraceError: it is one.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TraceError(
            f"{type(model).__name__}: is TorchScript, whose modules cannot be changed. Give the "
            "nn.Module that it was made from."
        )
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise TraceError(
            f"{type(model).__name__}: has lazy layers without weights. Run it once on a batch "
            "first."
        )


def _traced(model: nn.Module, example: Tensor) -> ChannelGraph:
    held: frozenset[Attr] = frozenset()
    while True:
        skeleton = _skeleton(model)
        tracer, carried = _watch(skeleton, example, held)
        rigid = tracer.sizes.rigid_in_use() - held
        if not rigid:
            return assemble(tracer, skeleton, tuple(example.shape), carried)
        # Their value enters the arithmetic: trace again, letting other axes shrink.
        held |= rigid


def picture(model: nn.Module, side: int) -> Tensor:
    """A random picture ``[1, C, side, side]`` of the type, place and channels the model wants."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return random_input(model, (1, 3 if first is None else first.in_channels, side, side))


def random_input(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """Numbers in 0 … 1 of a shape, of the model's type and in its place; always the same."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(1))
    made = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    return made.to(device=weight.device, dtype=weight.dtype)


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares the parameters; its caches and buffers are its own."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    try:
        return copy_modules(model, memo)
    except Exception as exc:  # deepcopy runs foreign code
        raise TraceError(f"{type(model).__name__}: cannot be copied, got {exc}.") from exc


def _watch(
    skeleton: nn.Module, example: Tensor, held: Iterable[Attr]
) -> tuple[Tracer, tuple[int, ...]]:
    """Run both passes; the tracer, and which outputs are only handed on."""
    tracer = Tracer(skeleton, held)
    hooks = _Hooks(tracer, skeleton)
    _plant(tracer, skeleton)
    skeleton.eval()
    try:
        output = _run(tracer, skeleton, example)
    except TraceError:
        raise
    except Exception as exc:  # whatever a foreign forward pass raises
        raise TraceError(
            f"{tracer.where}: the forward pass fails while it is traced, got {exc!r}."
        ) from exc
    carried = _freeze_outputs(tracer, hooks, output)
    tracer.note_flows()
    to_training(skeleton)
    try:
        output = _run(tracer, skeleton, example)
    except Exception as exc:
        log.info("%s: not traced in training mode (%s)", type(skeleton).__name__, exc)
    else:
        _freeze_outputs(tracer, hooks, output)
    return tracer, carried


def _run(tracer: Tracer, skeleton: nn.Module, example: Tensor) -> Any:
    tracer.begin_pass()
    # An example of its own, so that a model that writes to its input does no harm.
    with torch.inference_mode(False), torch.no_grad():
        given = example.clone()
        with one_thread(), _Operations(tracer), _Calls(tracer):
            return skeleton(given)


def _freeze_outputs(tracer: Tracer, hooks: _Hooks, output: Any) -> tuple[int, ...]:
    """Results keep their channels; inputs that a head hands on beside them may lose some."""
    carried = []
    tracer.place = []
    results = tensors_in(output)
    if not results:
        raise TraceError(f"the model: its output holds no tensor, got {type(output).__name__}.")
    for i, tensor in enumerate(results):
        if _sight(tensor) in hooks.carried:
            carried.append(i)
            continue
        ids = tracer.get(tensor)
        if ids is not None:
            tracer.ids.freeze(ids, "output of the model", tell=True)
    hooks.carried.clear()
    return tuple(carried)


def to_training(skeleton: nn.Module) -> None:
    """Training mode for composite modules; layers of torch itself (BatchNorm) stay in eval.

    The other way through a block that exporters swap in is taken here too.
    """
    for module in skeleton.modules():
        if not _of_torch(module):
            module.training = True
            other = getattr(module, "forward_split", None)
            if callable(other):
                module.forward = other


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a layer of torch, whose checks of sizes are not the model's."""
    return _of_torch(module) and not any(True for _ in module.children())


def _plant(tracer: Tracer, skeleton: nn.Module) -> None:
    """Make every integer attribute of a composite module remember its place."""
    for path, module in skeleton.named_modules():
        if _of_torch(module):
            continue
        for name, value in list(vars(module).items()):
            if not name.startswith("_") and name != "training":
                vars(module)[name] = _planted(tracer, path, name, value)


def _planted(tracer: Tracer, path: str, name: str, value: Any) -> Any:
    if type(value) is int:
        return _remember(tracer, Attr(path, name), value)
    if type(value) in (list, tuple) and value and all(type(v) is int for v in value):
        made = [_remember(tracer, Attr(path, name, i), v) for i, v in enumerate(value)]
        return type(value)(made)
    return value


def _remember(tracer: Tracer, attr: Attr, value: int) -> TracedInt:
    tracer.sizes.values[attr] = value
    return TracedInt.of(value, attr, tracer)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every ATen operation."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here; True would import all of torch's compiler (1 s of CPU time).
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._tracer.quiet:
            self._tracer.touch(tensors_in(args))
            follow(self._tracer, func, args, out)
        return out


class _Calls(TorchFunctionMode):
    """Sees calls of the torch API before they are taken apart."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._tracer.judging += 1
        try:
            return intercept(self._tracer, func, args, kwargs or {})
        finally:
            self._tracer.judging -= 1


HANDING_ON = ("ultralytics.nn.modules.head",)
"""Where classes of heads are defined that return their inputs beside results, for losses only."""


class _Hooks:
    """Keeps the tracer informed of where in the model it is, and what enters each module.

    Attributes:
        carried: tensors that a head returned beside its results just as it got them, by
            what :func:`_sight` sees of them. They are kept alive, so that it means one tensor.
    """

    def __init__(self, tracer: Tracer, skeleton: nn.Module) -> None:
        self.carried: dict[tuple[Any, ...], Tensor] = {}
        self._given: list[set[tuple[Any, ...]]] = []
        self._read: list[Opaque | None] = []
        self._tracer = tracer
        for path, module in skeleton.named_modules():
            module.register_forward_pre_hook(self._entering(path), with_kwargs=True)
            module.register_forward_hook(self._leaving(path), with_kwargs=True)

    def _entering(self, path: str) -> Any:
        tracer = self._tracer

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            tracer.place.append(path)
            given = tensors_in((args, kwargs))
            tracer.judging += 1
            with torch._C.DisableTorchFunction():
                tracer.entered[path] = list(_ids(tracer, given))
                self._given.append({_sight(tensor) for tensor in given})
                self._read.append(Opaque.enter(tracer, module, given))
                if type(module).__name__ in FROZEN_NORMS:
                    tracer.frozen_norm(path, given)
            if not _is_layer(module):
                tracer.judging -= 1

        return enter

    def _leaving(self, path: str) -> Any:
        tracer = self._tracer

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tracer.place.pop()
            results = tensors_in(output)
            given = self._given.pop()
            opaque = self._read.pop()
            if not _is_layer(module):
                tracer.judging += 1
            with torch._C.DisableTorchFunction():
                if opaque is not None:
                    opaque.leave(tracer, results)
                tracer.left[path] = list(_ids(tracer, results))
                if _hands_on(module) and not isinstance(output, Tensor):
                    same = {_sight(t): t for t in results if _sight(t) in given}
                    if len(same) < len({key(t) for t in results}):
                        self.carried.update(same)
            tracer.judging -= 1

        return leave


def _hands_on(module: nn.Module) -> bool:
    return any(kind.__module__.startswith(HANDING_ON) for kind in type(module).__mro__)


def _sight(tensor: Tensor) -> tuple[Any, ...]:
    """What tells a tensor from others while it is alive, and whether it was written to."""
    shape = tuple(tensor.shape)
    return tensor.data_ptr(), shape, tensor.stride(), tensor._version


def _ids(tracer: Tracer, tensors: Iterable[Tensor]) -> Iterator[IdArray]:
    for tensor in tensors:
        ids = tracer.get(tensor)
        if ids is not None:
            yield compact(ids)
