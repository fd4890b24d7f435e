"""The one door for model files: Darknet ``.cfg``, Ultralytics ``.pt`` and ``.yaml``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.nn.utils import prune

from yoloprune.darknet.cfg import cfg_bytes, read_cfg
from yoloprune.darknet.network import (
    DarknetModel,
    class_names,
    current_cfg,
    load_weights,
    save_weights,
    weight_fields,
)
from yoloprune.darknet.weights import expected_bytes
from yoloprune.darknet.zoo import find_cfg, find_weights, local_weights
from yoloprune.errors import CfgError, FormatError, WeightsError
from yoloprune.fetch import cache_folder
from yoloprune.files import replacing_together, settle, sha256
from yoloprune.texts import kind_of, read_text

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model came from.

    Attributes:
        model: the ``.cfg``, ``.pt`` or ``.yaml`` file.
        weights: the ``.weights`` file of a Darknet model, where it has one.
    """

    model: Path
    weights: Path | None = None

    @property
    def parameters(self) -> Path:
        """The file that holds the parameters."""
        return self.weights or self.model


def load(
    path: str | Path,
    weights: str | Path | None = None,
    *,
    scratch: bool = False,
    trust: bool = False,
) -> tuple[nn.Module, Source]:
    """Load a detector in evaluation mode, on the CPU, in float32.

    Args:
        path: a file, or the bare name of a cfg that ships with yoloprune.
        weights: a Darknet ``.weights`` file; looked up by the cfg's name, and downloaded where
            a public address is known, when None.
        scratch: leave the parameters at their random start instead.
        trust: unpickle a ``.pt`` that names classes beyond torch's and Ultralytics' own, which
            can run any code.

    Raises:
        CfgError, WeightsError, CheckpointError: the file is missing, malformed or not safe.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".cfg":
        return _load_darknet(path, weights, scratch)
    if weights is not None:
        raise FormatError(f"{path}: takes no --weights, since it is no .cfg, got {weights}.")
    if suffix == ".pt":
        from yoloprune.models.checkpoint import read_checkpoint
        from yoloprune.models.released import find_checkpoint

        found = find_checkpoint(Path(path))
        with _kept_if_it_loads(found):
            return read_checkpoint(found, trust=trust), Source(found)
    if suffix in (".yaml", ".yml"):
        from yoloprune.models.description import load_description

        return load_description(Path(path)), Source(Path(path))
    raise FormatError(f"{path}: unknown kind of model, expected .cfg, .pt or .yaml.")


@contextmanager
def _kept_if_it_loads(path: Path) -> Iterator[None]:
    """Remove a file of our cache that does not load: it would fail the same way for ever."""
    try:
        yield
    except FormatError:
        if path.parent == cache_folder():
            path.unlink(missing_ok=True)
        raise


def _load_darknet(
    path: str | Path, weights: str | Path | None, scratch: bool
) -> tuple[DarknetModel, Source]:
    cfg_path = find_cfg(path)
    settle(cfg_path.parent)  # a save of the pair that was killed is completed or undone
    model = DarknetModel(read_cfg(cfg_path))
    names = _with_suffix(cfg_path, ".names")
    if names.is_file():
        model.names = _read_names(names, model.nc)
    if scratch:
        return model.eval(), Source(cfg_path)
    found = find_weights(cfg_path, weights, expected_bytes(weight_fields(model)))
    with _kept_if_it_loads(found):
        kind = kind_of(found)
        if kind is not None:
            raise WeightsError(f"{found}: are no Darknet weights but {kind}.")
        load_weights(model, found)
    return model.eval(), Source(cfg_path, found)


def _read_names(path: Path, classes: int) -> dict[int, str]:
    """The class names of a Darknet ``.names`` file, one a line."""
    lines = read_text(path, CfgError).splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != classes:
        raise CfgError(f"{path}: has {len(names)} names, the cfg beside it {classes} classes.")
    return dict(enumerate(names))


def lacks_weights(path: str | Path) -> bool:
    """Whether a model is a cfg whose weights are not at hand."""
    return Path(path).suffix.lower() == ".cfg" and local_weights(find_cfg(path)) is None


def input_size_of(model: nn.Module, imgsz: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width to measure at: as asked, else the model's own."""
    if imgsz is not None:
        return imgsz if isinstance(imgsz, tuple) else (imgsz, imgsz)
    if isinstance(model, DarknetModel):
        return model.net_size
    args = getattr(model, "args", None)
    size = args.get("imgsz", 640) if isinstance(args, dict) else getattr(args, "imgsz", 640)
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def torch_device(name: str) -> str:
    """The first of the devices that Ultralytics is given, as torch spells it; a GPU if any."""
    import torch

    first = name.split(",")[0].strip()
    if first.isdigit():
        return f"cuda:{first}"
    if first in ("", "-1"):
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return first


def digest(source: Source) -> str | None:
    """SHA-256 of the file that holds a model's parameters; None where there is no such file."""
    return sha256(source.parameters) if source.parameters.is_file() else None


def save(model: nn.Module, path: str | Path) -> tuple[Path, ...]:
    """Write a model in the format of its family.

    Args:
        model: a ``DarknetModel`` (written as ``.cfg`` and ``.weights``) or an Ultralytics model.
        path: the target; its suffix (.cfg, .weights, .pt or none) becomes those of the format.
            A name that stock Ultralytics would change (``yolov5n.pt``) is changed here as it
            would, with a message.

    Returns:
        The model's files. Class names other than COCO's and VOC's stand beside a cfg as
        ``.names``, one a line, where :func:`load` finds them again.

        A kill at any moment leaves all of these as they were, or all new, see
        :mod:`yoloprune.files`.

    Raises:
        FormatError: the model carries masks that are not permanent, which no format of ours has.
        YoloPruneError: the target cannot be written to; nothing is left half-written.
    """
    path = Path(path)
    if prune.is_pruned(model):
        raise FormatError(
            f"{path}: not written: the model carries masks of torch.nn.utils.prune. Make them "
            "permanent first: yoloprune.made_permanent(model)."
        )
    if isinstance(model, DarknetModel):
        cfg_path, weights_path = _with_suffix(path, ".cfg"), _with_suffix(path, ".weights")
        names_path = _with_suffix(path, ".names")
        # what stands there would be read with the new cfg, even if it needs no names
        named = model.names != class_names(model.nc) or names_path.exists()
        settle(cfg_path.parent)
        targets = (cfg_path, weights_path, *((names_path,) if named else ()))
        with replacing_together(*targets) as (cfg_file, weights_file, *names_file):
            cfg_file.write_bytes(cfg_bytes(current_cfg(model)))
            save_weights(model, weights_file)
            for file in names_file:
                lines = "".join(f"{model.names[i]}\n" for i in range(model.nc))
                file.write_bytes(lines.encode())
        return cfg_path, weights_path
    from yoloprune.models.checkpoint import stock_name, write_checkpoint

    target = stock_name(_with_suffix(path, ".pt"))
    write_checkpoint(model, target)
    return (target,)


def _with_suffix(path: Path, suffix: str) -> Path:
    """The path with a suffix of ours; what follows the last dot of ``net-1.1`` is none."""
    known = path.suffix.lower() in (".cfg", ".weights", ".pt")
    return path.with_suffix(suffix) if known else path.with_name(path.name + suffix)
