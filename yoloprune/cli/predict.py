"""``yoloprune predict``: boxes on pictures and in videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command, tell_error
from yoloprune.cli.folders import results_folder
from yoloprune.cli.options import (
    CfgOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    OverwriteOpt,
    QuietOpt,
    TrustOpt,
    WeightsOpt,
    check_device,
    load_model,
    note,
    say,
    torch_name,
    write_json,
)
from yoloprune.cli.tables import show_line
from yoloprune.errors import DataError, YoloPruneError

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.measure.detect import DetectOptions

MODEL_HELP = "A .cfg (with --weights), .pt or Ultralytics .yaml; with --cfg the first picture."
_FEW = 10
"""Pictures of which every box is printed."""


@command
def predict(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP)] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURES...",
            help="Pictures and videos: files, folders, patterns ('shots/*.jpg'), .txt lists, or a "
            "data YAML, of which the validation pictures are taken.",
        ),
    ] = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    conf: Annotated[float, typer.Option(help="Least confidence shown.")] = 0.25,
    iou: Annotated[float | None, typer.Option(help="NMS threshold.")] = None,
    imgsz: ImgszOpt = None,
    device: DeviceOpt = "",
    save: Annotated[
        bool, typer.Option(help="Write the pictures and videos with boxes in them.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for them; runs/predict, predict2 … if not."),
    ] = None,
    overwrite: OverwriteOpt = False,
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Find objects in pictures and videos."""
    check_device(device)
    named = [*([model] if cfg is not None and model is not None else []), *(images or ())]
    if not named:
        raise typer.BadParameter("name pictures: files, folders or patterns.")
    if out is not None and not save:
        raise typer.BadParameter("--no-save, -o: one or the other.")
    with _folder(out, overwrite=overwrite) if save else nullcontext() as folder:
        from yoloprune.measure.sources import find_sources
        from yoloprune.report.predictions import prediction_files

        work = _Work(folder)
        sources = find_sources(named, work.fail)
        if folder is not None:
            work.files = prediction_files(folder, sources, overwrite=overwrite)
        if sources:
            loaded, source = load_model(None if cfg else model, cfg, weights, trust=trust)
            work.record["model"] = str(source.model)
            work.go(loaded, sources, _options(loaded, imgsz, conf, iou, device))
    write_json(json_file, work.record)
    if work.written:
        say(f"results in {folder}")
    if work.record["errors"]:
        raise typer.Exit(1)


@contextmanager
def _folder(out: Path | None, *, overwrite: bool) -> Iterator[Path]:
    """Where the pictures go; which of them are there is told once it is known what they are."""
    with results_folder(out, "predict", lambda _: (), overwrite=overwrite) as folder:
        yield folder


def _options(
    model: nn.Module, imgsz: int | None, conf: float, iou: float | None, device: str
) -> DetectOptions:
    from yoloprune.measure.detect import DetectOptions, is_darknet
    from yoloprune.models.door import input_size_of

    return DetectOptions(
        imgsz=input_size_of(model, imgsz),
        conf=conf,
        iou=iou,
        device=torch_name(device),
        clip=True,
        resize="darknet" if is_darknet(model) else "opencv",
    )


class _Work:
    """Pictures and videos, one after another; what cannot be read is told, and the rest done."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.files: Mapping[Path, Path] = {}
        self.written = 0
        self.record: dict[str, Any] = {"images": [], "videos": [], "errors": []}

    def fail(self, error: YoloPruneError) -> None:
        """Tell of one that cannot be read."""
        tell_error(error)
        self.record["errors"].append(str(error))

    def go(self, model: nn.Module, sources: Sequence[Path], options: DetectOptions) -> None:
        """All of them: pictures first."""
        from yoloprune.measure.predict import predicted
        from yoloprune.measure.sources import is_video
        from yoloprune.report.boxes import colours_of
        from yoloprune.report.predictions import write_prediction

        names: Any = model.names
        colours = colours_of(names.values())
        pictures = [path for path in sources if not is_video(path)]
        if len(pictures) > 1:
            note(f"looking at {len(pictures)} pictures")
        unread = lambda _, error: self.fail(error)  # noqa: E731
        for found in predicted(model, pictures, options, unread) if pictures else ():
            self.record["images"].append(found)
            show_picture(found, every=len(pictures) <= _FEW)
            if self.folder is not None:
                write_prediction(self.files[Path(found["file"])], found, colours)
                self.written += 1
        for path in sources:
            if is_video(path):
                try:
                    self.video(model, path, options)
                except DataError as exc:
                    self.fail(exc)

    def video(self, model: nn.Module, path: Path, options: DetectOptions) -> None:
        """One video.

        Raises:
            DataError: it cannot be read.
        """
        from yoloprune.measure.predict import predicted_frames
        from yoloprune.measure.videos import open_video, writing
        from yoloprune.report.boxes import colours_of, draw_boxes

        video = open_video(path)
        names: Any = model.names
        colours = colours_of(names.values())
        note(f"looking at {path}: {video.count or 'an unknown number of'} frames")
        record: dict[str, Any] = {"file": str(path), "fps": video.fps, "frames": []}
        to = writing(self.files[path], video) if self.folder else nullcontext(lambda _: None)
        with to as write:
            for frame, found in predicted_frames(model, video, options):
                record["frames"].append(found)
                if self.folder is not None:
                    write(draw_boxes(frame, found["boxes"], colours))
        self.written += self.folder is not None
        self.record["videos"].append(record)
        show_video(record)


def show_picture(record: Mapping[str, Any], *, every: bool) -> None:
    """What is in a picture, in a line; and a line a box."""
    show_line(f"{record['file']}: {_counted(record['boxes'])}")
    for box in record["boxes"] if every else ():
        corners = ", ".join(f"{v:.0f}" for v in box["xyxy"])
        show_line(f"  {box['name']} {box['confidence']:.1%}  [{corners}]")


def show_video(record: Mapping[str, Any]) -> None:
    """What is in a video, in a line."""
    frames = record["frames"]
    seen = sum(bool(frame["boxes"]) for frame in frames)
    boxes = [box for frame in frames for box in frame["boxes"]]
    show_line(
        f"{record['file']}: {len(frames)} frames, something in {seen} of them: {_counted(boxes)}"
    )


def _counted(boxes: Sequence[Mapping[str, Any]]) -> str:
    """How many of each class, the most frequent first."""
    counts = Counter(str(box["name"]) for box in boxes).most_common()
    return ", ".join(f"{number} {name}" for name, number in counts) or "nothing"
