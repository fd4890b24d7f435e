"""torch itself: eager, compiled, recorded as a CUDA graph, and as TorchScript."""

from __future__ import annotations

import copy
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import nn

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.copies import find_device
from yoloprune.measure.fuse import fuse
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import (
    Batch,
    Nodes,
    Profiled,
    Session,
    channels_of,
    exported,
    random_batch,
)
from yoloprune.measure.sessions.turns import usual

_WARM = 3
"""Passes before a recording, in which libraries choose how they compute."""


class _InTorch(Session):
    """A callable of torch on a batch of torch; on CUDA, events tell its time."""

    def __init__(
        self, runner: Callable[[torch.Tensor], Any], options: RuntimeOptions, channels: int
    ) -> None:
        self._device = find_device(options.device)
        self._dtype = torch.float16 if options.precision == "fp16" else torch.float32
        self._before = torch.get_num_threads()
        torch.set_num_threads(options.threads)
        self._runner = runner
        self._made: Any = None
        self.feed(random_batch(options, channels))

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        if options.precision == "int8":
            return "is not brought to 8 bits here"
        emulated = options.precision == "fp16" and options.device == "cpu"
        return "torch only emulates fp16 on a CPU. Use fp32" if emulated else None

    def feed(self, batch: Batch) -> None:
        self._batch = torch.from_numpy(batch).to(self._device, self._dtype)

    def run(self) -> None:
        with torch.inference_mode():
            self._made = self._runner(self._batch)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def pass_ms(self) -> float:
        if self._device.type != "cuda":
            return super().pass_ms()
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize(self._device)
        with torch.inference_mode():
            start.record()
            self._made = self._runner(self._batch)
            end.record()
        torch.cuda.synchronize(self._device)
        return float(start.elapsed_time(end))

    def outputs(self) -> list[NDArray[Any]]:
        made = self._made
        while isinstance(made, (tuple, list)):
            made = made[0]
        return [made.float().cpu().numpy()]

    def close(self) -> None:
        torch.set_num_threads(self._before)


class Torch(_InTorch, Profiled):
    """The network as it is, its BatchNorms fused."""

    name: ClassVar[RuntimeName] = "torch"

    def __init__(self, model: nn.Module, options: RuntimeOptions, file: Path | None = None) -> None:
        self.file = file
        self._fused = _fused(model, options)
        super().__init__(self._fused, options, channels_of(model))
        self._watched: tuple[Callable[[], None], Callable[[], Nodes]] | None = None

    @classmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        from yoloprune.models.door import save

        place = folder / "torch"
        place.mkdir(parents=True, exist_ok=True)
        return save(model, place / "model")[0]

    @classmethod
    def of_model(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Session:
        why = cls.refusal(model, options)
        if why is not None:
            raise MeasureError(f"{cls.name}: {why}.")
        return cls(model, options)

    @classmethod
    def of_file(cls, file: Path, options: RuntimeOptions) -> Session:
        from yoloprune.models.door import load

        return cls(load(file)[0], options, file)

    def watch(self) -> None:
        if self._watched is None:
            self._watched = _hooked(copy.deepcopy(self._fused), self._batch, self._wait)
        self._watched[0]()

    def nodes(self) -> Nodes:
        return {} if self._watched is None else self._watched[1]()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class TorchCompile(Torch):
    """The same through ``torch.compile``."""

    name: ClassVar[RuntimeName] = "torch-compile"

    def __init__(self, model: nn.Module, options: RuntimeOptions, file: Path | None = None) -> None:
        super().__init__(model, options, file)
        compiled: Any = torch.compile(self._fused, dynamic=False)
        self._runner = compiled
        try:
            self.run()
        except Exception as exc:  # a compiler can raise anything
            self.close()
            raise MeasureError(
                f"torch-compile: refuses the network ({first_line(exc)[:200]})."
            ) from exc

    @classmethod
    def absent(cls) -> str | None:
        compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
        if any(name and shutil.which(name) for name in compilers):
            return super().absent()
        return "needs a C++ compiler. Install g++"


class TorchCudaGraph(Torch):
    """The same recorded as a CUDA graph, so that no pass waits for its launches."""

    name: ClassVar[RuntimeName] = "torch-cudagraph"

    def __init__(self, model: nn.Module, options: RuntimeOptions, file: Path | None = None) -> None:
        self._graph: torch.cuda.CUDAGraph | None = None
        super().__init__(model, options, file)
        try:
            self._graph, self._made = self._recorded()
        except RuntimeError as exc:
            self.close()
            raise MeasureError(
                f"torch-cudagraph: cannot be recorded ({first_line(exc)[:200]})."
            ) from exc
        self._runner = self._replay

    @classmethod
    def absent(cls) -> str | None:
        return super().absent() if torch.cuda.is_available() else "needs a GPU of NVIDIA"

    @classmethod
    def refusal(cls, model: nn.Module, options: RuntimeOptions) -> str | None:
        if not options.device.startswith("cuda"):
            return "records what a GPU does. Give --device 0"
        return super().refusal(model, options)

    def feed(self, batch: Batch) -> None:
        if self._graph is None:
            super().feed(batch)
        else:  # a graph reads where it read when it was recorded
            self._batch.copy_(torch.from_numpy(batch))

    def _recorded(self) -> tuple[torch.cuda.CUDAGraph, Any]:
        """The graph, and the outputs that each replay writes anew."""
        stream: Any = torch.cuda.Stream
        side = stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(_WARM):
                self._runner(self._batch)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.inference_mode(), torch.cuda.graph(graph):
            made = self._runner(self._batch)
        return graph, made

    def _replay(self, batch: torch.Tensor) -> Any:
        assert self._graph is not None
        self._graph.replay()
        return self._made


class TorchScript(_InTorch):
    """What Ultralytics' TorchScript export makes."""

    name: ClassVar[RuntimeName] = "torchscript"

    def __init__(self, file: Path, options: RuntimeOptions) -> None:
        self.file = file
        read: Any = torch.jit.load
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, on its own old format
                runner = read(str(file), map_location=find_device(options.device)).eval()
        except RuntimeError as exc:
            raise MeasureError(f"torchscript: refuses the network ({first_line(exc)}).") from exc
        stem = next(p for p in runner.parameters() if p.ndim == 4)
        super().__init__(runner, options, int(stem.shape[1]))

    @classmethod
    def export(cls, model: nn.Module, options: RuntimeOptions, folder: Path) -> Path:
        return exported(model, options, folder, "torchscript", half=options.precision == "fp16")


def _fused(model: nn.Module, options: RuntimeOptions) -> nn.Module:
    """A copy as it would be deployed, on its device."""
    device = find_device(options.device)
    kind = torch.float16 if options.precision == "fp16" else torch.float32
    example = torch.from_numpy(random_batch(options, channels_of(model)))[:1]
    runner = copy.deepcopy(model).cpu().float().eval()
    try:
        return fuse(runner, example).to(device, kind)
    except RuntimeError as exc:
        raise MeasureError(
            f"model: cannot run on an input of {list(example.shape)}: {first_line(exc)}"
        ) from exc


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
