"""Sessions of each runtime: how it takes a network, runs it, and tells where its time goes."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.copies import find_device
from yoloprune.measure.fuse import fuse
from yoloprune.measure.runtimes import Nodes, RuntimeOptions, Session, usual, version_of
from yoloprune.models.quiet import quiet_ultralytics


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
    open_one = {
        "torch": _torch,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
    }
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

    return watch, lambda: usual(every)


# --- what reads ONNX files


def _onnx_file(model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
    """The network as a user exports it, less what the runtimes simplify themselves."""
    from yoloprune.models.export import ExportOptions, export_file

    half = options.precision == "fp16" and options.runtime == "onnxruntime"
    how = ExportOptions(
        out=folder, imgsz=options.imgsz, batch=options.batch, extra={"simplify": False},
        precision="fp16" if half else "fp32",
    )  # fmt: skip
    with quiet_ultralytics(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on its own old exporter
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
            return node_times(json.loads(written.read_text()))
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


def node_times(events: Sequence[Mapping[str, Any]]) -> Nodes:
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
    return usual(found)


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

    yield Session(lambda: request.infer(given), watch, lambda: usual(found))


def _place(name: str) -> str:
    """Of a node: what OpenVINO puts in between is named after its neighbours."""
    return name[name.find("/") :] if "/" in name else name
