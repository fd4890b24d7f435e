"""Plans as documents in ``slim``: the flags ``--plan`` and ``--dry-run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloprune.cli.app import was_given

PlanOpt = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Carry out this plan, as slim wrote it or as you edited it, instead of choosing.",
    ),
]
DryOpt = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show the plan and stop: nothing is cut. With -o it is written there, and drawn.",
    ),
]

_BESIDE_A_PLAN = frozenset(
    {
        "model",
        "cfg",
        "weights",
        "compensate",
        "calib",
        "calib_images",
        "repair",
        "plan",
        "split_routes",
        "target",
        "out",
        "overwrite",
        "data",
        "dry_run",
        "split",
        "imgsz",
        "batch",
        "device",
        "trust",
        "json_file",
        "quiet",
        "debug",
    }
)
"""Parameters of ``slim`` that do not choose what goes."""


def check_nothing_chooses(context: typer.Context) -> None:
    """Let no flag stand beside ``--plan`` that says what is to go, too.

    Raises:
        PlanError: one does; all of them are named.
    """
    from yoloprune.errors import PlanError

    given = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in _BESIDE_A_PLAN and was_given(context, name):
            given.append(max(parameter.opts, key=len))
    if given:
        raise PlanError(f"--plan: says what goes. Leave {', '.join(given)} out.")
