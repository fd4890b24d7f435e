"""Beside Torch-Pruning: from a loaded yolov8x or yolo11x to a smaller model, on one CPU thread.

Torch-Pruning gets what its YOLOv8 example gives it: C2f blocks rewritten so that the split is
two convolutions, the heads left out, training mode, GroupNormPruner with the L2 norm, half of
the channels, a 640 × 640 example picture; and, which the example does not need yet, the
attention blocks of yolo11 left out. It is timed a second time with the 64 × 64 picture that
yoloprune makes for itself. yoloprune gets the stock model, traces it, scores by |gamma|, plans
50 % and cuts (once with compensation, as is the default, and once without). Rewriting the model
and importing are not timed for either.

Times are CPU seconds of one process that runs all of them in turn, the median of ``--repeats``;
memory is the largest resident size of a process that runs only one, less what it had before it.

    pip install torch-pruning
    python benchmarks/against_torch_pruning.py
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
MODELS = ("yolov8x", "yolo11x")
SHARE = 0.5


class TwoConvC2f(nn.Module):
    """A C2f whose first convolution is two, one for each half of what it splits."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.halves = nn.ModuleList(_half(block.cv1, i) for i in (0, 1))
        self.cv2, self.m = block.cv2, block.m
        self.f, self.i, self.type = block.f, block.i, block.type

    def forward(self, x: Tensor) -> Tensor:
        """As C2f."""
        made = [half(x) for half in self.halves]
        for step in self.m:
            made.append(step(made[-1]))
        return self.cv2(torch.cat(made, 1))


def _half(source: nn.Module, which: int) -> nn.Module:
    from ultralytics.nn.modules import Conv

    old = source.conv
    made = Conv(old.in_channels, old.out_channels // 2, 1)
    rows = slice(which * made.conv.out_channels, (which + 1) * made.conv.out_channels)
    with torch.no_grad():
        made.conv.weight.copy_(old.weight[rows])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(made.bn, name).copy_(getattr(source.bn, name)[rows])
    made.bn.eps, made.bn.momentum = source.bn.eps, source.bn.momentum
    return made


def rewritten(model: nn.Module) -> nn.Module:
    """Make a model digestible for Torch-Pruning."""
    from ultralytics.nn.modules import C2f

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, C2f):
                setattr(parent, name, TwoConvC2f(child))
    for parameter in model.parameters():
        parameter.requires_grad = True
    return model.train()


def torch_pruning(model: nn.Module, side: int) -> nn.Module:
    """Its graph and one step of pruning."""
    import torch_pruning as tp
    from ultralytics.nn.modules import C2PSA, Detect

    left_out = [m for m in model.modules() if isinstance(m, (Detect, C2PSA))]
    pruner = tp.pruner.GroupNormPruner(
        model,
        torch.randn(1, 3, side, side),
        importance=tp.importance.GroupMagnitudeImportance(),
        iterative_steps=1,
        pruning_ratio=SHARE,
        ignored_layers=left_out,
        unwrapped_parameters=[],
    )
    pruner.step()
    return model


def yoloprune(model: nn.Module, compensate: bool) -> nn.Module:
    """Trace, score, plan and cut."""
    from yoloprune.channels import trace
    from yoloprune.prune.budget import Budget
    from yoloprune.prune.cut import cut_units
    from yoloprune.prune.planner import plan
    from yoloprune.prune.score import score

    graph = trace(model)
    chosen = plan(graph, score(model, graph), Budget(percent=SHARE))
    return cut_units(model, graph, chosen.remove(graph), compensate=compensate)


def stock(name: str) -> nn.Module:
    """A stock model with BatchNorm scales of all sizes."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model: nn.Module = DetectionModel(f"{name}.yaml", verbose=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.01, 1.5)
    return model.eval()


def ready(model: nn.Module, system: str) -> Callable[[], nn.Module]:
    """Everything up to the clock's start; what is returned is what is timed."""
    if system.startswith("yoloprune"):
        return lambda: yoloprune(model, compensate=system == "yoloprune")
    model = rewritten(model)
    side = int(system.partition("@")[2])
    return lambda: torch_pruning(model, side)


SYSTEMS = ("torch-pruning@640", "torch-pruning@64", "yoloprune", "yoloprune, no compensation")


def timed(name: str, system: str) -> dict[str, Any]:
    """One run: CPU seconds, and the share of parameters that went."""
    model = stock(name)
    before = sum(p.numel() for p in model.parameters())
    work = ready(model, system)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    slim = work()
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        slim.eval()(torch.rand(1, 3, 64, 64))  # it must run
    return {
        "cpu_s": seconds,
        "peak_mib": grown / 1024,
        "peak_added_mib": (grown - peak) / 1024,
        "params_removed": 1 - sum(p.numel() for p in slim.parameters()) / before,
    }


def alone(name: str, system: str) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--one", name, system]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SYSTEM"), help=argparse.SUPPRESS)
    out = ROOT / "benchmarks/results/torch-pruning-1.6.1-cpu-1thread.csv"
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one:
        print(json.dumps(timed(*args.one)))
        return
    rows = []
    # First, while this process is small: a child's largest size starts at its parent's.
    singles = {(name, system): alone(name, system) for name in MODELS for system in SYSTEMS}
    for name in MODELS:
        for system in SYSTEMS:  # once unmeasured: what is loaded late is loaded now
            timed(name, system)
        runs: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        for _ in range(args.repeats):
            for system in SYSTEMS:
                runs[system].append(timed(name, system)["cpu_s"])
        for system in SYSTEMS:
            single = singles[name, system]
            rows.append(
                {
                    "model": name,
                    "system": system,
                    "cpu_s": f"{statistics.median(runs[system]):.3f}",
                    "cpu_s_min": f"{min(runs[system]):.3f}",
                    "cpu_s_max": f"{max(runs[system]):.3f}",
                    "cpu_s_alone": f"{single['cpu_s']:.3f}",
                    "peak_mib": f"{single['peak_mib']:.0f}",
                    "peak_added_mib": f"{single['peak_added_mib']:.0f}",
                    "params_removed": f"{single['params_removed']:.3f}",
                }
            )
            print(rows[-1], flush=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
