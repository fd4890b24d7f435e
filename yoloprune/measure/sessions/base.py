"""What every runtime does with a network: take it, be fed, run, give its raw outputs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import MeasureError
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions, missing

if TYPE_CHECKING:
    from torch import nn

Batch = NDArray[np.float32]
"""``[B, C, H, W]``, RGB in 0 … 1."""
_BOUND = ("engine", "torchscript")
"""Formats whose files run where they were made: TorchScript notes the device of every constant."""
Nodes = Mapping[str, float]
"""Place in the model, as slashes or dots divide it → milliseconds of a pass."""


class Session(ABC):
    """One network in one runtime, for one size of the input.

    It is made by :meth:`of_model`, or of a file that :meth:`export` wrote.

    Attributes:
        name: of the runtime.
        file: what was opened: a file or a folder; None for a network in memory.
    """

    name: ClassVar[RuntimeName]
    file: Path | None

    @abstractmethod
    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        """Open a file of :meth:`export`, and feed it a random batch."""

    @classmethod
    def absent(cls) -> str | None:
        """Why it cannot be used here, with what to install; None where it can."""
        return missing(cls.name)

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        """Why it cannot run this network so; None where nothing is known against it."""
        return None

    @classmethod
    @abstractmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        """Write what the runtime reads, or find what an earlier call wrote for the same options.

        Args:
            model: either family. Not modified.
            options: how it will run.
            folder: of this network; others' files in it stay.

        Raises:
            ExportError: it cannot be exported.
        """

    @classmethod
    def of_model(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Session:
        """Export a network and open it.

        Raises:
            ExportError: it cannot be exported.
            MeasureError: the runtime or the device is not there, or refuses the network.
        """
        why = cls.refusal(model, options)
        if why is not None:
            raise MeasureError(f"{cls.name}: {why}.")
        return cls.of_file(cls.export(model, options, folder), options)

    @classmethod
    def of_file(cls, file: Path, options: RuntimeOptions) -> Session:
        """Open what :meth:`export` wrote, and feed it a random batch.

        Raises:
            MeasureError: the runtime or the device is not there, or refuses the network.
        """
        return cls(file, options)

    @abstractmethod
    def feed(self, batch: Batch) -> None:
        """Put a batch where the runtime reads it; no part of a pass."""

    @abstractmethod
    def run(self) -> None:
        """One pass over what was fed, to its end."""

    @abstractmethod
    def outputs(self) -> list[NDArray[Any]]:
        """Of the last pass, as torch gives them: boxes in pixels of the input."""

    def pass_ms(self) -> float:
        """Milliseconds of one pass."""
        start = time.perf_counter()
        self.run()
        return 1e3 * (time.perf_counter() - start)

    def close(self) -> None:
        """Set back what the runtime has set for the whole process."""
        return


class Profiled(Session):
    """A session that tells where its time goes."""

    @abstractmethod
    def watch(self) -> None:
        """One pass of which the runtime notes where its time goes."""

    @abstractmethod
    def nodes(self) -> Nodes:
        """What the watched passes came to: the lower quartile of each node."""


def random_batch(options: RuntimeOptions, channels: int = 3) -> Batch:
    """The same random pictures in every runtime."""
    shape = (options.batch, channels, *options.imgsz)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def channels_of(model: nn.Module) -> int:
    """Of the picture that a network takes."""
    return int(getattr(model, "yaml", {}).get("channels", 3))


def exported(
    model: nn.Module,
    options: RuntimeOptions,
    folder: Path,
    file_format: str,
    *,
    half: bool = False,
    rewritten: bool = True,
) -> Path:
    """Export as a user does, less what the runtimes simplify themselves; once for equal options.

    Args:
        model: either family. Not modified.
        options: size of the input, and device.
        folder: of this network.
        file_format: of Ultralytics' exporters.
        half: weights in half precision.
        rewritten: let heads compute as ONNX Runtime likes best.

    Raises:
        ExportError: the export failed.
    """
    import warnings

    from yoloprune.models.export import ExportOptions, export_file
    from yoloprune.models.formats import check_format
    from yoloprune.models.quiet import quiet_ultralytics

    height, width = options.imgsz
    there = options.device if file_format in _BOUND and options.device != "cpu" else ""
    parts = [f"{width}x{height}", f"b{options.batch}", *(["fp16"] if half else [])]
    parts += [] if rewritten else ["stock"]
    parts += ["gpu"] if there else []
    place = folder / file_format
    name = "-".join(parts)
    target = place / f"{name}{check_format(file_format)}"
    if target.exists():
        return target
    place.mkdir(parents=True, exist_ok=True)
    how = ExportOptions(
        out=place, format=file_format, imgsz=options.imgsz, batch=options.batch,
        precision="fp16" if half else "fp32",
        device=there, rewritten=rewritten,
        extra={"simplify": False} if file_format == "onnx" else {},
    )  # fmt: skip
    with quiet_ultralytics(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on its own old exporters
        made = export_file(model, place / f"{name}.pt", how)
    return made
