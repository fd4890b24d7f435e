"""Ultralytics model descriptions: read as data, checked against what may be built, then built.

Ultralytics' own builder runs what stands behind ``activation:`` as Python, and looks the names of
modules up among everything that its file has imported, functions that open files included. So it
is handed a description only after each of these was found in a table here.

Reference: Ultralytics 8.4.190, ``nn/tasks.py`` ``parse_model``.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from yoloprune.errors import CheckpointError, typed_line
from yoloprune.texts import read_yaml

ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh"),
    *("Identity", "LeakyReLU", "LogSigmoid", "Mish", "PReLU", "ReLU", "ReLU6", "RReLU", "SELU"),
    *("Sigmoid", "SiLU", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
)
"""Classes of ``torch.nn`` that ``activation:`` may name, with plain numbers as arguments."""
_BY_TASK = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
    "classify": "ClassificationModel",
    "semantic": "SemanticSegmentationModel",
    "depth": "DepthModel",
}
MAX_ROWS = 2_000
MAX_REPEATS = 1_000
MAX_NUMBER = 1 << 20
MAX_PARAMETERS = 4_000_000_000


def load_description(path: Path) -> nn.Module:
    """A freshly initialised model of a YAML: a file, or a bare name that Ultralytics ships.

    Raises:
        CheckpointError: there is no such file, or it is no description of a known kind.
    """
    file = _found(path)
    content = read_yaml(file, CheckpointError).value
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is no model description, expected backbone: and head:.")
    described = {**content, "scale": _scale(path), "yaml_file": str(path)}
    check_description(described, str(path))
    return _built(described, path)


def _found(path: Path) -> Path:
    """The file of a description; ``yolov8s.yaml`` is ``yolov8.yaml`` at scale s, as stock has it.

    Raises:
        CheckpointError: there is none.
    """
    names = [path.name]
    sixes = re.fullmatch(r"(yolov[58])([nsmlx])6", path.stem)
    if sixes:
        names.append(f"{sixes[1]}-p6{path.suffix}")
    names.append(re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", path.name))
    for name in names:
        beside = path.with_name(name)
        if beside.is_file():
            return beside
    if path.name == str(path):
        import ultralytics

        shipped = Path(ultralytics.__file__).parent / "cfg" / "models"
        for name in names:
            found = next(shipped.rglob(name), None) if _is_plain(name) else None
            if found is not None:
                return found
    raise CheckpointError(f"{path}: no such file, nor an Ultralytics model name.")


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+", name) is not None


def _scale(path: Path) -> str:
    """The size that a file's name ends in, ``""`` where it names none, as stock reads it."""
    match = re.search(r"yolo(?:e-)?[v]?\d+([nslmx])", path.stem)
    return match[1] if match else ""


def check_description(described: Mapping[str, Any], where: str) -> None:
    """Make sure that Ultralytics' builder can be handed a description.

    Args:
        described: what the YAML says.
        where: how errors call it.

    Raises:
        CheckpointError: it holds what is no plain value, names what is no layer or activation, or
            asks for more than any network has.
    """
    _check_plain(described, where)
    activation = described.get("activation")
    if activation:
        _check_activation(activation, where)
    rows = []
    for part in ("backbone", "head"):
        if not isinstance(described.get(part), list):
            raise CheckpointError(f"{where}: is no model description: {part}: is no list of rows.")
        rows += [(f"{part}[{i}]", row) for i, row in enumerate(described[part])]
    if not described["head"] or len(rows) > MAX_ROWS:
        raise CheckpointError(f"{where}: has {len(rows)} rows, expected 1 … {MAX_ROWS}.")
    depth = _multiples(described, where)
    for at, row in rows:
        _check_row(row, f"{where}: {at}", depth)
    for key, most in (("nc", 100_000), ("channels", 4096), ("ch", 4096), ("reg_max", 1024)):
        value = described.get(key, 1)
        if not isinstance(value, int) or not 1 <= value <= most:
            raise CheckpointError(f"{where}: {key}: expected 1 … {most}, got {value!r}.")


