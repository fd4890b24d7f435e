"""LiteRT, which was TensorFlow Lite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Batch, Session, exported, random_batch
from yoloprune.models.int8_litert import in_pixels

if TYPE_CHECKING:
    from torch import nn


class LiteRT(Session):
    """On a CPU, by its XNNPACK delegate."""

    name: ClassVar[RuntimeName] = "litert"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.file = file
        self._imgsz = options.imgsz
        try:
            self._interpreter = Interpreter(str(file), num_threads=options.threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as exc:
            raise MeasureError(f"litert: refuses the network ({first_line(exc)}).") from exc
        self._entry = self._interpreter.get_input_details()[0]
        self._exits = self._interpreter.get_output_details()
        self.feed(random_batch(options, int(self._entry["shape"][1])))

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        if options.device != "cpu":
            return "is run on a CPU here"
        return "runs in fp32 or int8 here" if options.precision == "fp16" else None

    @classmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        return exported(model, options, folder, "litert")

    def feed(self, batch: Batch) -> None:
        self._interpreter.set_tensor(self._entry["index"], batch)

    def run(self) -> None:
        self._interpreter.invoke()

    def outputs(self) -> list[NDArray[Any]]:
        """As torch gives them, boxes in pixels."""
        found = [np.array(self._interpreter.get_tensor(one["index"])) for one in self._exits]
        return in_pixels(found, *self._imgsz)
