"""What every layer of the full network gives on some pictures, at some positions of its output."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.channels.trace import to_training
from yoloprune.measure.copies import device_of
from yoloprune.prune.interest import mass
from yoloprune.prune.lanes import Handful, crews, share_out
from yoloprune.prune.live import live_bytes
from yoloprune.prune.patches import is_batched, positions, spread, written
from yoloprune.prune.replay import Recorder

Key = tuple[int, str, int]
"""Number of a handful of pictures, path of a layer, and the number of its call in a pass."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a call of a layer should give at some positions of its output.

    Attributes:
        at: int64 ``[rows]``, the positions.
        values: float32 ``[rows, outputs]``.
        out_shape: of the whole output.
    """

    at: Tensor
    values: Tensor
    out_shape: tuple[int, ...]


class Targets:
    """One pass of the full network, kept as far as it is needed.

    Attributes:
        handfuls: the pictures, in parts that are passed one by one.
        crews: layer → the handfuls that are to come to it in turn, as far as memory has room for
            what their passes hold there; rows are taken from these alone.
        values: what was seen.
        norm_means: BatchNorm → its running mean.
        drift: as :class:`~yoloprune.prune.repair.RepairRecord` has it.
        training: whether the pass was one in training mode, with still BatchNorms.
        selected: whether only some outputs of the layers were kept.
    """

    def __init__(
        self,
        full: nn.Module,
        pictures: Tensor,
        layers: Iterable[str],
        norm_of: Mapping[str, str],
        *,
        outputs: Mapping[str, Tensor] | None = None,
        training: bool = False,
        held_out: float,
        rows: int,
        memory: int,
        seed: int,
        interest: Tensor | None = None,
    ) -> None:
        """Look.

        Args:
            full: the full network, float32, where it is to run.
            pictures: ``[N, C, H, W]``: float in 0 … 1, or uint8.
            layers: paths of those to look at.
            norm_of: layer → the BatchNorm behind it.
            outputs: layer → int64, the outputs to keep where not all are.
            training: see above.
            held_out: share of the pictures that choose strengths.
            rows: positions of each layer, over all pictures.
            memory: bytes that activations may take.
            seed: of the choice of positions.
            interest: where to look more closely, as :func:`yoloprune.prune.interest.find_interest`
                gives it; None looks evenly.
        """
        self.training, self.selected = training, outputs is not None
        self._device = device_of(full)
        self._norm_of, self._outputs, self._seed = norm_of, outputs or {}, seed
        modules = {path: full.get_submodule(path) for path in layers}
        self._means: dict[str, list[Tensor]] = defaultdict(list)
        self.values: dict[Key, Target] = {}
        self._interest = interest
        self._rows = rows
        with mode_of(full, training), torch.no_grad():
            live = live_bytes(full, self.input(pictures[:1]), modules)
            most = int(memory // (4 * max(live.pop(""), 1)))
            self.handfuls = share_out(pictures, held_out, most=most)
            size = max(len(handful.images) for handful in self.handfuls)
            room = [int(memory // (max(held, 1) * size)) for held in live.values()]
            self.crews = dict(zip(live, crews(room, len(self.handfuls)), strict=True))
            self._look(full, modules)
        norms = {
            norm_of[path]: full.get_submodule(norm_of[path]) for path in layers if path in norm_of
        }
        self.norm_means = {
            path: norm.running_mean.clone()
            for path, norm in norms.items()
            if isinstance(norm.running_mean, Tensor)
        }
        self.drift = self._drift(full)

    def input(self, images: Tensor) -> Tensor:
        """Pictures as the network takes them."""
        images = images.to(self._device)
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    def _look(self, full: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        handles = []
        handful = self.handfuls[0]
        for path, layer in modules.items():

            def keep(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                call = handful.calls[path]
                handful.calls[path] += 1
                if isinstance(output, Tensor) and is_batched(module, output.shape):
                    self._keep(handful, path, call, module, output)

            handles.append(layer.register_forward_hook(keep))
        try:
            for handful in self.handfuls:
                with Recorder(handful.choices):
                    full(self.input(handful.images))
        finally:
            for handle in handles:
                handle.remove()

    def _keep(
        self, handful: Handful, path: str, call: int, layer: nn.Module, output: Tensor
    ) -> None:
        crew = self.crews[path]
        if handful.index not in crew:
            return
        pictures = sum(len(self.handfuls[number].images) for number in crew)
        wanted = -(-self._rows // pictures) * len(handful.images)
        seed = zlib.crc32(f"{self._seed} {handful.index} {path} {call}".encode())
        at = spread(positions(layer, output.shape), wanted, seed, self._mass(handful, output))
        at = at.to(output.device)
        values = written(layer, output, at)
        if path in self._norm_of and not call and not self.training:
            self._means[path].append(output.float().mean([0, *range(2, output.ndim)]))
        chosen = self._outputs.get(path)
        if chosen is not None:
            values = values.index_select(1, chosen)
        self.values[handful.index, path, call] = Target(at, values, tuple(output.shape))

    def _mass(self, handful: Handful, output: Tensor) -> Tensor | None:
        """How often to look at each position of an output; None where that is all the same."""
        if self._interest is None or output.ndim != 4:
            return None
        return mass(self._interest[handful.numbers], output.shape[2:])

    def _drift(self, full: nn.Module) -> float | None:
        shifts = []
        for path, means in self._means.items():
            norm = full.get_submodule(self._norm_of[path])
            mean, var = norm.running_mean, norm.running_var
            assert isinstance(mean, Tensor) and isinstance(var, Tensor)
            seen = torch.stack(means).mean(0)
            shifts.append(((seen - mean).abs() / var.clamp_min(1e-12).sqrt()).cpu())
        return float(torch.cat(shifts).median()) if shifts else None


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """In training mode with still BatchNorms where that is the pass, else in evaluation."""
    model.eval()
    if training:
        to_training(model)
    try:
        yield
    finally:
        model.eval()
