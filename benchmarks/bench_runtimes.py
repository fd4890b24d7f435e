"""Dense and slim networks of both families in every runtime: latency, size, AP of the same file.

    pip install -e '.[runtimes,ncnn,litert]'
    python benchmarks/bench_runtimes.py networks   # makes them, an hour on two cores
    python benchmarks/bench_runtimes.py            # on a machine that does nothing else
    python benchmarks/bench_runtimes.py --quick    # that all of it works; its times mean nothing

yolo-fastest-1.1-xl and yolov5n-coco on coco256, yolov8n-bccd and yolov5nu-bccd on BCCD, at 320 px.
What each is cut to, always repaired on 64 or 128 train pictures without labels:

    slim           `slim --macs 0.5 --calib`: even shares by recon, widths in eights
    slim-odd       the same with widths as they fall (`--round-to 1`); BCCD alone
    wide-75 …-25   shares of the multiply-adds by measured sensitivity, widths in sixteens
                   (`--sensitivity FILE --round-to 16`); of COCO's networks not a quarter
    …-tuned        wide-50 and wide-25, trained for 20 epochs by the preset `keep`; BCCD alone

Every runtime that is installed but torch-compile, fp32 and int8; batch 1 and 8, 1 and 2 threads.

A folder for each network in ``runs/bench-runtimes`` holds what ``yoloprune bench`` writes, with
every timed pass and the page; all rows together are in ``results/bench-runtimes-320px-cpu.csv``. It
is written after each set of conditions, and those that it has are not measured again. Ends with 1
where AP of a row in fp32 is further than 0.003 from torch's.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import torch
from repair_tables import (
    BCCD,
    NETS,
    RESULTS,
    ROOT,
    SETTINGS,
    SHARED,
    SIZE,
    ap_of,
    data_of,
    opened,
    sensed,
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
from yoloprune.prune.sensing import sense
from yoloprune.report.bench_files import write_results
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train

NETWORKS = ("yolov8n-bccd", "yolov5nu-bccd", "yolov5n-coco", "yolo-fastest-1.1-xl")
MOST = 0.003
"""How far AP of a runtime in fp32 may be from torch's."""
EPOCHS = 20
BLOCK = 16
"""Channels that AVX-512 computes at once, and AMX in 8 bits."""


def entrants_of(network: str, args: argparse.Namespace) -> list[Entrant]:
    """The dense network and the slim ones, which are made once."""
    trained = NETS[network][1] == BCCD
    cuts = ["slim", "slim-odd", "wide-75", "wide-50", "wide-25", "wide-50-tuned", "wide-25-tuned"]
    wanted = cuts if trained else ["slim", "wide-75", "wide-50"]
    files = {network: SHARED / NETS[network][0]}
    for cut in wanted if args.cuts is None else [cut for cut in wanted if cut in args.cuts]:
        files[f"{network}-{cut}"] = made(network, cut, args.work / "networks")
    found = []
    for name, path in files.items():
        model, source = load(str(path))
        parts = (source.model, *((source.weights,) if source.weights else ()))
        found.append(Entrant(name=name, model=model, files=parts))
    return found


def made(network: str, cut: str, work: Path) -> Path:
    """The file of a slim network."""
    suffix = Path(NETS[network][0]).suffix
    file = work / f"{network}-{cut}{suffix}"
    if file.is_file():
        return file
    work.mkdir(parents=True, exist_ok=True)
    if cut.endswith("-tuned"):
        model = load(str(made(network, cut.removesuffix("-tuned"), work)))[0].float()
        options = TrainOptions(
            data=data_of(network), imgsz=SIZE, device="cpu", epochs=EPOCHS, resume=True,
            preset="keep", extra=SETTINGS,
        )  # fmt: skip
        model = train(model, work / f"{network}-{cut}", options).last
    else:
        how: dict[str, Any] = {"macs": 0.5, "round_to": 1 if cut == "slim-odd" else 8}
        if cut.startswith("wide"):
            how = {"macs": int(cut[-2:]) / 100, "round_to": BLOCK, "sensitivity": curves(network)}
        given = str(SHARED / NETS[network][0])
        model = slim(given, calib=data_of(network), calib_images=NETS[network][2], **how).model
    print(f"{network}-{cut}: AP {ap_of(model, network, 'cpu').AP:.4f}", flush=True)
    save(model, file)
    return file


def curves(network: str) -> Path:
    """What each part of a network loses, measured once for all tables."""
    file = ROOT / f"runs/repair-tables/curves-{network}.json"
    net = opened(network)
    sense(net.model, sensed(net, file))
    return file


def measured(network: str, args: argparse.Namespace) -> BenchResult:
    """All rows of a pair, those that are there already not measured again."""
    work = args.work / network
    file = work / "bench.json"
    known = BenchResult.read(file) if file.is_file() else None
    found = bench(
        entrants_of(network, args),
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
    parser.add_argument("what", nargs="?", choices=["networks", "time"], default="time")
    parser.add_argument("--cuts", nargs="+", help="of those above; all, if not given")
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
    torch.set_num_threads(1)
    if args.what == "networks":
        for network in args.networks:
            entrants_of(network, args)
        return 0
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
