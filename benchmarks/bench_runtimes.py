"""Dense and slim networks of both families in every runtime: latency, size, AP of the same file.

    pip install -e '.[runtimes,ncnn,litert]'
    python benchmarks/bench_runtimes.py networks   # makes them, an hour on two cores
    python benchmarks/bench_runtimes.py            # on a machine that does nothing else
    python benchmarks/bench_runtimes.py --quick    # that all of it works; its times mean nothing
    python benchmarks/bench_runtimes.py summary    # what the rows say, as Markdown, and a picture

yolo-fastest-1.1-xl and yolov5n-coco on coco256, yolov8n-bccd and yolov5nu-bccd on BCCD, at 320 px.
What each is cut to, always repaired on 64 or 128 train pictures without labels:

    slim           `slim --macs 0.5 --calib`: even shares by recon, widths in eights
    slim-odd       the same with widths as they fall (`--round-to 1`); BCCD alone
    wide-75 …-25   shares of the multiply-adds by measured sensitivity, widths in sixteens
                   (`--sensitivity FILE --round-to 16`); of COCO's networks wide-75 alone
    …-tuned        wide-50 and wide-25, trained for 20 epochs by the preset `keep`; BCCD alone

Every runtime that is installed but torch-compile, fp32 and int8; batch 1 and 8, 1 and 2 threads.

A folder for each network in ``runs/bench-runtimes`` holds what ``yoloprune bench`` writes, with
every timed pass and the page; all rows together are in ``results/bench-runtimes-320px-cpu.csv``
(``--table``). It is written after each set of conditions, and those that it has are not measured
again. Ends with 1 where AP of a row in fp32 is further than 0.003 from torch's.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from repair_tables import (
    BCCD,
    COCO,
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
CUTS = {
    BCCD: ("slim", "slim-odd", "wide-75", "wide-50", "wide-25", "wide-50-tuned", "wide-25-tuned"),
    COCO: ("slim", "wide-75"),
}
EPOCHS = 20
BLOCK = 16
"""Channels that AVX-512 computes at once, and AMX in 8 bits."""


def entrants_of(network: str, work: Path, only: Sequence[str] | None = None) -> list[Entrant]:
    """The dense network and the slim ones, all or some, which are made once."""
    files = {network: SHARED / NETS[network][0]}
    for cut in CUTS[NETS[network][1]]:
        if only is None or cut in only:
            files[f"{network}-{cut}"] = made(network, cut, work / "networks")
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
        entrants_of(network, args.work, args.cuts),
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


class Rows:
    """The table that was written.

    Args:
        file: of it.
        where: columns and what rows must have in them.
    """

    def __init__(self, file: Path, **where: str) -> None:
        rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
        self.rows = [row for row in rows if all(row[k] == v for k, v in where.items())]

    def of(self, network: str, cut: str) -> dict[str, dict[str, str]]:
        """Rows of one network, by runtime and precision."""
        name = f"{network}-{cut}" if cut else network
        found = {f"{r['runtime']} {r['precision']}": r for r in self.rows if r["model"] == name}
        return {key: row for key, row in found.items() if row["median_ms"]}

    def runtimes(self, network: str) -> str:
        """Milliseconds, and how many times as fast as the full network in the same runtime."""
        cuts = [cut for cut in CUTS[NETS[network][1]] if self.of(network, cut)]
        full, slim = self.of(network, ""), [self.of(network, cut) for cut in cuts]
        lines = [f"| {network} | full | {' | '.join(cuts)} |", "|---" * (len(cuts) + 2) + "|"]
        sides = [full, *slim]
        share = [f"{macs(side) / macs(full):.2f}" for side in sides]
        lines += [f"| MACs | {' | '.join(share)} |", f"| AP | {' | '.join(map(ap, sides))} |"]
        for key, row in full.items():
            ms = float(row["median_ms"])
            cells = [
                f"{float(side[key]['median_ms']):.1f} ({ms / float(side[key]['median_ms']):.2f} ×)"
                + "*" * (side[key]["noisy"] == "True")
                if key in side
                else "–"
                for side in slim
            ]
            lines.append(f"| {key} | {ms:.1f} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def fastest(
        self, network: str, cuts: Sequence[str], precision: str, least: float
    ) -> dict[str, str] | None:
        """The row of some cuts that takes least time, of those with an AP of at least so much."""
        rows = [
            row
            for cut in cuts
            for row in self.of(network, cut).values()
            if row["precision"] == precision and float(row["AP"]) >= least
        ]
        return min(rows, key=lambda row: float(row["median_ms"]), default=None)

    def headline(self, network: str) -> Iterator[str]:
        """What 8 bits and a cut gain over the full network in its own best runtime in fp32."""
        best = self.fastest(network, [""], "fp32", 0.0)
        assert best is not None
        ms, whole = float(best["median_ms"]), float(best["AP"])
        cuts = CUTS[NETS[network][1]]
        for words, allowed in (
            ("not cut", [""]),
            ("repaired only", [cut for cut in cuts if "tuned" not in cut]),
            ("trained, too", [cut for cut in cuts if "tuned" in cut]),
        ):
            for drop in (0.01, 0.03):
                row = self.fastest(network, allowed, "int8", whole - drop)
                told = "none"
                if row is not None:
                    now = float(row["median_ms"])
                    told = (
                        f"{ms / now:.2f} × ({ms:.1f} ms in {best['runtime']} → {now:.1f} ms, "
                        f"{row['model']} in {row['runtime']}, "
                        f"AP {whole:.4f} → {float(row['AP']):.4f})"
                    )
                yield f"{network}, {words}, at most {drop} AP lost: {told}"


LINES = (
    ("fp32", ("wide-75", "wide-50", "wide-25"), "cut and repaired", "#1d3557", "-"),
    ("fp32", ("wide-50-tuned", "wide-25-tuned"), "… and trained for 20 epochs", "#1d3557", ":"),
    ("int8", ("wide-75", "wide-50", "wide-25"), "cut, repaired, 8 bits", "#d1495b", "-"),
    ("int8", ("wide-50-tuned", "wide-25-tuned"), "… and trained for 20 epochs", "#d1495b", ":"),
)
"""Precision, cuts, name, colour and dash of each line."""


def picture(rows: Rows, target: Path) -> None:
    """AP over milliseconds in ONNX Runtime, of the networks on BCCD."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.6, 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = {"yolov5nu-bccd": "YOLOv5nu", "yolov8n-bccd": "YOLOv8n"}
    for axes, (network, title) in zip(panels, names.items(), strict=True):
        for precision, cuts, name, colour, dash in LINES:
            key = f"onnxruntime {precision}"
            whole = rows.of(network, "")[key]
            points = [whole] * (dash == "-") + [rows.of(network, cut)[key] for cut in cuts]
            x, y = ([float(row[k]) for row in points] for k in ("median_ms", "AP"))
            axes.plot(x, y, dash, marker="o", ms=4.5, lw=1.8, color=colour, label=name)
            axes.plot(float(whole["median_ms"]), float(whole["AP"]), "*", ms=12, color=colour)
        axes.set_title(f"{title}; stars: the full network", loc="left", fontsize=11)
        axes.set_xlabel("milliseconds a picture, ONNX Runtime, one thread")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0.4, 0.65)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AP50:95 on BCCD")
    panels[1].legend(frameon=False, loc="lower right")
    figure.savefig(target, metadata={"Software": None})


