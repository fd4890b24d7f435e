"""Networks on a GPU: what launches cost, what widths cost, what a cut gains there.

    python benchmarks/bench_gpu.py                 # needs a GPU of NVIDIA, which does nothing else

``small`` networks are yolov8n-bccd and yolov5nu-bccd at 320 px with the cuts of
``bench_runtimes.py`` (shares by measured sensitivity, widths in sixteens, repaired), scored on
BCCD's validation split. ``large`` is YOLOv8m at 640 px, which has no trained weights here: random
ones, even shares by L2 norms at half of the multiply-adds, widths in multiples of 1, 8, 16, 32 and
64; its rows have times alone. Of torch: eager, recorded as a CUDA graph, TorchScript; fp32
(convolutions in TF32, as torch has it) and fp16; batch 1 and 16. A folder for each in
``runs/bench-gpu`` holds every timed pass and the page, all rows together are in
``results/bench-gpu-NAME.csv``, NAME being the GPU's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from bench_runtimes import entrants_of, table
from repair_tables import RESULTS, ROOT, SIZE, data_of

import yoloprune as yp
from yoloprune.files import write_bytes
from yoloprune.measure.bench import BenchOptions, bench
from yoloprune.measure.bench_group import Entrant
from yoloprune.measure.bench_result import BenchResult
from yoloprune.measure.data import load_dataset
from yoloprune.models.door import load, save
from yoloprune.report.bench_files import write_results

SMALL = ("yolov8n-bccd", "yolov5nu-bccd")
CUTS = ("wide-50", "wide-25")
LARGE = "yolov8m"
WIDTHS = (1, 8, 16, 32, 64)
RUNTIMES = ("torch", "torch-cudagraph", "torchscript")


def large(work: Path) -> list[Entrant]:
    """The large network and its halves, random weights."""
    torch.manual_seed(0)
    whole = load(f"{LARGE}.yaml")[0]
    models: dict[str, Any] = {LARGE: whole}
    for width in WIDTHS:
        found = yp.slim(
            whole, macs=0.5, criterion="l2", scope="local", repair=False, round_to=width, imgsz=640
        )
        models[f"{LARGE}-half-{width}"] = found.model
    work.mkdir(parents=True, exist_ok=True)
    return [
        Entrant(name=name, model=model, files=(save(model, work / name)[0],))
        for name, model in models.items()
    ]


def measured(name: str, args: argparse.Namespace) -> BenchResult:
    """All rows of a network and its cuts."""
    big = name == LARGE
    if big:
        entrants = large(args.work / "networks")
    else:
        entrants = entrants_of(name, ROOT / "runs/bench-runtimes", CUTS)
    data = None if big else load_dataset(data_of(name))
    side = 640 if big else SIZE
    options = BenchOptions(
        runtimes=tuple(args.runtimes), precisions=("fp32", "fp16"), batches=tuple(args.batches),
        threads=(torch.get_num_threads(),), device=args.device, imgsz=(side, side),
        repeats=args.repeats, data=data, folder=args.work / name / "files",
        command="python benchmarks/bench_gpu.py",
    )  # fmt: skip
    found = bench(entrants, name, options)
    write_results(args.work / name, found)
    return found


def main() -> None:
    """Measure what is asked for, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=[*SMALL, LARGE])
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/bench-gpu")
    args = parser.parse_args()
    place = torch.device(args.device)
    gpu = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    found: list[BenchResult] = []
    for network in args.networks:
        found.append(measured(network, args))
        print(found[-1].to_markdown(), flush=True)
        target = args.out / f"bench-gpu-{gpu.lower().replace(' ', '-')}.csv"
        write_bytes(target, table(found).encode())
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
