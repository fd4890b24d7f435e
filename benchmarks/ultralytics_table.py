"""Every model description that Ultralytics ships: traced, 40 % of its units cut, and compared.

The list is read from the installed package; each is built at its smallest scale with random
weights, and its BatchNorms are given random scales and shifts and the statistics of random
pictures, so that the signal reaches every output as in a trained model. Rows are written as
they come; a second run goes on with what is missing.

Columns that say whether the cut is right:

* ``lossless``: float64, the cut model against the full one in which the removed units are
  silenced, largest difference of any output relative to that output's scale;
* ``control``: the cut model against the full one as it is. Decoded boxes and sigmoids of a
  random model saturate and hide a difference, so it is read off the raw tensors of the heads in
  training mode, each relative to its spread. It shows that the removed units mattered;
* ``control_other``: as ``lossless``, but with other units silenced: what a wrong cut looks like.

    python benchmarks/ultralytics_table.py
    python benchmarks/ultralytics_table.py --only yolo26 --fresh
"""

from __future__ import annotations

import argparse
import csv
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.channels.table import tensors_in
from yoloprune.errors import CutError
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, self_test
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores
from yoloprune.prune.selftest import relative_difference, silenced

ROOT = Path(__file__).parent.parent
SHARE = 0.4
FIELDS = (
    "yaml", "task", "params", "trace_ok", "trace_cpu_s", "channels", "prunable",
    "prunable_with_depthwise", "frozen", "unreached", "params_cut", "lossless", "control",
    "control_other", "train_ok", "note",
)  # fmt: skip


def every_yaml() -> list[str]:
    """Names of all model descriptions of the installed Ultralytics."""
    import ultralytics

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    return sorted(path.name for path in folder.rglob("*.yaml"))


def build(yaml: str, seed: int = 0) -> tuple[nn.Module, str]:
    """A stock model at its smallest scale, with random weights; and its task."""
    import torchvision
    from ultralytics.nn import tasks
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    config = YAML.load(check_yaml(yaml))
    if "scales" in config:
        config["scale"] = "n" if "n" in config["scales"] else next(iter(config["scales"]))
    task = str(tasks.guess_model_task(config))
    kinds = {
        "classify": tasks.ClassificationModel,
        "segment": tasks.SegmentationModel,
        "pose": tasks.PoseModel,
        "obb": tasks.OBBModel,
        "depth": getattr(tasks, "DepthModel", None),
        "semantic": getattr(tasks, "SemanticSegmentationModel", None),
    }
    kind: Any = kinds.get(task) or tasks.DetectionModel
    if "rtdetr" in yaml:
        kind = tasks.RTDETRDetectionModel
    elif "world" in yaml:
        kind = tasks.WorldModel
    elif "yoloe" in yaml:
        kind = tasks.YOLOESegModel if "seg" in yaml else tasks.YOLOEModel
    torch.manual_seed(seed)
    plain = torchvision.models.get_model

    def without_download(name: str, **options: Any) -> nn.Module:
        made: nn.Module = plain(name, **{**options, "weights": None})
        return made

    # A backbone of torchvision comes with random weights too: nothing is downloaded.
    with mock.patch.object(torchvision.models, "get_model", without_download):
        model: nn.Module = kind(config, verbose=False)
    return awake(model, seed), "detect" if "rtdetr" in yaml else task


def awake(model: nn.Module, seed: int = 0, pictures: Tensor | None = None) -> nn.Module:
    """Give BatchNorms random scales and shifts, and the statistics of pictures: noise, or these."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(-1, 1, generator=generator)
        for _ in _modes(model):
            for norm in norms:
                norm.train()
                norm.momentum = 1.0
            noise = torch.rand(8, _channels(model), 128, 128, generator=generator)
            _try(model, noise if pictures is None else pictures)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def _channels(model: nn.Module) -> int:
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def _modes(model: nn.Module) -> Iterator[None]:
    """Training mode of what torch did not write (raw outputs), then evaluation."""
    for training in (True, False):
        _set_mode(model, training)
        yield


def _set_mode(model: nn.Module, training: bool) -> nn.Module:
    model.eval()
    for module in model.modules():
        if not type(module).__module__.startswith("torch.nn."):
            module.training = training
    return model


def _try(model: nn.Module, given: Tensor) -> Any:
    try:
        return model(given)
    except Exception as exc:  # whatever a foreign forward pass raises
        return exc


def random_choice(graph: ChannelGraph, seed: int = 0, share: float = SHARE) -> IntArray:
    """Units to remove, drawn by the planner from random scores, floors of one channel."""
    values = np.random.default_rng(seed).random(graph.n_units)
    budget = Budget(percent=share, min_channels=1, max_layer_prune=1.0)
    return Planner(graph).choose(Scores(values=values, criterion="random"), budget)


def prunable_share(graph: ChannelGraph, model: nn.Module, *, depthwise: bool) -> float:
    """Share of output channels that may go; with or without those of depthwise layers."""
    free = graph.prunable
    axes = list(graph.out_axes)
    if depthwise:
        axes += [
            axis
            for axis in graph.axes
            if axis.role == "affine"
            and isinstance(model.get_submodule(axis.module), nn.modules.conv._ConvNd)
            and axis.tensor.endswith(".weight")
        ]
    units = np.concatenate([axis.units.ravel() for axis in axes])
    return float(free[units].mean())


def frozen_reasons(graph: ChannelGraph) -> str:
    """Output channels that stay, by reason: ``output of the model 144; …``."""
    count: Counter[str] = Counter()
    channels = graph.channels
    for unit, why in graph.frozen.items():
        # Repeated blocks (layers.0, layers.1 …) tell one reason.
        told = re.sub(r"\b\d+\.", "*.", why.partition(" in ")[0])
        count[told] += int(channels[unit])
    return "; ".join(f"{why} {n}" for why, n in count.most_common() if n)


def unreached(graph: ChannelGraph) -> str:
    """How many parameters no pass read, by the part of the model that they stand in."""
    count = Counter(".".join(name.split(".")[:3]) for name in graph.unreached)
    return "; ".join(f"{part} {n}" for part, n in count.items())


def raw_difference(model: nn.Module, slim: nn.Module, given: Tensor) -> float:
    """Largest difference of the heads' raw tensors, each relative to its spread."""
    worst = 0.0
    with torch.no_grad():
        outputs = [tensors_in(_set_mode(m, True)(given.clone())) for m in (model, slim)]
    for a, b in zip(*outputs, strict=True):
        # What a head hands on beside its results has lost channels.
        if a.shape == b.shape and a.is_floating_point() and a.numel() > 1:
            spread = float(a.std())
            worst = max(worst, float((a - b).abs().max()) / max(spread, 1e-12))
    model.eval(), slim.eval()
    return worst


