"""Where a measurement was made: without that, a number means little."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Software and machine of a measurement.

    Attributes:
        python, torch, torchvision, ultralytics, opencv, pycocotools: versions.
        os: operating system and its release.
        cpu: name of the processor.
        cores: logical cores that this process may use.
        threads: threads that torch computes with.
        gpu: name of the GPU that was used, None where none was.
        cuda: version of CUDA that torch was built with, None for a GPU-less torch.
    """

    python: str
    torch: str
    torchvision: str
    ultralytics: str
    opencv: str
    pycocotools: str
    os: str
    cpu: str
    cores: int
    threads: int
    gpu: str | None
    cuda: str | None


def environment(device: torch.device | str = "cpu") -> Environment:
    """Describe the present process.

    Args:
        device: what is measured on; a CUDA device adds the GPU's name.
    """
    device = torch.device(device)
    return Environment(
        python=platform.python_version(),
        torch=_version("torch"),
        torchvision=_version("torchvision"),
        ultralytics=_version("ultralytics"),
        opencv=_version("opencv-python"),
        pycocotools=_version("pycocotools"),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_name(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        cuda=torch.version.cuda,
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    """Name of the processor; on a Linux board without ``model name``, that of the board."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (li.partition(":") for li in lines)}
    for key in ("model name", "Model", "Hardware"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine()
