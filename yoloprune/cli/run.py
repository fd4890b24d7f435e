"""``yoloprune run``: a recipe, round by round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from yoloprune.cli.app import command, typed
from yoloprune.cli.folders import RUNS, new_folder, there
from yoloprune.cli.next_steps import show_next
from yoloprune.cli.options import (
    DebugOpt,
    JsonOpt,
    OverwriteOpt,
    QuietOpt,
    VerboseOpt,
    check_device,
    note,
    say,
    write_json,
)
from yoloprune.cli.tables import Column, show_line, show_table, size_of, time_of
from yoloprune.report.figures import short


@command
def run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for everything; runs/NAME if not.")
    ] = None,
    overwrite: OverwriteOpt = False,
    json_file: JsonOpt = None,
    verbose: VerboseOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Carry out a recipe, round by round; after a kill the same command goes on."""
    from yoloprune.rounds.recipe import read_recipe

    checked = read_recipe(recipe)
    check_device(checked.device)
    from yoloprune.rounds.folder import finished_record, is_unfinished_run_of, refuse_others

    begun = (
        [] if out else [at for at in there(RUNS, recipe.stem) if is_unfinished_run_of(checked, at)]
    )
    with new_folder(begun[0] if begun else out, recipe.stem) as folder:
        if not overwrite:
            refuse_others(folder, checked)
        record = None if overwrite else finished_record(folder)
        note(f"results go to {folder}")
        if record is not None:
            note("it is finished; to begin another run, choose another folder, or --overwrite")
        else:
            from yoloprune.rounds.run import run_recipe

            record = run_recipe(
                checked, folder, overwrite=overwrite, verbose=verbose, command=typed(context)
            ).record
    _show(record)
    show_next("export", record["files"]["model"][0], "--format", "onnx")
    write_json(json_file, record)
    say(f"results in {folder}")


_COLUMNS = (
    Column("", justify="left"),
    Column("gone", optional=1),
    Column("AP50:95"),
    Column("AP50", optional=4),
    Column("parameters", optional=2),
    Column("MACs"),
    Column("bytes", optional=3),
    Column("latency, ms", optional=1),
)


def _show(record: Mapping[str, Any]) -> None:
    """A row a round, why it ended, and where the result is."""
    rows = [
        (
            row["name"] + (" ←" if row["name"] == record["accepted"] else ""),
            f"{row['percent']:.0%}" if "percent" in row else "",
            f"{row['AP']:.4f}",
            f"{row['AP50']:.4f}",
            short(row["params"]),
            short(row["macs"]),
            short(row["bytes"]),
            time_of(row, "latency_ms"),
        )
        for row in record["rounds"]
    ]
    title = f"{record['data']} ({record['images']} pictures) at {size_of(record['imgsz'])}"
    show_table(title, _COLUMNS, rows)
    show_line(f"stopped: {record['stopped']}; the result is {record['accepted']}")
    files = record["files"]
    for path in (*files["model"], files["picture"], files.get("report"), files.get("card")):
        if path:  # an earlier version wrote fewer
            show_line(f"wrote {path}")