def trains(slim: nn.Module, full: nn.Module, given: Tensor) -> str:
    """``yes``, or what is wrong with a forward and backward pass in training mode."""
    reached = []
    for model in (full, slim):
        model.train()
        try:
            results = [t for t in tensors_in(model(given.clone())) if t.requires_grad]
            sum((t.square().mean() for t in results), torch.zeros(())).backward()
        except Exception as exc:
            return f"{'slim' if model is slim else 'full'} model: {exc!r}"[:200]
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        if not all(bool(g.isfinite().all()) for g in grads.values()):
            return "a gradient is not finite"
        reached.append(set(grads))
    missing = reached[0] - reached[1]
    return "yes" if not missing else f"no gradient: {', '.join(sorted(missing)[:3])}"


def row_of(yaml: str) -> dict[str, Any]:
    """Trace, cut and compare one model."""
    model, task = build(yaml)
    row: dict[str, Any] = {
        "yaml": yaml,
        "task": task if "rtdetr" not in yaml else "detect",
        "trace_ok": "no",
    }
    row["params"] = sum(p.numel() for p in model.parameters())
    start = time.process_time()
    graph = trace(model)
    row |= {
        "trace_ok": "yes",
        "trace_cpu_s": f"{time.process_time() - start:.2f}",
        "channels": int(graph.channels.sum()),
        "prunable": f"{prunable_share(graph, model, depthwise=False):.4f}",
        "prunable_with_depthwise": f"{prunable_share(graph, model, depthwise=True):.4f}",
        "frozen": frozen_reasons(graph),
        "unreached": unreached(graph),
    }
    remove = random_choice(graph)
    slim = cut_units(model, graph, remove, compensate=False)
    row["params_cut"] = f"{1 - sum(p.numel() for p in slim.parameters()) / row['params']:.3f}"
    row["lossless"] = f"{self_test(model, graph, remove, slim).max_rel_diff:.1e}"
    side = graph.input_shape[-1]
    given = torch.rand(1, _channels(model), side, side, generator=torch.Generator().manual_seed(3))
    other = silenced(model, graph, random_choice(graph, seed=1))
    try:
        row["control"] = f"{raw_difference(model, slim, given):.2f}"
        row["control_other"] = f"{raw_difference(other, slim, given):.2f}"
    except Exception:  # no pass in training mode: by the decoded outputs
        row["note"] = "controls by decoded outputs"
        for name, one in (("control", model), ("control_other", other)):
            row[name] = f"{_decoded(one.eval(), slim.eval(), graph, given):.2f}"
    row["train_ok"] = trains(slim, model, torch.rand(2, *given.shape[1:]))
    return row


def _decoded(a: nn.Module, b: nn.Module, graph: ChannelGraph, given: Tensor) -> float:
    with torch.no_grad():
        pairs = list(zip(tensors_in(a(given)), tensors_in(b(given)), strict=True))
    kept = [pair for i, pair in enumerate(pairs) if i not in graph.carried_outputs]
    return relative_difference([x for x, _ in kept], [y for _, y in kept])


def guarded(yaml: str) -> dict[str, Any]:
    """A row, whatever happens."""
    try:
        return row_of(yaml)
    except CutError as exc:
        return {"yaml": yaml, "trace_ok": "yes", "note": f"{exc}"}
    except Exception as exc:
        traceback.print_exc()
        return {"yaml": yaml, "trace_ok": "no", "note": f"{type(exc).__name__}: {exc}"[:300]}


def main() -> None:
    """Fill the table."""
    import ultralytics

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    name = f"ultralytics-{ultralytics.__version__}-trace.csv"
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results" / name)
    parser.add_argument("--only", default="", help="part of the YAML's name")
    parser.add_argument("--fresh", action="store_true", help="compute rows again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    if args.out.is_file():
        with args.out.open(newline="") as file:
            rows = {row["yaml"]: dict(row) for row in csv.DictReader(file)}
    for yaml in (y for y in every_yaml() if args.only in y):
        if yaml in rows and not args.fresh:
            continue
        rows[yaml] = guarded(yaml)
        print(yaml, {k: v for k, v in rows[yaml].items() if k != "yaml"}, flush=True)
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[y] for y in sorted(rows))


if __name__ == "__main__":
    main()
