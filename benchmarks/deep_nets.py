"""How time and memory of ``info`` grow with the number of layers.

    python benchmarks/deep_nets.py [--layers 500 1000 2000] [--out FILE]

Networks of small convolutions in a row (8 channels, 32 px), each in a process of its own: seconds
of CPU of the whole command, and its peak of memory.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "deep-nets-info.csv"
CONV = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=1\nstride=1\npad=1\nactivation=leaky\n"
HEAD = (
    "[convolutional]\nfilters=18\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1,2\nanchors=1,1,2,2,3,3\nclasses=1\nnum=3\n"
)


def measure(layers: int) -> tuple[float, float]:
    """CPU seconds and peak MiB of ``yoloprune info`` on so many convolutions."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = Path(folder) / "deep.cfg"
        cfg.write_text("[net]\nwidth=32\nheight=32\nchannels=3\n" + CONV * layers + HEAD)
        command = [sys.executable, "-m", "yoloprune", "info", str(cfg)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"info failed on {layers} layers")
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = [(layers, *measure(layers)) for layers in options.layers]
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layers", "cpu_seconds", "peak_mib"])
        for layers, seconds, peak in rows:
            print(f"{layers:6d} layers: {seconds:6.1f} s of CPU, {peak:6.0f} MiB")
            writer.writerow([layers, f"{seconds:.1f}", f"{peak:.0f}"])


if __name__ == "__main__":
    main()
