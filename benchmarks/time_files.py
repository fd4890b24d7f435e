"""Time two networks' files in a runtime, without yoloprune: the check of what it claims.

    python benchmarks/time_files.py onnxruntime dense.pt slim.pt [--imgsz 320] [--threads 1]

``.pt`` files are opened and exported by stock Ultralytics; ``.onnx`` files, and in torch ``.pt2``
files, are taken as they are.
Prints the lower quartile of each in milliseconds, the ratio, and how far quartiles are apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WARM, BLOCK, ROUNDS = 3, 10, 12


def onnx_of(file: Path, imgsz: int, folder: Path) -> str:
    """The file itself, or what stock Ultralytics makes of it."""
    if file.suffix == ".onnx":
        return str(file)
    import shutil

    from ultralytics import YOLO

    copy = folder / file.name
    shutil.copy(file, copy)
    return str(YOLO(copy).export(format="onnx", imgsz=imgsz, verbose=False))


def runner(runtime: str, file: Path, imgsz: int, threads: int, folder: Path) -> Callable[[], Any]:
    """One pass on a random picture."""
    picture = np.random.default_rng(0).random((1, 3, imgsz, imgsz), dtype=np.float32)
    if runtime == "torch":
        import torch
        from ultralytics import YOLO

        torch.set_num_threads(threads)
        if file.suffix == ".pt2":
            model = torch.export.load(file).module()
        else:
            model = YOLO(file).model.float().fuse(verbose=False).eval()
        given = torch.from_numpy(picture)

        def run() -> None:
            with torch.inference_mode():
                model(given)

        return run
    path = onnx_of(file, imgsz, folder)
    if runtime == "onnxruntime":
        import onnxruntime

        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, how, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: picture})
    import openvino

    how = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", how).create_infer_request()
    return lambda: request.infer([picture])


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runtime", choices=["torch", "onnxruntime", "openvino"])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    assert "yoloprune" not in sys.modules
    with tempfile.TemporaryDirectory() as folder:
        runners = []
        for i, file in enumerate(args.files):
            place = Path(folder, str(i))
            place.mkdir()
            runners.append(runner(args.runtime, file, args.imgsz, args.threads, place))
        times: list[list[float]] = [[] for _ in runners]
        for _ in range(ROUNDS):
            for run, found in zip(runners, times, strict=True):
                for turn in range(WARM + BLOCK):
                    start = time.perf_counter()
                    run()
                    if turn >= WARM:
                        found.append(1e3 * (time.perf_counter() - start))
    quartiles = [statistics.quantiles(found, n=4, method="inclusive") for found in times]
    print(
        json.dumps(
            {
                "ms": [q[0] for q in quartiles],
                "median_ms": [q[1] for q in quartiles],
                "ratio": quartiles[-1][0] / quartiles[0][0],
                "spread": max((q[2] - q[0]) / q[1] for q in quartiles),
            }
        )
    )


if __name__ == "__main__":
    main()
