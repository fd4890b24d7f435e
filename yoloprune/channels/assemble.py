"""From what a trace met to a :class:`~yoloprune.channels.graph.ChannelGraph`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from torch import nn

from yoloprune.channels.graph import (
    ChannelGraph,
    Flow,
    Group,
    IntArray,
    IntField,
    Product,
    TensorAxis,
)
from yoloprune.channels.ids import IdArray, line
from yoloprune.channels.sizes import Units
from yoloprune.channels.tracer import Axis, Tracer

WIDTHS = {"c1": "in", "c2": "out"}
"""Attributes that nothing reads while a model runs but that fusing may: input, output width."""


def assemble(
    tracer: Tracer,
    model: nn.Module,
    input_shape: tuple[int, ...],
    carried_outputs: tuple[int, ...],
) -> ChannelGraph:
    """Number the units, settle the sizes and write everything down.

    Args:
        tracer: after all its passes.
        model: the modules that were traced.
        input_shape: of the picture, ``(1, C, H, W)``.
        carried_outputs: see :class:`ChannelGraph`.
    """
    unreached = _unreached(tracer, model)
    bare, gates = _bare(tracer, model)
    _settle_parameters(tracer)
    order = {name: i for i, (name, _) in enumerate(_tensors(model))}
    ranked = sorted(tracer.axes, key=lambda found: (order[found[0]], found[1]))
    out_first = sorted(ranked, key=lambda found: tracer.axes[found].role != "out")
    units = Units(tracer.ids, (tracer.axes[found].ids for found in out_first))
    balances, sized = tracer.sizes.settle(units, tracer.ids.balances)
    axes = tuple(
        TensorAxis(tensor=name, dim=dim, units=units.of(axis.ids), role=axis.role)
        for name, dim in ranked
        for axis in (tracer.axes[name, dim],)
    )
    fields = {(f.module, f.attr, f.index): f for f in _own_fields(tracer, model, axes, units)}
    fields.update({(f.module, f.attr, f.index): f for f in sized})
    return ChannelGraph(
        n_units=units.n,
        frozen=dict(sorted(units.why.items())),
        axes=axes,
        fields=tuple(fields[name] for name in sorted(fields, key=_field_order)),
        balances=balances,
        groups=_groups(axes, units.n),
        norm_of=_norms(tracer),
        bare=bare,
        gates=gates,
        unreached=unreached,
        input_shape=tuple(int(n) for n in input_shape),
        carried_outputs=carried_outputs,
        products=tuple(
            Product(module=module, units=units.of(ids), macs=macs)
            for module, ids, macs in tracer.products
        ),
        flows=tuple(_flows(tracer, model, units)),
    )


def _flows(tracer: Tracer, model: nn.Module, units: Units) -> Iterator[Flow]:
    """Lines of channels through each module that the first pass called."""

    def lines(tensors: Iterable[IdArray]) -> tuple[IntArray, ...]:
        varying = ((ids, tracer.ids.varying(ids)) for ids in tensors)
        return tuple(units.of(line(ids, axes[0])) for ids, axes in varying if len(axes) == 1)

    for path, _ in model.named_modules():
        if path in tracer.flows:
            entered, left = tracer.flows[path]
            yield Flow(module=path, entered=lines(entered), left=lines(left))


def _field_order(found: tuple[str, str, int | None]) -> tuple[str, str, int]:
    module, attr, index = found
    return module, attr, -1 if index is None else index


def _tensors(model: nn.Module) -> Iterator[tuple[str, object]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


# --- parameters that no pass read


def _unreached(tracer: Tracer, model: nn.Module) -> tuple[str, ...]:
    """Name them, and freeze the channels that a pass not traced could feed them."""
    names = []
    for name, tensor in model.named_parameters():
        if not tensor.numel() or tensor.untyped_storage().data_ptr() in tracer.reached:
            continue
        names.append(name)
        owner = model.get_submodule(name.rpartition(".")[0])
        # The bias of a layer with a weight matrix is as wide as what it writes.
        written = name.endswith(".bias") and getattr(getattr(owner, "weight", None), "ndim", 1) > 1
        fed_inside = _fed_inside(tracer, model, name.rpartition(".")[0])
        if isinstance(owner, nn.Embedding) or written or fed_inside:
            continue
        widths = {int(tensor.shape[1]) if tensor.dim() > 1 else int(tensor.shape[0])}
        path = name
        while path:
            path = path.rpartition(".")[0]
            if path in tracer.entered:
                _freeze_width(tracer, tracer.entered[path], widths, name)
                if not path:  # of the model itself: it may read whatever a module gives
                    left = [ids for found in tracer.left.values() for ids in found]
                    _freeze_width(tracer, left, widths, name)
                break
    return tuple(names)


def _fed_inside(tracer: Tracer, model: nn.Module, path: str) -> bool:
    """Whether a layer that no pass reached reads another such layer of its ``nn.Sequential``."""
    # Not beyond the block that did run: the list of all layers of a model is a Sequential too.
    while path and path not in tracer.entered:
        parent, _, name = path.rpartition(".")
        whole = model.get_submodule(parent)
        if isinstance(whole, nn.Sequential) and parent not in tracer.entered:
            for earlier, layer in whole.named_children():
                if earlier == name:
                    break
                if next(layer.parameters(), None) is not None:
                    return True
        path = parent
    return False


def _freeze_width(tracer: Tracer, given: list[IdArray], widths: set[int], name: str) -> None:
    for ids in given:
        for axis in tracer.ids.varying(ids):
            if ids.shape[axis] in widths:
                tracer.ids.freeze(np.unique(ids), f"{name} may read them, but no pass reached it")


def _settle_parameters(tracer: Tracer) -> None:
    """Find the one axis of each parameter that met channels element by element."""
    for (name, dim), axis in list(tracer.axes.items()):
        if dim != -1:
            continue
        del tracer.axes[name, dim]
        varying = tracer.ids.varying(axis.ids)
        if len(varying) != 1:
            tracer.ids.freeze(np.unique(axis.ids), f"{name} has no single axis of channels")
            continue
        found = line(axis.ids, varying[0])
        tracer.ids.unify(
            axis.ids, np.broadcast_to(_spread(found, varying[0], axis), axis.ids.shape)
        )
        known = tracer.axes.get((name, varying[0]))
        if known is None:
            tracer.axes[name, varying[0]] = Axis(found, "affine")
        else:
            tracer.ids.unify(known.ids, found)


def _spread(found: IdArray, dim: int, axis: Axis) -> IdArray:
    return found.reshape([-1 if i == dim else 1 for i in range(axis.ids.ndim)])


# --- integer attributes


def _own_fields(
    tracer: Tracer, model: nn.Module, axes: Iterable[TensorAxis], units: Units
) -> Iterator[IntField]:
    """Attributes of torch's own layers, which their forward pass does not read."""
    for axis in axes:
        module = model.get_submodule(axis.module)
        leaf = axis.tensor.rpartition(".")[2]
        if leaf == "weight":
            names = _names_of(axis, axis.module in tracer.depthwise)
            for name in names:
                if isinstance(getattr(module, name, None), int):
                    found = _field_units(axis, module, name)
                    yield IntField(module=axis.module, attr=name, units=found)
    yield from _unread_widths(tracer, model, units)
    yield from _instance_norms(tracer, model, units)


