"""``yoloprune.evaluate``: how good a network is, on labelled pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

from yoloprune.api.given import Model, device_for, network
from yoloprune.api.result import Table
from yoloprune.api.wording import speaks_arguments
from yoloprune.errors import MeasureError
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.tasks import SHOWN, look, measure
from yoloprune.models.door import input_size_of
from yoloprune.plain import plain


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Evaluation:
    """How good a network is on a data set.

    Attributes:
        metrics: fractions by name: ``AP`` (50 to 95), ``AP50``, ``APs`` … ``AR100`` of upright
            boxes; ``mask_AP``, ``keypoint_AP``, ``rotated_AP``, ``top1`` and the like of other
            tasks. None where the data shows no object of that size.
        by_class: name of a class → AP of its boxes, None where the data shows none of it.
        record: all of it with its conditions, JSON-able, as ``yoloprune val --json`` writes it.
    """

    metrics: Mapping[str, float | None]
    by_class: Mapping[str, float | None]
    record: Mapping[str, Any] = field(repr=False)

    def table(self) -> Table:
        """A row a number, and whose it is."""
        rows = [
            {"metric": name, "value": value, "by": self.record["by"][name]}
            for name, value in self.metrics.items()
        ]
        shown = [(row["metric"], _shown(row["value"]), row["by"]) for row in rows]
        return Table(
            title=self._title,
            columns=("metric", "value", "by"),
            rows=tuple(shown),
            values=tuple(rows),
        )

    @property
    def _title(self) -> str:
        record = self.record
        many = f", {record['images']} pictures" if "images" in record else ""
        return f"{plain(record['model'])} on {plain(record['data'])} ({record['split']}{many})"

    def __repr__(self) -> str:
        numbers = [f"{key} {_shown(self.metrics[key])}" for key in SHOWN if key in self.metrics]
        return f"<Evaluation of {self._title}: {', '.join(numbers)}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


@speaks_arguments
def evaluate(
    model: Model,
    data: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    split: str = "val",
    imgsz: int | tuple[int, int] | None = None,
    conf: float = 0.001,
    iou: float | None = None,
    max_det: int = 300,
    batch: int = 16,
    device: str | None = None,
    trust: bool = False,
) -> Evaluation:
    """Measure a detector, full or slim, on labelled pictures: AP as pycocotools counts it.

    Args:
        model: a ``.pt`` or ``.cfg``, a ``(cfg, weights)`` pair, or one in memory; not modified.
        data: data YAML, Darknet ``.data``, or the folder of a classification data set.
        weights: of a ``.cfg``.
        split: of the data.
        imgsz: side, or height and width, in pixels, if not the model's own.
        conf: least confidence that counts, in [0, 1); AP wants it low.
        iou: NMS threshold; None: 0.45 of Darknet models, 0.7 of Ultralytics' own.
        max_det: most boxes a picture.
        batch: pictures a pass.
        device: where; None: where a module lies, and for files a GPU if there is one.
        trust: unpickle a ``.pt`` of unknown classes, which can run any code.

    Raises:
        FormatError: a file cannot be read.
        DataError: the data is missing, malformed, or of another task.
        MeasureError: the model is no YOLO, knows other classes, or its task is not measured.
    """
    place = fspath(data)
    look(place, split)
    given = network(model, weights, trust=trust)
    if not given.detector:
        raise MeasureError(
            f"model: {type(given.model).__name__} is no YOLO, and how its outputs are read only "
            "you know. Measure it as you do in training."
        )
    options = DetectOptions(
        imgsz=input_size_of(given.model, imgsz),
        conf=conf,
        iou=iou,
        max_det=max_det,
        batch=batch,
        device=device_for(given, device),
    )
    found = measure(given.model, place, options, split=split)
    name = type(given.model).__name__ if given.source is None else str(given.source.model)
    record = {"model": name, "data": place, "split": split, **found}
    return Evaluation(
        metrics=record["metrics"], by_class=record.get("AP_by_class", {}), record=record
    )
