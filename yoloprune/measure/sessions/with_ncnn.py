"""ncnn, through pnnx."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import MeasureError
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Batch, Session, exported, random_batch

if TYPE_CHECKING:
    from torch import nn


class Ncnn(Session):
    """On a CPU; picture by picture, for it knows no batches."""

    name: ClassVar[RuntimeName] = "ncnn"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        import ncnn  # type: ignore[import-not-found,import-untyped,unused-ignore]

        self.file = file
        self._net = ncnn.Net()
        how = self._net.opt
        how.num_threads = options.threads
        how.use_vulkan_compute = False
        half = options.precision == "fp16"
        how.use_fp16_packed = how.use_fp16_storage = how.use_fp16_arithmetic = half
        how.use_bf16_storage = False
        param = next(file.glob("*.param"), None)
        if (
            param is None
            or self._net.load_param(str(param)) != 0
            or self._net.load_model(str(param.with_suffix(".bin"))) != 0
        ):
            raise MeasureError(f"ncnn: refuses the network ({file.name} cannot be loaded).")
        self._entry = self._net.input_names()[0]
        names = self._net.output_names()  # and whatever else nothing reads, such as half a split
        self._exits = sorted(name for name in names if name.startswith("out"))
        self._made: list[list[Any]] = []
        self._ncnn = ncnn
        self.feed(random_batch(options))

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        if options.device != "cpu":
            return "is run on a CPU here"
        if options.batch > 1:
            return "takes one picture a pass. Give --batch 1"
        return None

    @classmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        with _silence():
            return exported(model, options, folder, "ncnn", half=options.precision == "fp16")

    def feed(self, batch: Batch) -> None:
        # a Mat of an array only looks at its memory
        self._pictures = [self._ncnn.Mat(np.ascontiguousarray(one)).clone() for one in batch]

    def run(self) -> None:
        self._made = []
        for picture in self._pictures:
            with self._net.create_extractor() as extractor:
                extractor.input(self._entry, picture)
                self._made.append([extractor.extract(name)[1] for name in self._exits])

    def outputs(self) -> list[NDArray[Any]]:
        pictures = [[np.array(one) for one in made] for made in self._made]
        return [np.stack(outputs) for outputs in zip(*pictures, strict=True)]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the converter prints, from C++, off standard output and error."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)