def _names_of(axis: TensorAxis, depthwise: bool) -> tuple[str, ...]:
    if depthwise:
        return ("in_channels", "out_channels", "groups")
    if axis.role == "out":
        return ("out_channels", "out_features")
    if axis.role == "in":
        return ("in_channels", "in_features")
    return ("num_features", "num_parameters")


def _field_units(axis: TensorAxis, module: nn.Module, name: str) -> IntArray:
    whole = axis.units.ravel()
    if name in ("in_channels", "groups"):
        # A depthwise layer with several kernels a channel reads each channel once.
        return whole[:: max(1, whole.size // int(getattr(module, name)))]
    return whole


def _unread_widths(tracer: Tracer, model: nn.Module, units: Units) -> Iterator[IntField]:
    read = {
        source
        for equation in tracer.sizes.equations
        for monomial in equation.terms
        for source, _ in monomial
    } | tracer.sizes.rigid
    for attr, value in tracer.sizes.values.items():
        side = WIDTHS.get(attr.name)
        if side is None or attr in read or attr.index is not None:
            continue
        passed = (tracer.entered if side == "in" else tracer.left).get(attr.module, [])
        if len(passed) == 1 and passed[0].ndim == 4 and passed[0].shape[1] == value:
            found = units.of(line(passed[0], 1))
            if (found >= 0).all():
                yield IntField(module=attr.module, attr=attr.name, units=found)


def _instance_norms(tracer: Tracer, model: nn.Module, units: Units) -> Iterator[IntField]:
    """Widths of norms without a scale, which warn of other ones and need none."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.weight is None:
            passed = tracer.entered.get(path, [])
            if len(passed) == 1 and passed[0].ndim > 2 and tracer.ids.varies(passed[0], 1):
                found = units.of(line(passed[0], 1))
                if found.size == module.num_features and (found >= 0).all():
                    yield IntField(module=path, attr="num_features", units=found)


# --- groups and norms


def _groups(axes: Iterable[TensorAxis], n_units: int) -> tuple[Group, ...]:
    """Units by the set of tensor axes that they stand in."""
    signature = np.zeros(n_units, dtype=np.uint64)
    generator = np.random.Generator(np.random.PCG64(0))
    layers: defaultdict[int, list[str]] = defaultdict(list)
    listed = [(axis, np.unique(axis.units)) for axis in axes]
    for _, present in listed:
        signature[present] += generator.integers(1, 2**63, dtype=np.uint64)
    _, first, number = np.unique(signature, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    number = rank[number]
    for axis, present in listed:
        if axis.role == "out":
            for group in np.unique(number[present]):
                layers[int(group)].append(axis.module)
    order = np.argsort(number, kind="stable")
    edges = np.cumsum(np.bincount(number, minlength=rank.size))[:-1]
    return tuple(
        Group(index=i, units=members.astype(np.int64), layers=tuple(layers[i]))
        for i, members in enumerate(np.split(order, edges))
        if members.size
    )


def _norms(tracer: Tracer) -> dict[str, str]:
    """Layers whose output one BatchNorm, and nothing else, reads in every pass."""
    found: defaultdict[str, set[str | None]] = defaultdict(set)
    for reads in tracer.reads:
        for where, producer in reads.made_by.items():
            alone = reads.count[where] == 1
            found[producer].add(reads.normed.get(where) if alone else None)
    single = {producer: norms for producer, norms in found.items() if len(norms) == 1}
    named = {p: norm for p, norms in single.items() for norm in norms if norm is not None}
    uses = Counter(named.values())
    return {producer: norm for producer, norm in named.items() if uses[norm] == 1}


def _bare(tracer: Tracer, model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers of which some channel, as it left them, met no BatchNorm.

    Ids tell it, since sums and joins keep them: what was added to a normed channel still has the
    id that its own layer gave it.

    Returns:
        Those layers, and apart from them gates: what they give is only ever multiplied by normed
        channels, and comes to nothing where those are zero.
    """
    scaled: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for dim in (-1, 0):
                axis = tracer.axes.get((f"{name}.weight", dim))
                if axis is not None:
                    scaled |= set(axis.ids.ravel().tolist())
    gates: set[int] = set()
    for sides in tracer.gates:
        for gate, other in (sides, sides[::-1]):
            if other & scaled and not gate & (scaled | tracer.added):
                gates |= gate
    bare: tuple[list[str], list[str]] = [], []
    for (name, _), axis in tracer.axes.items():
        left = set(axis.ids.ravel().tolist()) - scaled
        if axis.role == "out" and left:
            bare[left <= gates].append(name.rpartition(".")[0])
    return tuple(bare[0]), tuple(bare[1])