def macs(side: dict[str, dict[str, str]]) -> float:
    """Multiply-adds of a network."""
    return float(next(iter(side.values()))["macs"])


def ap(side: dict[str, dict[str, str]]) -> str:
    """AP of a network in ONNX Runtime, in fp32 and in 8 bits."""
    rows = [side[key] for key in ("onnxruntime fp32", "onnxruntime int8") if key in side]
    return ", ".join(f"{float(row['AP']):.3f}" for row in rows)


def summary(file: Path) -> None:
    """Print what the rows say."""
    for batch, threads in ((1, 1), (1, 2), (8, 1), (8, 2)):
        rows = Rows(file, batch=str(batch), threads=str(threads))
        for network in NETWORKS:
            if rows.of(network, ""):
                print(f"\nbatch {batch}, {threads} threads\n\n{rows.runtimes(network)}")
                if (batch, threads) == (1, 1):
                    print("\n" + "\n".join(rows.headline(network)))
    picture(Rows(file, batch="1", threads="1"), ROOT / "docs/pictures/latency.png")


def main() -> int:
    """Measure what is asked for, write it, and hold AP of every runtime against torch's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["networks", "time", "summary"], default="time")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    every = [name for name in RUNTIMES if name not in NAMED_ONLY]
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=every)
    parser.add_argument("--cuts", nargs="+", help="all, if not")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--quick", action="store_true", help="batch 1, 1 thread, 2 turns, no memory"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs/bench-runtimes")
    parser.add_argument("--table", default="bench-runtimes-320px-cpu", help="name of the CSV file")
    args = parser.parse_args()
    if args.quick:
        args.batches, args.threads, args.repeats = [1], [1], 2
        args.work = args.work.with_name(f"{args.work.name}-quick")
    torch.set_num_threads(1)
    if args.what == "networks":
        for network in args.networks:
            entrants_of(network, args.work, args.cuts)
        return 0
    if args.what == "summary":
        summary(RESULTS / f"{args.table}.csv")
        return 0
    found = []
    for network in args.networks:
        found.append(measured(network, args))
        print(found[-1].to_markdown())
    text = table(found)
    target = args.work / "all.csv" if args.quick else RESULTS / f"{args.table}.csv"
    write_bytes(target, text.encode())
    print(f"wrote {target}")
    wrong = strangers(text)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
