"""What several commands share: their options, and what becomes of these."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import OUTPUT, STANDARD
from yoloprune.cli.spelling import share
from yoloprune.plain import plain
from yoloprune.progress import stage

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source

ModelArg = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="A .cfg (with --weights), .pt or Ultralytics .yaml."),
]
CfgOpt = Annotated[str | None, typer.Option("--cfg", help="The same as MODEL.")]
WeightsOpt = Annotated[
    str | None,
    typer.Option(help="Darknet weights; weights/NAME.weights is looked up, then fetched, if not."),
]
DataOpt = Annotated[str | None, typer.Option(help="Data YAML, or Darknet .data, to measure AP on.")]
SplitOpt = Annotated[str, typer.Option(help="Split of the data: train, val or test.")]
HeldSplitOpt = Annotated[
    str,
    typer.Option(
        "--split",
        help="Split of the data: train, val or test; or held-back, a fifth of train that is then "
        "kept from repair.",
    ),
]
DeviceOpt = Annotated[str, typer.Option(help="cpu, 0, cuda:0 …; a GPU if there is one.")]
ImgszOpt = Annotated[int | None, typer.Option(help="Side of the input in pixels.", min=32)]


def _json_target(path: Path | None) -> Path | None:
    """Refuse to replace what is no JSON: a picture or a network that was meant to be read."""
    if path is not None and path != STANDARD and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder, expected a file that is written.")
    if path is not None and _holds_something_else(path):
        raise typer.BadParameter(
            f"{path} is there already, and no JSON that could be replaced. Name the file that is "
            "to be written, or - for standard output."
        )
    return path


def _holds_something_else(path: Path) -> bool:
    """Whether a file is there that is neither empty nor a JSON object."""
    if path == STANDARD or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4096).lstrip()
    return bool(start) and not start.startswith(b"{")


JsonOpt = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=_json_target,
        help="Write the result here as JSON; - is standard output, and all else goes to the other.",
    ),
]
DebugOpt = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Only results, warnings and errors.")]
VerboseOpt = Annotated[bool, typer.Option("--verbose", "-v", help="All that Ultralytics says.")]
PercentOpt = Annotated[
    float | None,
    typer.Option(
        help="Share of prunable channels to remove; 0.5 if no limit is set.", callback=share
    ),
]
MacsOpt = Annotated[
    str | None,
    typer.Option(metavar="LIMIT", help="Multiply-adds that may stay: a share (0.5) or 2.1G."),
]
ParamsOpt = Annotated[
    str | None, typer.Option(metavar="LIMIT", help="Parameters that may stay: 0.5, or 3M.")
]
BytesOpt = Annotated[
    str | None,
    typer.Option(
        "--bytes", metavar="LIMIT", help="Bytes of the weights that may stay: 0.5, or 2MB."
    ),
]
PrecisionOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What --bytes counts in: fp32, fp16, int8; if not, as the model's file keeps them.",
    ),
]
MinChannelsOpt = Annotated[int, typer.Option(help="Every layer keeps at least so many.")]
MaxLayerOpt = Annotated[float, typer.Option(help="Most that one layer may lose.", callback=share)]
MaxDropOpt = Annotated[
    float | None,
    typer.Option(
        metavar="AP",
        callback=share,
        help="Search the smallest network that loses at most so much AP (0.01 is a point) after "
        "repair, on --split of --data. It tries seven cuts.",
    ),
]
RatiosOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="YAML with shares of single layers, by name or glob: `backbone.*: 0.3`, "
        "`model.4.*: {min: 0.1, max: 0.5}`, `head.*: 0`. The rest meets the budget, if one is set.",
    ),
]
RoundOpt = Annotated[
    int | None,
    typer.Option(help="Keep multiples of this, rounded up; 8, or what --target wants, if not."),
]
SettingsOpt = Annotated[
    list[str] | None, typer.Option("--set", help="Ultralytics setting, key=value; repeatable.")
]
OverwriteOpt = Annotated[
    bool, typer.Option("--overwrite", help="Replace the results of another run in --out.")
]
SeedOpt = Annotated[int, typer.Option(help="Of everything random.", min=0)]
TrustOpt = Annotated[
    bool, typer.Option("--trust", help="Unpickle a .pt of unknown classes. That can run any code.")
]


def load_model(
    model: str | None, cfg: str | None, weights: str | None, *, scratch: bool = False, trust: bool
) -> tuple[nn.Module, Source]:
    """The one model that MODEL or --cfg names."""
    path = str(named(model, cfg))
    with stage("loading"):
        from yoloprune.models.door import load

        return load(path, weights, scratch=scratch, trust=trust)


def named(model: str | None, cfg: str | None) -> Path:
    """The file or the bare name of the one model that MODEL or --cfg names."""
    if (model is None) == (cfg is None):
        raise typer.BadParameter("name one model: either MODEL or --cfg FILE.")
    return Path(model or cfg or "")


def seconds_of(text: str, flag: str) -> float:
    """Read a time such as ``90``, ``90s``, ``3m`` or ``1.5h``."""
    from yoloprune.errors import PlanError
    from yoloprune.prune import asking

    try:
        return asking.seconds_of(text, flag)
    except PlanError as exc:
        raise typer.BadParameter(str(exc)) from exc


def torch_name(name: str) -> str:
    """Spell a device as torch does."""
    from yoloprune.models.door import torch_device

    return torch_device(name)


def check_device(name: str) -> None:
    """Fail before any work where a device is none, or is not there.

    Raises:
        MeasureError: it is.
    """
    with stage("loading"):
        import torch

    from yoloprune.errors import MeasureError

    count = torch.cuda.device_count()
    there = "cpu" if not count else f"cpu, 0 to {count - 1}" if count > 1 else "cpu, 0"
    parts = [part.strip() for part in name.strip("[]() ").split(",")]
    for part in parts:
        if part in ("", "-1") or (part.split(":")[0] in _ELSEWHERE and len(parts) == 1):
            continue
        try:
            device = torch.device(f"cuda:{part}" if part.isdecimal() else part)
        except RuntimeError as exc:
            raise MeasureError(
                f"--device: is no device, got {name!r}, expected one of {there}."
            ) from exc
        missing = device.type == "cuda" and (device.index or 0) >= count
        missing |= device.type == "mps" and not torch.backends.mps.is_available()
        if missing or device.type not in ("cpu", "cuda", "mps"):
            raise MeasureError(f"--device: is not there, got {name!r}, expected one of {there}.")


_ELSEWHERE = ("dla", "npu", "xpu", "tpu", "intel")
"""Devices of which only Ultralytics' exporters know whether they are there."""


def write_json(path: Path | None, record: dict[str, Any]) -> None:
    """Write a record where --json asks for it."""
    text = json.dumps(record, indent=2) + "\n"
    if path == STANDARD:
        print(text, end="", file=OUTPUT.get(), flush=True)
    elif path is not None and path.exists() and not path.is_file():  # a device, a pipe
        path.write_text(text, encoding="utf-8")
    elif path is not None:
        from yoloprune.errors import FormatError
        from yoloprune.files import write_bytes

        if _holds_something_else(path):  # a result that this very command has written
            raise FormatError(f"--json: {path} holds a result, which it would replace.")
        write_bytes(path, text.encode())


def is_first() -> bool:
    """Whether this is the only process, or the one of a distributed run that speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str) -> None:
    """A line for people, at once."""
    print(plain(text), flush=True)


def note(text: str) -> None:
    """A line on how it goes, which --quiet leaves out."""
    log.info("%s", text)


def warn(text: str) -> None:
    """A line for people that is not a result."""
    print(f"warning: {plain(text)}", file=sys.stderr, flush=True)
