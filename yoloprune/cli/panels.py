"""How ``--help`` is laid out: the same groups of options, in the same order, in every command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "Model": ("model", "cfg", "weights", "trust", "scratch"),
    "Pictures and data": (
        "images", "data", "pictures", "split", "calib", "calib_images", "imgsz",
    ),
    "How much goes": (
        "percent", "macs", "params", "max_bytes", "precision", "latency", "runtime", "threads",
        "latency_table", "max_drop", "blocks", "min_channels", "max_layer_prune", "round_to",
        "target", "amount",
    ),
    "What goes": (
        "criterion", "scope", "reduce", "ratios", "search", "sensitivity", "plan", "shares",
        "local", "quick", "method", "n", "dim", "layers", "kind", "pattern", "mask", "custom",
        "further",
    ),
    "The cut": ("repair", "compensate", "split_routes"),
    "Training": (
        "epochs", "steps", "batch", "preset", "only", "keep_zeros", "settings", "rounds",
        "train_batch", "resume",
    ),
    "Sparsity": ("sparsity", "importance", "until", "strength", "decay"),
    "A teacher": ("teacher", "distil_mode", "distil_weight", "distil_fade"),
    "Detections": ("conf", "iou", "max_det"),
    "Format": ("file_format", "dynamic", "half", "keep_float"),
    "Measuring": ("baseline", "networks", "repeats", "memory", "jobs"),
    "Running": ("runtimes", "device", "seed"),
    "Output": (
        "out", "overwrite", "save", "dry_run", "json_file", "quiet", "verbose", "debug", "help",
    ),
}  # fmt: skip
"""Title of a group → names of the parameters in it, in order."""
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "Make it smaller": ("slim", "train", "run", "mask", "export"),
    "Measure and look": (
        "info", "val", "predict", "bench", "profile", "sensitivity", "diff", "targets", "doctor",
    ),
}  # fmt: skip
"""Title of a group → the commands in it."""
_ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("info", "blocks"): "Output",
    ("profile", "runtime"): "Running",
    ("profile", "threads"): "Running",
    ("profile", "precision"): "Running",
    ("profile", "round_to"): "Measuring",
    ("info", "target"): "Running",
    **{("export", name): "Format" for name in ("precision", "max_drop", "settings")},
    **{("bench", name): "Running" for name in ("precision", "threads", "batch")},
    **{(command, "batch"): "Running" for command in ("export", "mask", "profile", "slim", "val")},
}
"""Command and parameter → the group, where the parameter means another thing there."""
_VALUES: Mapping[str, str] = {
    "cfg": "FILE", "weights": "FILE", "data": "DATA", "pictures": "PICTURES", "calib": "PICTURES",
    "out": "FOLDER", "percent": "SHARE", "until": "SHARE",
    "max_layer_prune": "SHARE", "conf": "SHARE", "iou": "SHARE", "settings": "KEY=VALUE",
    "teacher": "MODEL", "custom": "MODULE:CLASS",
}  # fmt: skip
"""What is written in place of a value; by its type where it is not here."""
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "slim": (
        "yoloprune slim mine.pt --macs 0.5 --calib pictures/",
        "yoloprune slim --cfg yolov4-tiny.cfg --percent 0.5",
        "yoloprune slim mine.pt --latency 10ms --runtime onnxruntime --data mine.yaml",
        "yoloprune slim mine.pt --macs 0.5 --dry-run",
    ),
    "train": (
        "yoloprune train mine-slim.pt data=mine.yaml epochs=50 imgsz=640",
        "yoloprune train mine-slim.pt --pictures pictures/ --teacher mine.pt",
        "yoloprune train --resume mine-slim.pt data=mine.yaml epochs=50 imgsz=640",
    ),
    "run": ("yoloprune run recipe.yaml",),
    "export": ("yoloprune export mine-slim.pt --format onnx",),
    "info": ("yoloprune info mine.pt", "yoloprune info mine.pt --json - | jq .totals"),
    "val": ("yoloprune val mine.pt data=mine.yaml",),
    "predict": (
        "yoloprune predict mine.pt pictures/ clip.mp4 --conf 0.4",
        "yoloprune predict --cfg yolov4-tiny.cfg 'pictures/*.jpg' --json -",
    ),
    "bench": (
        "yoloprune bench mine-slim.pt --baseline mine.pt --data mine.yaml",
        "yoloprune bench mine.pt mine-slim.pt --runtimes all --threads 1,2",
    ),
    "profile": ("yoloprune profile mine.pt",),
    "sensitivity": ("yoloprune sensitivity mine.pt --data mine.yaml",),
    "mask": ("yoloprune mask mine.pt --method l1_unstructured --amount 0.5",),
    "diff": ("yoloprune diff a-plan.json b-plan.json",),
    "targets": ("yoloprune targets", "yoloprune targets onnxruntime"),
    "doctor": ("yoloprune doctor", "yoloprune doctor --json -"),
}
"""Command → lines that a user may begin with, printed below its help."""
_GROUP = {name: title for title, names in OPTIONS.items() for name in names}
_RANK = {name: rank for rank, name in enumerate(_GROUP)}


class Command(TyperCommand):
    """A command whose ``--help`` has the groups of this module, and examples."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        lay_out(self)

    def get_help_option(self, ctx: Any) -> Any:
        """As ever, in the last group."""
        option = super().get_help_option(ctx)
        if option is not None:
            _place(option, self.name)
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the options in their groups, and examples."""
        super().format_help(ctx, formatter)
        lines = EXAMPLES.get(self.name or "", ())
        if lines:
            print("\n".join([" Examples:", *(f"   {line}" for line in lines)]), end="\n\n")


def lay_out(command: Any) -> None:
    """Put every option of a command into its group; the order within is that of the groups.

    An option that has a group of its own, or none here, stays where it is.
    """
    titles = list(OPTIONS)

    def rank(option: Any) -> tuple[int, int]:
        title = option.rich_help_panel
        at = titles.index(title) if title in titles else len(titles)
        return at, _RANK.get(option.name, len(_RANK))

    arguments = [option for option in command.params if not _is_option(option)]
    for argument in arguments:
        argument.display_type_rich = lambda ctx: ""  # the metavar says it already
    options = [option for option in command.params if _is_option(option)]
    for option in options:
        _place(option, command.name)
    command.params = [*arguments, *sorted(options, key=rank)]


def _place(option: Any, command: str | None) -> None:
    """Give an option its group, and what stands for its value."""
    if option.rich_help_panel is None:
        option.rich_help_panel = group_of(command, option.name)
    if option.metavar is None:
        flag = option.is_flag or option.count
        option.metavar = "" if flag else _VALUES.get(option.name) or _by_type(option)


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def group_of(command: str | None, parameter: str) -> str | None:
    """The group of a parameter, by names; None where it has none."""
    return _ELSEWHERE.get((command or "", parameter)) or _GROUP.get(parameter)


def command_group(name: str) -> str | None:
    """The group of a command; None where it has none."""
    return next((title for title, names in COMMANDS.items() if name in names), None)


def _by_type(option: Any) -> str | None:
    """What stands for a value of its type; None where an older Typer does not tell that."""
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    return None if kind is None else {int: "N", float: "X", Path: "FILE"}.get(kind, "NAME")
