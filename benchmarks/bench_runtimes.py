"""Dense and slim networks of both families in every runtime: latency, size, AP of the same file.

    pip install -e '.[runtimes,ncnn,litert]'
    python benchmarks/bench_runtimes.py            # on a machine that does nothing else
    python benchmarks/bench_runtimes.py --quick    # that all of it works; its times mean nothing

yolo-fastest-1.1-xl and yolov5n-coco on coco256, yolov8n-bccd and yolov5nu-bccd on BCCD, at 320 px,
each beside what `slim --macs 0.5 --calib` leaves of it: even shares by recon, widths in eights,
repaired on 64 or 128 train pictures without labels, not trained. Every runtime that is installed
but torch-compile, fp32 and int8, batch 1 and 8, 1 and 2 threads.

A folder for each pair in ``runs/bench-runtimes`` holds what ``yoloprune bench`` writes, with every
timed pass and the page; all rows together are in ``results/bench-runtimes-320px-cpu.csv``. It is
written after each set of conditions, and those that it has are not measured again. Ends with 1
where AP of a row in fp32 is further than 0.003 from torch's.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from repair_tables import (
    NETS,
    RESULTS,
    ROOT,
    SHARED,
    SIZE,
    data_of,
)

from yoloprune.api.slim import slim
from yoloprune.cli.bench import NAMED_ONLY
from yoloprune.files import write_bytes
from yoloprune.measure.bench import BenchOptions, bench
from yoloprune.measure.bench_group import Entrant
from yoloprune.measure.bench_result import BenchResult
from yoloprune.measure.data import load_dataset
from yoloprune.measure.runtimes import RUNTIMES
from yoloprune.models.door import load, save
from yoloprune.report.bench_files import write_results

NETWORKS = ("yolo-fastest-1.1-xl", "yolov5n-coco", "yolov8n-bccd", "yolov5nu-bccd")
SHARE, MOST = 0.5, 0.003
"""Multiply-adds that are left, and how far AP of a runtime in fp32 may be from torch's."""


def entrants_of(network: str, work: Path) -> list[Entrant]:
    """The dense network and the slim one, which is cut and repaired once."""
    file = SHARED / NETS[network][0]
    thin = work / f"{network}-slim{file.suffix}"
    if not thin.is_file():
        made = slim(str(file), macs=SHARE, calib=data_of(network), calib_images=NETS[network][2])
        work.mkdir(parents=True, exist_ok=True)
        save(made.model, thin)
    found = []
    for name, path in ((network, file), (f"{network}-slim", thin)):
        model, source = load(str(path))
        files = (source.model, *((source.weights,) if source.weights else ()))
        found.append(Entrant(name=name, model=model, files=files))
    return found


def measured(network: str, args: argparse.Namespace) -> BenchResult:
    """All rows of a pair, those that are there already not measured again."""
    work = args.work / network
    file = work / "bench.json"
    known = BenchResult.read(file) if file.is_file() else None
    found = bench(
        entrants_of(network, work),
        network,
        BenchOptions(
            runtimes=tuple(name for name in RUNTIMES if name in args.runtimes),
            precisions=tuple(args.precisions),
            batches=tuple(args.batches),
            threads=tuple(args.threads),
            imgsz=(SIZE, SIZE),
            repeats=args.repeats,
            data=load_dataset(data_of(network)),
            calib=data_of(network),
            memory=not args.quick,
            folder=work / "files",
            command="python benchmarks/bench_runtimes.py",
            keep=lambda result: write_bytes(file, result.to_json().encode()),
        ),
        known,
    )
    write_results(work, found)
    return found


def table(found: list[BenchResult]) -> str:
    """Rows of all pairs under one heading."""
    texts = [result.to_csv() for result in found if result.rows]
    return "".join([texts[0], *(text.partition("\n")[2] for text in texts[1:])])


def strangers(text: str) -> list[str]:
    """Rows in fp32 whose AP is not torch's."""
    rows = list(csv.DictReader(text.splitlines()))
    torch = {r["model"]: float(r["AP"]) for r in rows if r["runtime"] == "torch"}
    return [
        f"{row['model']} in {row['runtime']}, batch {row['batch']}: AP {float(row['AP']):.4f}, in "
        f"torch {torch[row['model']]:.4f}"
        for row in rows
        if row["precision"] == "fp32" and row["model"] in torch
        and abs(float(row["AP"]) - torch[row["model"]]) > MOST
    ]  # fmt: skip


def main() -> int:
    """Measure what is asked for, write it, and hold AP of every runtime against torch's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    every = [name for name in RUNTIMES if name not in NAMED_ONLY]
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=every)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--quick", action="store_true", help="batch 1, 1 thread, 2 turns, no memory"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs/bench-runtimes")
    args = parser.parse_args()
    if args.quick:
        args.batches, args.threads, args.repeats = [1], [1], 2
        args.work = args.work.with_name(f"{args.work.name}-quick")
    found = []
    for network in args.networks:
        found.append(measured(network, args))
        print(found[-1].to_markdown())
    text = table(found)
    target = args.work / "all.csv" if args.quick else RESULTS / "bench-runtimes-320px-cpu.csv"
    write_bytes(target, text.encode())
    print(f"wrote {target}")
    wrong = strangers(text)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
