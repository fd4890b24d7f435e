"""Models for other toolchains, by Ultralytics' exporters, and checked where that can be done.

Both families go through the same door: a Darknet network is an Ultralytics model here.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import ExportError, typed_line
from yoloprune.files import FOLDER, check_space, check_writable
from yoloprune.models.checkpoint import task_of
from yoloprune.models.difference import TOLERANCE, difference
from yoloprune.models.door import input_size_of
from yoloprune.models.faster import rewrite
from yoloprune.models.formats import ALIASES, check_format, put, refuse
from yoloprune.models.int8 import TOOLS, Int8Options, Int8Record, as_pictures, check_int8, quantise
from yoloprune.models.int8_handed import calibration_set
from yoloprune.models.quiet import warnings_only
from yoloprune.progress import stage

HALF_TOLERANCE = 5e-2
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How to export.

    Attributes:
        out: folder for the result.
        format: any of Ultralytics' export formats, or an alias (``tflite``, ``tensorrt``); what it
            needs must be installed.
        imgsz: input size in pixels; None is the model's own.
        batch: pictures a pass.
        dynamic: leave batch, height and width open (formats that can).
        precision: of weights, with ``int8`` of activations, too. Input and output of an ONNX file
            stay float32.
        calibration, keep_float, accuracy, max_drop, advance: of ``int8``, see ``Int8Options``.
        device: as Ultralytics reads it; the CPU when empty.
        extra: further Ultralytics settings, passed through.
        rewritten: let the heads of an ONNX file compute in the way that ONNX Runtime does fastest.
        overwrite: replace an earlier export of that name.
        verbose: let Ultralytics say all that it says.
    """

    out: Path
    format: str = "onnx"
    imgsz: int | tuple[int, int] | None = None
    batch: int = 1
    dynamic: bool = False
    precision: Precision = "fp32"
    calibration: Tensor | Iterable[Tensor] | None = None
    keep_float: str = "auto"
    accuracy: Callable[[Path], float] | None = None
    max_drop: float | None = None
    advance: Callable[[int, int], None] = field(default=lambda done, total: None)
    device: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    rewritten: bool = True
    overwrite: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        """Call the format what Ultralytics calls it; refuse what contradicts itself.

        Raises:
            ExportError: something does.
        """
        object.__setattr__(self, "format", ALIASES.get(self.format, self.format))
        if self.precision not in get_args(Precision):
            raise ExportError(
                f"--precision: got {self.precision!r}, expected {', '.join(get_args(Precision))}."
            )
        if self.max_drop is not None and (self.accuracy is None or self.max_drop < 0):
            raise ExportError(
                f"--max-drop: got {self.max_drop:g}, expected at least 0, and data to measure on."
            )

    @property
    def quantised(self) -> Int8Options:
        """What ``int8`` wants to know."""
        return Int8Options(
            calibration=self.calibration,
            keep_float=self.keep_float,
            accuracy=self.accuracy,
            max_drop=self.max_drop,
            advance=self.advance,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeCheck:
    """An exported model beside the one that it was made from.

    Attributes:
        runtime: name and version of what ran it.
        max_rel_diff: largest difference on a random picture, relative to the scale (largest
            absolute value) of the boxes, or of all that is no box, whichever is larger.
        tolerance: what it must not exceed.
        inputs: shapes that were run.
    """

    runtime: str
    max_rel_diff: float
    tolerance: float
    inputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        file: the exported file or folder.
        format: of the file.
        imgsz: height and width of its input.
        precision: as asked for.
        bytes: size of the file, or of all files in the folder.
        check: None for formats that are not run here; in 8 bits that of the float32 file that it
            was made from.
        kept_float: of ``int8``, path of a layer or module → why it stayed in float.
        int8: how it came to 8 bits; None in other precisions.
    """

    file: Path
    format: str
    imgsz: tuple[int, int]
    precision: Precision
    bytes: int
    check: RuntimeCheck | None
    kept_float: Mapping[str, str] = field(default_factory=dict)
    int8: Int8Record | None = None

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable record."""
        return {**asdict(self), "file": str(self.file), "imgsz": list(self.imgsz)}


def export_model(model: nn.Module, name: str, options: ExportOptions) -> ExportResult:
    """Export a detector, and compare what came out with it.

    An ONNX file is run in ONNX Runtime before it is put in its place; with ``dynamic`` also as
    a batch of two.

    Args:
        model: either family. Not modified.
        name: of the result, without a suffix.
        options: how.

    Returns:
        What was written and how it compares.

    Raises:
        ExportError: the format is unknown or needs what is not installed, the export failed,
            the result differs, or there is nothing to calibrate on; nothing is left behind.
    """
    check_format(options.format, options.precision)
    if options.precision == "int8":
        check_int8(options.format, options.quantised)
        options = replace(options, calibration=as_pictures(options.calibration))
    check_writable(options.out)
    check_space(options.out, 12 * sum(p.numel() for p in model.parameters()))
    if not options.overwrite:
        refuse(options.out / file_name(name, options.format, options.precision))
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=FOLDER, dir=options.out) as folder:
        exporter, made = _export(
            model, Path(folder) / f"{name}.pt", _handed(model, options, folder)
        )
        height, width = exporter.imgsz
        check = None
        if exporter.args.format == "onnx":
            _tell_more(made, model)
            check = _check(model, exporter, made, options)
        kept: dict[str, str] = {}
        record = None
        if options.precision == "int8" and options.format in TOOLS:
            made, kept, record = quantise(
                model, made, options.format, options.batch, options.quantised
            )
        elif options.precision == "int8":
            record = _record(made, options)
        target = options.out / made.name
        if not options.overwrite:
            refuse(target)
        size = _bytes(made)
        put(made, target)
    return ExportResult(
        file=target, format=exporter.args.format, imgsz=(height, width),
        precision=options.precision, bytes=size, check=check, kept_float=kept, int8=record,
    )  # fmt: skip


