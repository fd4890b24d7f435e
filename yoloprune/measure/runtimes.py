"""Runtimes that a network is deployed in, each behind the same few calls.

A session holds one network, ready to run on one random picture batch of a fixed size. It can be
run, and asked where the time goes, layer by layer, where the runtime tells.
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.copies import find_device
from yoloprune.measure.fuse import fuse
from yoloprune.models.quiet import quiet_ultralytics

RuntimeName = Literal["torch", "onnxruntime", "openvino"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
FloatPrecision = Literal["fp32", "fp16"]
_PACKAGES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
_WARM, _BLOCK = 2, 6
"""Passes of a network before those that count, each time it is its turn; and those that do."""

Nodes = Mapping[str, float]
"""Place in the model, as slashes or dots divide it → milliseconds of a pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Where and how a network runs.

    Attributes:
        runtime: name of it.
        imgsz: height and width of the input in pixels.
        batch: pictures a pass.
        device: ``cpu``, or as torch spells it; OpenVINO also takes ``GPU`` and ``NPU``.
        precision: of weights and activations.
        threads: that compute, on a CPU.

    Raises:
        MeasureError: the runtime is unknown, or a number means nothing.
    """

    runtime: RuntimeName
    imgsz: tuple[int, int]
    batch: int = 1
    device: str = "cpu"
    precision: FloatPrecision = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check every range."""
        if self.runtime not in RUNTIMES:
            raise MeasureError(
                f"--runtime: unknown, got {self.runtime!r}, expected {', '.join(RUNTIMES)}."
            )
        if self.precision not in get_args(FloatPrecision):
            raise MeasureError(f"--precision: got {self.precision!r}, expected fp32 or fp16.")
        if self.batch < 1 or self.threads < 1:
            raise MeasureError(
                f"--batch and --threads: must be at least 1, got {self.batch} and {self.threads}."
            )
        if self.precision == "fp16" and self.runtime == "torch" and self.device == "cpu":
            raise MeasureError("--precision fp16: torch only emulates it on a CPU. Use fp32.")

    @property
    def words(self) -> str:
        """In words: ``onnxruntime, cpu, fp32, batch 1, 1 thread, 320 x 320``."""
        height, width = self.imgsz
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.runtime}, {self.device}, {self.precision}, batch {self.batch}, {threads}, "
            f"{width} x {height}"
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One network in one runtime.

    Attributes:
        run: one pass.
        watch: one pass of which the runtime notes where its time goes.
        nodes: what the watched passes came to: the lower quartile of each node.
    """

    run: Callable[[], Any]
    watch: Callable[[], Any]
    nodes: Callable[[], Nodes]


@dataclass(slots=True)
class Times:
    """Passes of several networks, timed in turn.

    Attributes:
        ms: by network, milliseconds of every pass that counts.
    """

    ms: list[list[float]] = field(default_factory=list)

    @property
    def usual(self) -> list[float]:
        """Lower quartile of each network: whatever else a machine does only adds to a time."""
        return [lower_quartile(times) for times in self.ms]

    @property
    def spreads(self) -> list[float]:
        """Distance between the quartiles as a share of the median, of each network."""
        return [_spread(times) for times in self.ms]


def _usual(times: Mapping[str, Sequence[float]]) -> Nodes:
    return {name: lower_quartile(found) for name, found in times.items()}


def lower_quartile(times: Sequence[float]) -> float:
    """Of at least two times."""
    return statistics.quantiles(times, n=4, method="inclusive")[0]


def _spread(times: Sequence[float]) -> float:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


def version_of(runtime: RuntimeName) -> str:
    """Of an installed runtime.

    Raises:
        MeasureError: it is not installed.
    """
    if find_spec(_PACKAGES[runtime]) is None:
        raise MeasureError(
            f"--runtime {runtime}: is not installed. pip install {_PACKAGES[runtime]}."
        )
    try:
        return metadata.version(_PACKAGES[runtime])
    except metadata.PackageNotFoundError:  # such as onnxruntime-gpu, which has another name
        return str(__import__(_PACKAGES[runtime]).__version__)


@contextmanager
def opened(models: Sequence[nn.Module], options: RuntimeOptions) -> Iterator[list[Session]]:
    """Sessions of several networks, as long as the block lasts.

    Args:
        models: that take ``[B, 3, H, W]`` in 0 … 1. Not modified.
        options: where and how.

    Raises:
        MeasureError: the runtime or the device is not there, or refuses a network.
    """
    version_of(options.runtime)
    open_one = {"torch": _torch, "onnxruntime": _onnxruntime, "openvino": _openvino}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yoloprune-")))
        if options.runtime == "torch":
            stack.enter_context(_threads(options.threads))
        made = []
        for i, model in enumerate(models):
            place = folder / str(i)
            place.mkdir()
            made.append(stack.enter_context(open_one[options.runtime](model, options, place)))
        yield made


def time_in_turn(
    sessions: Sequence[Session],
    rounds: int,
    *,
    watched: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> Times:
    """Time networks block by block, round after round, so that drift meets all alike.

    Args:
        sessions: to time.
        rounds: turns of each, of six passes that count after two that do not.
        watched: run so many watched passes in each turn, too, which do not count.
        advance: called with 1 after each turn of one.
    """
    times = Times([[] for _ in sessions])
    for _ in range(rounds):
        for session, found in zip(sessions, times.ms, strict=True):
            for turn in range(_WARM + _BLOCK):
                start = time.perf_counter()
                session.run()
                if turn >= _WARM:
                    found.append(1e3 * (time.perf_counter() - start))
            for _ in range(_BLOCK if watched else 0):
                session.watch()
            advance(1)
    return times


def _picture(model: nn.Module, options: RuntimeOptions) -> torch.Tensor:
    channels = int(getattr(model, "yaml", {}).get("channels", 3))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(options.batch, channels, *options.imgsz, generator=generator)


# --- torch


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _torch(model: nn.Module, options: RuntimeOptions, folder: Path) -> Iterator[Session]:
    device = find_device(options.device)
    kind = torch.float16 if options.precision == "fp16" else torch.float32
    picture = _picture(model, options)
    runner = copy.deepcopy(model).cpu().float().eval()
    try:
        runner = fuse(runner, picture[:1]).to(device, kind)
    except RuntimeError as exc:
        raise MeasureError(
            f"model: cannot run on an input of {list(picture.shape)}: {first_line(exc)}"
        ) from exc
    picture = picture.to(device, kind)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def run() -> None:
        with torch.inference_mode():
            runner(picture)
        wait()

    yield Session(run, *_hooked(copy.deepcopy(runner), picture, wait))


def _hooked(
    runner: nn.Module, picture: torch.Tensor, wait: Callable[[], None]
) -> tuple[Callable[[], None], Callable[[], Nodes]]:
    """Time of each module without what modules inside it take, by hooks on a copy."""
    paths: dict[int, list[str]] = {}
    for path, module in runner.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    stack: list[list[float]] = []
    spent: dict[str, float] = {}
    every: dict[str, list[float]] = {}

    def entering(module: nn.Module, args: Any) -> None:
        wait()
        stack.append([time.perf_counter(), 0.0])

    def leaving(path: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            wait()
            begun, inside = stack.pop()
            took = time.perf_counter() - begun
            spent[path] = spent.get(path, 0.0) + took - inside
            if stack:
                stack[-1][1] += took

        return leave

    for path, module in runner.named_modules():
        if len(paths[id(module)]) == 1:  # one that stands in many places (an activation) is theirs
            module.register_forward_pre_hook(entering)
            module.register_forward_hook(leaving(path))

    def watch() -> None:
        spent.clear()
        with torch.inference_mode():
            runner(picture)
        for path, seconds in spent.items():
            every.setdefault(path, []).append(1e3 * seconds)

    return watch, lambda: _usual(every)


# --- what reads ONNX files


def _onnx_file(model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
    """The network as a user exports it, less what the runtimes simplify themselves."""
    from yoloprune.models.export import ExportOptions, export_file

    how = ExportOptions(
        out=folder, imgsz=options.imgsz, batch=options.batch, extra={"simplify": False},
        half=options.precision == "fp16" and options.runtime == "onnxruntime",
    )  # fmt: skip
    with quiet_ultralytics():
        return export_file(model, folder / "model.pt", how)


def _fed(model: nn.Module, options: RuntimeOptions, half: bool) -> NDArray[Any]:
    picture = _picture(model, options).numpy()
    return picture.astype(np.float16) if half else picture


@contextmanager
def _onnxruntime(model: nn.Module, options: RuntimeOptions, folder: Path) -> Iterator[Session]:
    import onnxruntime

    file = _onnx_file(model, options, folder)
    providers = _providers(onnxruntime, options.device)

    def session(profile: bool) -> Any:
        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = options.threads
        how.inter_op_num_threads = 1
        how.log_severity_level = 3
        if profile:
            how.enable_profiling, how.profile_file_prefix = True, str(folder / "profile")
        return onnxruntime.InferenceSession(str(file), how, providers=providers)

    try:
        made = session(profile=False)
    except Exception as exc:  # onnxruntime's errors share no public base
        raise MeasureError(f"onnxruntime: refuses the network ({first_line(exc)}).") from exc
    entry = made.get_inputs()[0]
    given = {entry.name: _fed(model, options, entry.type == "tensor(float16)")}

    watched = session(profile=True)

    def nodes() -> Nodes:
        written = Path(watched.end_profiling())
        try:
            return _node_times(json.loads(written.read_text()))
        finally:
            written.unlink()

    yield Session(lambda: made.run(None, given), lambda: watched.run(None, given), nodes)


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise MeasureError(
            f"--device {device}: this onnxruntime runs on "
            f"{', '.join(onnxruntime.get_available_providers())} only. Install onnxruntime-gpu."
        )
    index = torch.device(device).index or 0
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def _node_times(events: Sequence[Mapping[str, Any]]) -> Nodes:
    """Lower quartile of each node; one without a place in the model is its next neighbour's.

    ONNX Runtime names what it puts in between (a reorder of the layout) by numbers that change
    from network to network; it stands right before what needs it.
    """
    ends = "_kernel_time"
    found: dict[str, list[float]] = {}
    waiting: list[float] = []
    kernels = [event for event in events if str(event.get("name", "")).endswith(ends)]
    for event in sorted(kernels, key=lambda event: event["ts"]):
        name, took = str(event["name"]).removesuffix(ends), event["dur"] / 1e3
        if not name.startswith("/"):
            waiting.append(took)
            continue
        found.setdefault(name, []).append(took + sum(waiting))
        waiting.clear()
    return _usual(found)


@contextmanager
def _openvino(model: nn.Module, options: RuntimeOptions, folder: Path) -> Iterator[Session]:
    import openvino  # type: ignore[import-untyped,unused-ignore]

    logging.getLogger("openvino").setLevel(logging.ERROR)
    core = openvino.Core()
    device = options.device.upper()
    if device not in core.available_devices:
        there = ", ".join(core.available_devices)
        raise MeasureError(f"--device {options.device}: OpenVINO finds {there} only.")
    content = core.read_model(str(_onnx_file(model, options, folder)))
    given = [_fed(model, options, half=False)]
    settings = {
        "INFERENCE_PRECISION_HINT": "f16" if options.precision == "fp16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        **({"INFERENCE_NUM_THREADS": options.threads} if device == "CPU" else {}),
    }
    request = core.compile_model(content, device, settings).create_infer_request()

    watched = core.compile_model(
        content, device, {**settings, "PERF_COUNT": True}
    ).create_infer_request()
    found: dict[str, list[float]] = {}

    def watch() -> None:
        watched.infer(given)
        for node in watched.get_profiling_info():
            took = 1e3 * node.real_time.total_seconds()
            found.setdefault(_place(node.node_name), []).append(took)

    yield Session(lambda: request.infer(given), watch, lambda: _usual(found))


def _place(name: str) -> str:
    """Of a node: what OpenVINO puts in between is named after its neighbours."""
    return name[name.find("/") :] if "/" in name else name
