"""OpenCV's DNN module: from ONNX, and straight from Darknet's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Batch, Session, exported, random_batch

if TYPE_CHECKING:
    from torch import nn


class OpenCV(Session):
    """On a CPU, from an ONNX file."""

    name: ClassVar[RuntimeName] = "opencv"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        self.file = file
        self._before = cv2.getNumThreads()
        cv2.setNumThreads(options.threads)
        self._made: Sequence[NDArray[Any]] = ()
        try:
            self._net = self._read(file)
            self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
            self._net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
            self._names = self._net.getUnconnectedOutLayersNames()
            self.feed(random_batch(options))
            self.run()
        except cv2.error as exc:
            self.close()
            raise MeasureError(f"{self.name}: refuses the network ({_said(exc)}).") from exc

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        if options.device != "cpu":
            return "is built for a CPU here"
        return None if options.precision == "fp32" else "runs in fp32 here"

    @classmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        return exported(model, options, folder, "onnx")

    def feed(self, batch: Batch) -> None:
        self._batch = batch
        self._net.setInput(batch)

    def run(self) -> None:
        self._made = self._net.forward(self._names)

    def outputs(self) -> list[NDArray[Any]]:
        return [np.array(one) for one in self._made]

    def close(self) -> None:
        cv2.setNumThreads(self._before)

    def _read(self, file: Path) -> cv2.dnn.Net:
        return cv2.dnn.readNetFromONNX(str(file))


class OpenCVDarknet(OpenCV):
    """From the ``.cfg`` and ``.weights`` of a network whose heads are all ``[yolo]``.

    OpenCV zeroes scores below 0.2 where the cfg names no ``thresh``, so that of the copy does.
    """

    name: ClassVar[RuntimeName] = "opencv-darknet"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        from yoloprune.darknet.cfg import read_cfg

        self._imgsz = options.imgsz
        layers = read_cfg(_cfg_of(file)).layers
        self._anchors = [len(one.get_ints("mask")) for one in layers if one.kind == "yolo"]
        super().__init__(file, options)

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        from yoloprune.darknet.network import DarknetModel

        if not isinstance(model, DarknetModel):
            return "reads Darknet networks, which this is not"
        if {model.cfg.layers[i].kind for i in model.heads} != {"yolo"}:
            return "gives other outputs for heads that are no [yolo]"
        if options.batch > 1:
            return "gives the boxes of one picture a pass. Give --batch 1"
        return super().refusal(model, options)

    @classmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        from yoloprune.darknet.cfg import cfg_bytes
        from yoloprune.darknet.network import DarknetModel, current_cfg, save_weights

        assert isinstance(model, DarknetModel)
        place = folder / "darknet"
        place.mkdir(parents=True, exist_ok=True)
        cfg = current_cfg(model)
        layers = (
            one.with_options({"thresh": _LEAST}) if one.kind == "yolo" else one
            for one in cfg.layers
        )
        _cfg_of(place).write_bytes(cfg_bytes(cfg.with_layers(tuple(layers))))
        save_weights(model, _cfg_of(place).with_suffix(".weights"))
        return place

    def outputs(self) -> list[NDArray[Any]]:
        height, width = self._imgsz
        scale = np.array([width, height, width, height], dtype=np.float32)
        heads = []
        for rows, anchors in zip(self._made, self._anchors, strict=True):
            stride = round((height * width * anchors / len(rows)) ** 0.5)
            cells = rows.reshape(height // stride, width // stride, anchors, -1)
            ordered = cells.transpose(2, 0, 1, 3).reshape(len(rows), -1)
            heads.append(np.concatenate((ordered[:, :4] * scale, ordered[:, 5:]), axis=1))
        return [np.concatenate(heads).T[None]]

    def _read(self, file: Path) -> cv2.dnn.Net:
        cfg = _cfg_of(file)
        return cv2.dnn.readNetFromDarknet(str(cfg), str(cfg.with_suffix(".weights")))


_LEAST = 1e-5


def _cfg_of(folder: Path) -> Path:
    return folder / "model.cfg"


def _said(exc: cv2.error) -> str:
    """OpenCV's reason without its version and file."""
    return first_line(exc).rpartition("error: ")[2].rpartition(") ")[2][:160]