def _handed(model: nn.Module, options: ExportOptions, folder: str) -> ExportOptions:
    """Of a format that Ultralytics brings to 8 bits: with what it needs for that."""
    if options.precision != "int8" or options.format in TOOLS:
        return options
    pictures = cast(Tensor, options.calibration)
    data = calibration_set(pictures, cast(Any, model).names, Path(folder) / "pictures")
    extra = {"quantize": 8, "data": str(data), "split": "train", **options.extra}
    return replace(options, extra=extra)


def _record(made: Path, options: ExportOptions) -> Int8Record:
    """What is known of a file in 8 bits that Ultralytics' exporters made."""
    from ultralytics import __version__

    start = time.perf_counter()
    found = None if options.accuracy is None else options.accuracy(made)
    return Int8Record(
        tool=f"ultralytics {__version__}",
        settings={"quantize": 8, **options.extra},
        pictures=len(cast(Tensor, options.calibration)),
        ap=found,
        seconds=time.perf_counter() - start,
    )


def file_name(name: str, file_format: str, precision: Precision) -> str:
    """What an export is called.

    Args:
        name: of the model, without a suffix.
        file_format: a format that there is.
        precision: of the export.
    """
    mark = "_int8" if precision == "int8" else ""
    return f"{name}{mark}{check_format(file_format, precision)}"


def _bytes(made: Path) -> int:
    files = made.rglob("*") if made.is_dir() else [made]
    return sum(file.stat().st_size for file in files if file.is_file())


def export_file(model: nn.Module, file: Path, options: ExportOptions) -> Path:
    """Export a detector beside ``file``, unchecked, for what only runs it.

    Args:
        model: either family. Not modified.
        file: a path as that of its checkpoint, which names the result and need not exist.
        options: how; ``out`` is not looked at.

    Raises:
        ExportError: the export failed.
    """
    return _export(model, file, options)[1]


