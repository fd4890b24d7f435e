"""Formats of exports: what they need, and how an export takes its place. Light: no torch."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from yoloprune.errors import ExportError
from yoloprune.files import remove_empty

ALIASES = {"tflite": "litert", "tensorrt": "engine", "trt": "engine"}
"""What people call a format → what Ultralytics calls it."""


def check_format(name: str, precision: str = "fp32") -> str:
    """What is added to a model's name in a format.

    Args:
        name: Ultralytics' name of the format, or an alias.
        precision: in 8 bits some formats need more.

    Raises:
        ExportError: there is no such format, it has no such precision, or what it needs is not
            installed.
    """
    from ultralytics.engine.exporter import INT8_FORMATS, export_formats

    name = ALIASES.get(name, name)
    table = export_formats()
    suffixes = dict(zip(table["Argument"], table["Suffix"], strict=True))
    suffixes.pop("-", None)  # PyTorch itself
    if name not in suffixes:
        raise ExportError(
            f"--format: unknown, got {name!r}, expected one of {', '.join(suffixes)}."
        )
    if precision == "int8" and name not in INT8_FORMATS:
        also = f" {_NO_INT8[name]}" if name in _NO_INT8 else ""
        raise ExportError(
            f"--precision int8: not for {name}, expected one of "
            f"{', '.join(f for f in suffixes if f in INT8_FORMATS)}.{also}"
        )
    needs = _NEEDS.get(name, ()) + (_INT8_NEEDS.get(name, ()) if precision == "int8" else ())
    for module in needs:
        if not _is_installed(module):
            package = _PACKAGES.get(module, "")
            extra = f" pip install {package}." if package else ""
            raise ExportError(f"{name}: needs {module}, which is not installed.{extra}")
    return str(suffixes[name])


_NEEDS = {
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "engine": ("tensorrt", "onnx"),
    "coreml": ("coremltools",),
    "saved_model": ("tensorflow",),
    "pb": ("tensorflow",),
    "edgetpu": ("tensorflow",),
    "paddle": ("paddle",),
    "mnn": ("MNN", "onnx"),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch",),
    "rknn": ("rknn",),
    "executorch": ("executorch",),
}
"""What an export cannot do without; of other formats only Ultralytics knows."""
_INT8_NEEDS = {
    "openvino": ("nncf",),
    "litert": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
}
_PACKAGES = {
    "onnx": "'yoloprune[runtimes]'", "onnxruntime": "'yoloprune[runtimes]'",
    "openvino": "'yoloprune[runtimes]'", "nncf": "'yoloprune[runtimes]'",
    "ncnn": "ncnn pnnx", "litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert",
    "ai_edge_quantizer": "ai-edge-quantizer",
}  # fmt: skip
"""Module → what brings it."""
_NO_INT8 = {
    "ncnn": "ncnn's own tools for it, ncnn2table and ncnn2int8, come with its sources, not with "
    "the packages ncnn and pnnx: build them and run them on the fp32 export.",
}
"""Format → what its users do instead."""


def _is_installed(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


_MADE = ".yoloprune-export.json"
"""In a folder that an export made: which files in it are the export's."""


def refuse(target: Path) -> None:
    """Let no earlier export be replaced.

    Raises:
        ExportError: there is one.
    """
    if target.exists() or target.is_symlink():
        raise ExportError(
            f"{target}: is there already. Choose another folder with -o, or replace it with "
            "--overwrite."
        )


def put(made: Path, target: Path) -> None:
    """Give an export its place; of a folder there, only an earlier export's files go.

    Raises:
        ExportError: there is a folder that no export made.
    """
    if made.is_dir():
        inner = (path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
        files = sorted(name for name in inner if name != _MADE)
        (made / _MADE).write_text(json.dumps({"files": files}) + "\n", encoding="utf-8")
    if target.is_dir() and not target.is_symlink():
        _take_away(target)
        for file in (path for path in made.rglob("*") if target.exists() and path.is_file()):
            place = target / file.relative_to(made)
            if place.exists():
                raise ExportError(f"{place}: is no earlier export's. Move it out of the way.")
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
        if target.exists():
            return
    made.replace(target)


def _take_away(target: Path) -> None:
    """Remove an earlier export's files, the list of these last; then the folder, if empty.

    Raises:
        ExportError: there is no such list.
    """
    try:
        files = json.loads((target / _MADE).read_text(encoding="utf-8"))["files"]
        inside = [target / file for file in files if ".." not in Path(file).parts]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ExportError(
            f"{target}: is a folder that no export of yoloprune made. Choose another with -o."
        ) from exc
    for path in inside:
        if path.is_relative_to(target):
            path.unlink(missing_ok=True)
            remove_empty([folder for folder in path.parents if target in folder.parents])
    (target / _MADE).unlink()
    remove_empty([target])