def _check_plain(value: Any, where: str) -> None:
    """Make sure that a description is made of plain values only."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            _check_plain(key, where)
            _check_plain(one, where)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_plain(one, where)
    elif isinstance(value, float):
        if math.isnan(value):
            raise CheckpointError(f"{where}: holds what is no number.")
    elif not isinstance(value, str | int | type(None)):
        raise CheckpointError(f"{where}: holds a {type(value).__name__}, expected plain values.")


def _check_activation(text: Any, where: str) -> None:
    """Only ``nn.NAME(plain numbers)``; it will be run as Python by Ultralytics."""
    expected = "expected one of torch.nn's, such as nn.SiLU() or nn.LeakyReLU(0.1)"
    wrong = f"{where}: activation: {expected}, got {str(text)[:80]!r}."
    if not isinstance(text, str) or len(text) > 200:
        raise CheckpointError(wrong)
    match = re.fullmatch(r"\s*(?:torch\.)?nn\.(\w+)\((.*)\)\s*", text)
    if match is None or match[1] not in ACTIVATIONS:
        raise CheckpointError(wrong)
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise CheckpointError(wrong) from exc
    if not isinstance(call, ast.Call):
        raise CheckpointError(wrong)
    for value in (*call.args, *(word.value for word in call.keywords)):
        if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub):
            value = value.operand
        if not isinstance(value, ast.Constant) or not isinstance(value.value, int | float):
            raise CheckpointError(wrong)


def _multiples(described: Mapping[str, Any], where: str) -> float:
    """The largest multiple of repeats that a description asks for, checked with the widths."""
    scales = described.get("scales") or {}
    if not isinstance(scales, Mapping):
        raise CheckpointError(f"{where}: scales: expected a mapping, got {scales!r}.")
    depth = [described.get("depth_multiple", 1.0)]
    width = [described.get("width_multiple", 1.0)]
    for name, row in scales.items():
        if not isinstance(row, list | tuple) or len(row) != 3:
            raise CheckpointError(f"{where}: scales: {name}: expected depth, width and channels.")
        depth.append(row[0])
        width.append(row[1])
    for value in (*depth, *width):
        if not isinstance(value, int | float) or not 0 < value <= 64:
            raise CheckpointError(f"{where}: a multiple of depth or width is {value!r}.")
    return float(max(depth))


def _check_row(row: Any, where: str, depth: float) -> None:
    """One layer: from, number, module, arguments."""
    if not isinstance(row, list | tuple) or len(row) != 4 or not isinstance(row[3], list | tuple):
        raise CheckpointError(f"{where}: expected from, number, module and arguments, got {row!r}.")
    sources, repeats, name, arguments = row
    if not all(isinstance(n, int) for n in (sources if isinstance(sources, list) else [sources])):
        raise CheckpointError(f"{where}: expected layer numbers, got {sources!r}.")
    if not isinstance(repeats, int) or not 0 <= repeats * max(depth, 1) <= MAX_REPEATS:
        raise CheckpointError(f"{where}: expected at most {MAX_REPEATS} repeats, got {repeats!r}.")
    if not isinstance(name, str) or _layer_class(name) is None:
        raise CheckpointError(
            f"{where}: the module {str(name)[:60]!r} is not in the installed Ultralytics."
        )
    numbers = [n for n in _flat(arguments) if isinstance(n, int | float)]
    large = [n for n in numbers if abs(n) > MAX_NUMBER]
    if large:
        raise CheckpointError(f"{where}: expected numbers up to {MAX_NUMBER}, got {large[0]:g}.")


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _layer_class(name: str) -> type[nn.Module] | None:
    """The layer that a row names, as Ultralytics looks it up; None for what is no layer."""
    import torchvision
    from ultralytics.nn import tasks

    prefix, _, last = name.rpartition(".")
    places: dict[str, Any] = {"": tasks, "nn": nn, "torchvision.ops": torchvision.ops}
    found = getattr(places.get(prefix), last, None) if prefix in places else None
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        return None
    home = ("ultralytics.nn.modules.", "torch.nn.modules.", "torchvision.ops.")
    return found if found.__module__.startswith(home) else None


def without_downloads(described: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a description whose torchvision backbones start from random weights."""
    copy = deepcopy(dict(described))
    for row in (*copy["backbone"], *copy["head"]):
        if row[2] == "TorchVision":
            row[3] = [*row[3][:2], None, *row[3][3:]]
    return copy


def layers_of(described: Mapping[str, Any]) -> nn.Module:
    """The layers that a checked description builds, without memory (on torch's meta device)."""
    from ultralytics.nn.modules import Conv
    from ultralytics.nn.tasks import parse_model

    activation = Conv.default_act
    try:
        with torch.device("meta"):
            channels = described.get("channels", described.get("ch", 3))
            built = parse_model(without_downloads(described), ch=channels, verbose=False)[0]
    finally:
        Conv.default_act = activation  # process-wide, and the parser forgets it when it fails
    return cast(nn.Module, built)


def _built(described: dict[str, Any], path: Path) -> nn.Module:
    """The model of a checked description, as ``YOLO(path)`` would make it."""
    from ultralytics.cfg import DEFAULT_CFG_DICT
    from ultralytics.nn import tasks

    task = tasks.guess_model_task(described)
    kind: Any
    if any(row[2] == "RTDETRDecoder" for row in described["head"]):
        task, kind = "detect", tasks.RTDETRDetectionModel
    elif task == "detect" and "-world" in path.stem:
        kind = tasks.WorldModel
    elif "yoloe" in path.stem and task in ("detect", "segment"):
        kind = tasks.YOLOEModel if task == "detect" else tasks.YOLOESegModel
    elif task in _BY_TASK:
        kind = getattr(tasks, _BY_TASK[task])
    else:
        raise CheckpointError(f"{path}: ends in {described['head'][-1][2]}, which is no head.")
    try:
        parameters = sum(p.numel() for p in layers_of(described).parameters())
        if parameters > MAX_PARAMETERS:
            raise CheckpointError(
                f"{path}: asks for {parameters} parameters, expected at most {MAX_PARAMETERS}."
            )
        model: Any = kind(without_downloads(described), verbose=False)
    except CheckpointError:
        raise
    except Exception as exc:  # its builder does not check: KeyError, TypeError …
        raise CheckpointError(
            f"{path}: is no Ultralytics model description ({typed_line(exc)})."
        ) from exc
    model.args = {**DEFAULT_CFG_DICT, "model": str(path), "task": task}
    model.task = task
    return cast(nn.Module, model.eval())