def _export(model: nn.Module, file: Path, options: ExportOptions) -> tuple[Any, Path]:
    from ultralytics.engine.exporter import Exporter

    settings = {
        "mode": "export",
        "format": options.format,
        "imgsz": list(input_size_of(model, options.imgsz)),
        "batch": options.batch,
        "device": options.device or "cpu",
        "data": None,
        "verbose": False,
        **({"dynamic": True} if options.dynamic else {}),
        **({"quantize": 16} if options.precision == "fp16" else {}),
        **options.extra,
    }
    copy: Any = deepcopy(model).eval()
    copy.pt_path = str(file)  # which names what is exported
    copy.task = task_of(model)
    if not isinstance(getattr(copy, "args", None), dict) or "data" not in copy.args:
        copy.args = {**_as_dict(getattr(copy, "args", None)), "data": ""}
    if isinstance(copy, DarknetModel):
        copy.export = True
    if options.format == "onnx" and options.rewritten:
        rewrite(copy)
    try:
        heard = nullcontext() if options.verbose else warnings_only()
        with stage("exporting"), heard, _no_installing(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on its own old exporters
            exporter = Exporter(overrides=settings)
            made = exporter(model=copy)
    except ImportError as exc:
        raise ExportError(
            f"{options.format}: needs {exc.name or exc}, which is not installed. "
            f"For ONNX: pip install 'yoloprune[runtimes]'."
        ) from exc
    except Exception as exc:  # a converter can raise anything
        raise ExportError(f"{options.format}: the export failed ({typed_line(exc, 300)}).") from exc
    return exporter, Path(made)


def _as_dict(args: Any) -> dict[str, Any]:
    return dict(args) if isinstance(args, dict) else dict(vars(args)) if args else {}


@contextmanager
def _no_installing() -> Iterator[None]:
    """Keep Ultralytics from installing packages into the user's environment."""
    from ultralytics.utils import checks

    before = checks.AUTOINSTALL
    checks.AUTOINSTALL = False
    try:
        yield
    finally:
        checks.AUTOINSTALL = before


def _tell_more(file: Path, model: nn.Module) -> None:
    """Write into an ONNX file how a Darknet network wants its pictures resized."""
    if not isinstance(model, DarknetModel):
        return
    import onnx

    content = onnx.load(file)
    entry = content.metadata_props.add()
    entry.key, entry.value = "letterbox", json.dumps(model.letterbox)
    onnx.save(content, file)


def _check(model: nn.Module, exporter: Any, file: Path, options: ExportOptions) -> RuntimeCheck:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    reference = _reference(model, exporter)
    channels = getattr(model, "yaml", {}).get("channels", 3)
    batches = (1, 2) if options.dynamic else (options.batch,)
    shapes = tuple((batch, channels, *exporter.imgsz) for batch in batches)
    half = exporter.args.quantize == 16
    worst = 0.0
    for shape in shapes:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        fed = x.half() if entry.type == "tensor(float16)" else x
        try:
            found = session.run(None, {entry.name: fed.numpy()})
        except Exception as exc:  # onnxruntime's errors share no public base
            raise ExportError(f"{file.name}: does not run on {list(shape)} ({exc}).") from exc
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in _tensors(reference(x))]
        worst = max(worst, difference(expected, found))
    check = RuntimeCheck(
        runtime=f"onnxruntime {onnxruntime.__version__}",
        max_rel_diff=worst,
        tolerance=HALF_TOLERANCE if half else TOLERANCE,
        inputs=shapes,
    )
    if not worst <= check.tolerance:
        raise ExportError(
            f"{file.name}: differs from the model by {worst:.2g} of its output's scale in "
            f"{check.runtime}, expected at most {check.tolerance:g}. Nothing was written."
        )
    return check


def _reference(model: nn.Module, exporter: Any) -> nn.Module:
    """The model as it is, unfused, giving what its exported form gives."""
    copy: Any = deepcopy(model).float().cpu().eval()
    if hasattr(copy, "end2end"):
        copy.end2end = getattr(exporter.model, "end2end", False)
    for module in (copy, *copy.modules()):
        if hasattr(module, "export"):
            module.export = True
        if hasattr(module, "max_det"):
            module.max_det = min(300, exporter.args.max_det)
        if hasattr(module, "export") and hasattr(module, "format"):
            module.format = "onnx"
    return cast(nn.Module, copy)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)]
