"""``yoloprune doctor``: what is installed here, for bug reports."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from yoloprune.cli.app import command
from yoloprune.cli.options import DebugOpt, JsonOpt, write_json
from yoloprune.cli.tables import Column, show_line, show_table
from yoloprune.version import __version__

NEEDED = (
    "torch", "torchvision", "ultralytics", "opencv-python", "numpy", "scipy", "pycocotools",
    "typer", "rich", "pydantic", "matplotlib", "jinja2",
)  # fmt: skip
RUNTIMES = {
    "onnx": "ONNX files", "onnxruntime": "ONNX Runtime", "onnxruntime-gpu": "ONNX Runtime on GPUs",
    "openvino": "OpenVINO", "nncf": "INT8 for OpenVINO", "ncnn": "ncnn",
    "ai-edge-litert": "LiteRT (TFLite)", "tensorrt": "TensorRT",
}  # fmt: skip
"""Packages that only some commands ask for, and what for."""


@command
def doctor(json_file: JsonOpt = None, debug: DebugOpt = False) -> None:
    """Print versions, devices and runtimes that are found here, for bug reports."""
    record = {
        "yoloprune": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": f"{platform.python_version()} ({sys.executable})",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in NEEDED},
        "runtimes": {name: _version(name) for name in RUNTIMES},
        **_devices(),
    }
    show_line(f"yoloprune {record['yoloprune']} in {record['folder']}")
    show_line(f"Python {record['python']} on {record['os']}")
    show_line(
        f"processor: {record['cpu']}, {record['cores']} cores, torch uses {record['threads']}"
    )
    for device in record["devices"]:
        show_line(f"device {device}")
    rows = [(name, found or "missing", "needed") for name, found in record["packages"].items()]
    rows += [(name, found or "-", RUNTIMES[name]) for name, found in record["runtimes"].items()]
    columns = [Column("package", "left"), Column("version", "left"), Column("what for", "left")]
    show_table("packages", columns, rows)
    write_json(json_file, record)


def _version(name: str) -> str | None:
    """Of an installed package; None where it is not."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    """What torch computes on."""
    import torch

    from yoloprune.measure.environment import environment

    here = environment()
    found = [f"cpu: {here.cpu}"]
    for i in range(torch.cuda.device_count()):
        it = torch.cuda.get_device_properties(i)
        capability = f"compute capability {it.major}.{it.minor}"
        found.append(f"{i}: {it.name}, {it.total_memory / 2**30:.0f} GiB, {capability}")
    if torch.backends.mps.is_available():
        found.append("mps")
    return {
        "cpu": here.cpu, "cores": here.cores, "threads": here.threads, "cuda": here.cuda,
        "devices": found,
    }  # fmt: skip
