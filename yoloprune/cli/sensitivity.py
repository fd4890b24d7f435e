"""``yoloprune sensitivity``: what each part of a network costs when it alone is pruned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command, was_given
from yoloprune.cli.folders import results_folder
from yoloprune.cli.next_steps import model_words, show_next
from yoloprune.cli.options import (
    CfgOpt,
    DataOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    ModelArg,
    QuietOpt,
    SeedOpt,
    SplitOpt,
    TrustOpt,
    WeightsOpt,
    check_device,
    load_model,
    named,
    say,
    torch_name,
    write_json,
)
from yoloprune.cli.tables import Column, show_line, show_table, size_of

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source
    from yoloprune.prune.sensing import SensitivityOptions
    from yoloprune.prune.sensitivity import Sensitivity

CalibOpt = Annotated[
    str | None,
    typer.Option(
        help="Pictures without labels to repair with, and to compare on where no --data is given: "
        "a folder, a pattern, a .txt list or a data YAML; if not, the train split of --data."
    ),
]
CalibImagesOpt = Annotated[int, typer.Option(help="How many of them.", min=4)]
SharesOpt = Annotated[
    str, typer.Option(metavar="P,P,…", help="Shares of a part's channels that go.")
]
CriterionOpt = Annotated[
    str | None,
    typer.Option(help="What ranks channels within a part, as in slim; what suits the network."),
]
RepairOpt = Annotated[bool, typer.Option(help="Measure after repair, too.")]
LocalOpt = Annotated[
    bool,
    typer.Option(
        "--local", help="Repair only what reads the channels that went, in half of the time."
    ),
]
QuickOpt = Annotated[
    bool,
    typer.Option(
        "--quick", help="In a tenth of the time: half of each part, silenced, on 16 pictures."
    ),
]
JobsOpt = Annotated[int | None, typer.Option(help="Processes; as many as there are cores.", min=1)]
OutOpt = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", help="Folder for the results; what it has already is not measured again."
    ),
]


@command
def sensitivity(
    context: typer.Context,
    model: ModelArg = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    data: DataOpt = None,
    split: SplitOpt = "val",
    calib: CalibOpt = None,
    calib_images: CalibImagesOpt = 32,
    shares: SharesOpt = "0.25,0.5,0.75",
    quick: QuickOpt = False,
    criterion: CriterionOpt = None,
    repair: RepairOpt = True,
    local: LocalOpt = False,
    jobs: JobsOpt = None,
    imgsz: ImgszOpt = None,
    seed: SeedOpt = 0,
    out: OutOpt = None,
    device: DeviceOpt = "",
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Prune each part alone, at several widths, and measure what is lost."""
    check_device(device)
    if quick:
        repair, shares, calib_images = _in_a_hurry(context)
    asked = _shares(shares)
    stem = f"{named(model, cfg).stem}-sensitivity"
    with results_folder(out, "sensitivity", lambda at: [], overwrite=False) as folder:
        loaded, source = load_model(model, cfg, weights, trust=trust)
        from yoloprune.measure.tasks import check_data
        from yoloprune.models.door import input_size_of
        from yoloprune.progress import progress
        from yoloprune.prune.calibrate import calibration, calibration_source, lessons_for
        from yoloprune.prune.choose import check_criterion
        from yoloprune.prune.sensing import SensitivityOptions, sense

        if data is not None:
            check_data(loaded, data, split)
        size = input_size_of(loaded, imgsz)
        where = calibration_source(calib, data, repair=repair, criterion=criterion)
        check_criterion(criterion, "local", pictures=where is not None)
        found = calibration(loaded, where, size, calib_images, asked=calib is not None)
        lessons = lessons_for(loaded, criterion, (calib, data), size, calib_images)
        place = torch_name(device)
        with progress("sensitivity") as advance:
            options = SensitivityOptions(
                file=folder / f"{stem}.json",
                model=source.model.name,
                shares=asked,
                data=data,
                split=split,
                pictures=None if found is None else found.images,
                imgsz=size,
                repair=repair,
                local=local,
                criterion=criterion,
                lessons=lessons,
                jobs=(jobs or os.cpu_count() or 1) if place == "cpu" else 1,
                device=place,
                seed=seed,
                progress=advance,
            )
            result = sense(loaded, options)
        _tell(loaded, source, result, options, json_file)
    say(f"results in {folder}")


def _in_a_hurry(context: typer.Context) -> tuple[bool, str, int]:
    """Repair, shares and pictures of ``--quick``; those that were given beside it stay."""
    usual: dict[str, Any] = {"repair": False, "shares": "0.5", "calib_images": 16}
    repair, shares, calib_images = (
        context.params[name] if was_given(context, name) else value for name, value in usual.items()
    )
    return repair, shares, calib_images


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as exc:
        raise typer.BadParameter(
            f"--shares: got {text!r}, expected numbers such as 0.25,0.5,0.75."
        ) from exc


def _tell(
    model: nn.Module,
    source: Source,
    found: Sensitivity,
    options: SensitivityOptions,
    json_file: Path | None,
) -> None:
    """A row a part, the picture, and what to type next."""
    from dataclasses import asdict

    from yoloprune.channels.trace import trace
    from yoloprune.measure.size import count
    from yoloprune.prune.sensitivity import parts
    from yoloprune.report.sensitivity import write_sensitivity_picture

    size = {layer.name: layer.macs for layer in count(model, options.imgsz).layers}
    total = max(sum(size.values()), 1)
    macs = {
        part.name: sum(size.get(path, 0) for path in part.layers) / total
        for part in parts(trace(model))
    }
    picture = options.file.with_suffix(".png")
    _show(found, macs, options)
    write_sensitivity_picture(picture, found, macs)
    show_line(f"wrote {options.file}")
    show_line(f"wrote {picture}")
    show_next("slim", *model_words(source), "--macs", 0.5, "--sensitivity", options.file)
    record: dict[str, Any] = {
        **asdict(found), "macs": macs, "files": [str(options.file), str(picture)]
    }  # fmt: skip
    write_json(json_file, record)


def _show(found: Sensitivity, macs: dict[str, float], options: SensitivityOptions) -> None:
    shares = sorted({m.share for m in found.measured})
    cells: dict[str, dict[float, str]] = {}
    for m in found.measured:
        after = "" if m.after is None else f" → {m.after:.3f}"
        cells.setdefault(m.part, {})[m.share] = f"{m.before:.3f}{after}"
    columns = (
        Column("part (its first layer)", justify="left"),
        Column("MACs", optional=1),
        *(Column(f"{share:.0%} gone") for share in shares),
    )
    rows = [
        (name, f"{macs.get(name, 0.0):.1%}", *(row.get(share, "") for share in shares))
        for name, row in cells.items()
    ]
    what = "AP lost" if found.by == "AP" else "distance of detections from the full network's"
    show_table(f"{found.model} at {size_of(list(options.imgsz))}: {what}", columns, rows)
