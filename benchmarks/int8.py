"""Slimming and 8 bits together: AP and size of every file, and, on an idle machine, its time.

    python benchmarks/int8.py ap      # rows of AP, whatever else the machine does
    python benchmarks/int8.py time    # rows of time; on a machine that does nothing else

{dense, half, a quarter of the multiply-adds} × {fp32, fp16, int8} × {ONNX Runtime, OpenVINO},
320 px. Slim networks are what ``slim --macs`` makes with 64 train pictures without labels: chosen
by measured error, the same share everywhere, repaired, never trained. 8 bits are calibrated on the
same pictures with ``--keep-float auto``. AP is pycocotools' on the validation split, of the very
file, and nothing was chosen by it. A finished row is not run again; ``--out`` keeps networks and
files.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from repair_tables import (
    NETS,
    RESULTS,
    ROOT,
    SHARED,
    SIZE,
    Table,
    at_macs,
    cut_and_repaired,
    data_of,
    one_thread,
    opened,
    shares_of,
)
from torch import nn

from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.environment import environment
from yoloprune.measure.exported import Deployed
from yoloprune.measure.pictures import load_pictures
from yoloprune.measure.runtimes import RuntimeOptions, version_of
from yoloprune.measure.sessions.base import Session
from yoloprune.measure.sessions.table import SESSIONS
from yoloprune.measure.sessions.turns import time_in_turn
from yoloprune.models.door import load, save
from yoloprune.models.export import ExportOptions, export_model
from yoloprune.models.quiet import quiet_ultralytics

NETWORKS = ("yolov8n-bccd", "yolov5nu-bccd")
SHARES = (1.0, 0.5, 0.25)
PRECISIONS = ("fp32", "fp16", "int8")
FORMATS = {"onnxruntime": "onnx", "openvino": "openvino"}
PICTURES = 64
ROUNDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a file is worth.

    Attributes:
        share: of the multiply-adds that was asked for; 1 is the dense network.
        macs, params: shares that are left.
        bytes: of the file, or of all files in the folder.
        error: how far detections are from those in fp32, see ``models.fake_quant.output_error``.
        kept_float: what 8 bits were kept from, apart from decoding.
    """

    network: str
    share: float
    runtime: str
    precision: str
    macs: float
    params: float
    AP: float
    AP50: float
    bytes: int
    error: str
    kept_float: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """How long a file takes, one picture, one thread.

    Attributes:
        ms: lower quartile.
        of_dense: as a share of the dense network's in fp32 in this runtime.
        spread: distance between the quartiles as a share of the median.
    """

    network: str
    share: float
    runtime: str
    precision: str
    ms: float
    of_dense: float
    spread: float
    machine: str


def network_of(name: str, share: float, out: Path) -> tuple[nn.Module, Path]:
    """A network, dense or slim, and the folder of its files."""
    folder = out / f"{name}-{share:g}"
    if share == 1:
        return load(str(SHARED / NETS[name][0]))[0], folder
    file = folder / "slim.pt"
    if not file.exists():
        net = opened(name, PICTURES)
        _, remove = at_macs(net, "recon", share, "cpu")
        folder.mkdir(parents=True, exist_ok=True)
        save(cut_and_repaired(net, remove)[1], folder / "slim")
    return load(str(file))[0], folder


def session_of(file: Path, runtime: Any, precision: Any) -> Session:
    """A file, opened as it is run."""
    how = RuntimeOptions(runtime=runtime, imgsz=(SIZE, SIZE), precision=precision)
    return SESSIONS[how.runtime].of_file(file, how)


def exported(name: str, share: float, out: Path, runtime: str, precision: Any) -> tuple[Path, Any]:
    """A file, and the record of its export; made anew, for the record is part of it."""
    model, folder = network_of(name, share, out)
    pictures = load_pictures(model, data_of(name), SIZE, count=PICTURES).images
    how = ExportOptions(
        out=folder / precision, format=FORMATS[runtime], imgsz=SIZE, precision=precision,
        calibration=pictures, overwrite=True,
    )  # fmt: skip
    with quiet_ultralytics():
        result = export_model(model, "net", how)
    return result.file, result


def worth(name: str, share: float, out: Path, runtime: str, precision: str) -> Row:
    """Export and measure."""
    model = network_of(name, share, out)[0]
    file, result = exported(name, share, out, runtime, precision)
    session = session_of(file, runtime, precision)

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        session.feed(np.ascontiguousarray(batch))
        session.run()
        return session.outputs()[0]

    data = load_dataset(data_of(name))
    how = DetectOptions(imgsz=SIZE, batch=1, progress=False)
    found = evaluate(Deployed(model, run, 1), data, how).metrics
    return Row(
        network=name, share=share, runtime=runtime, precision=precision,
        **shares_of(model, name), AP=round(found.AP, 4), AP50=round(found.AP50, 4),
        bytes=result.bytes, error="" if result.int8 is None else f"{result.int8.error:.4f}",
        kept_float=" ".join(path for path in result.kept_float if path != "decoding"),
    )  # fmt: skip


def file_of(name: str, share: float, out: Path, runtime: str, precision: str) -> Path:
    """Where ``worth`` left a file."""
    folder = out / f"{name}-{share:g}" / precision
    end = {"onnxruntime": ".onnx", "openvino": "_openvino_model"}[runtime]
    return folder / f"net{'_int8' if precision == 'int8' else ''}{end}"


def times(name: str, runtime: str, out: Path) -> list[Timed]:
    """All files of a network in one runtime, in turn, so that drift meets all alike."""
    cells = [(share, precision) for share in SHARES for precision in PRECISIONS]
    with ExitStack() as stack:
        sessions = []
        for share, precision in cells:
            session = session_of(file_of(name, share, out, runtime, precision), runtime, precision)
            stack.callback(session.close)
            sessions.append(session)
        found = time_in_turn(sessions, ROUNDS)
    here = environment()
    machine = f"{here.cpu}, {runtime} {version_of(runtime)}"  # type: ignore[arg-type]
    return [
        Timed(
            network=name, share=share, runtime=runtime, precision=precision, ms=round(ms, 3),
            of_dense=round(ms / found.usual[0], 4), spread=round(spread, 4), machine=machine,
        )
        for (share, precision), ms, spread in zip(cells, found.usual, found.spreads, strict=True)
    ]  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("ap", "time"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/runs/int8")
    args = parser.parse_args()
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    one_thread()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "time":
        table = Table(RESULTS / "int8-times-320px.csv", Timed)
        for name in NETWORKS:
            for runtime in FORMATS:
                if not table.has(network=name, runtime=runtime):
                    table.add(times(name, runtime, args.out))
        worst = statistics.median(float(row["spread"]) for row in table.rows)
        print(f"quartiles are {worst:.1%} apart in the median row")
        return
    table = Table(RESULTS / "int8-320px.csv", Row)
    cells: list[dict[str, Any]] = [
        {"network": name, "share": share, "runtime": runtime, "precision": precision}
        for precisions in (("fp32", "int8"), ("fp16",))  # what matters most first
        for runtime in FORMATS
        for share in SHARES
        for name in NETWORKS
        for precision in precisions
    ]
    for cell in cells:
        if not table.has(**cell):
            row = worth(
                cell["network"], cell["share"], args.out, cell["runtime"], cell["precision"]
            )
            table.add([row])
            print(row, flush=True)


if __name__ == "__main__":
    main()
