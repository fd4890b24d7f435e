"""``yoloprune mask``: weights set to zero in place, by ``torch.nn.utils.prune``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloprune.cli.app import command
from yoloprune.cli.folders import refuse_results, results_folder
from yoloprune.cli.options import (
    CfgOpt,
    DataOpt,
    DebugOpt,
    DeviceOpt,
    ImgszOpt,
    JsonOpt,
    ModelArg,
    OverwriteOpt,
    QuietOpt,
    SeedOpt,
    SettingsOpt,
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
from yoloprune.cli.tables import Column, show_line, show_table, size_of, time_of
from yoloprune.report.figures import short

if TYPE_CHECKING:
    from yoloprune.mask.spec import MaskSpec

MethodOpt = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="random_unstructured, l1_unstructured, random_structured, ln_structured, "
        "global_unstructured; n_m (--pattern), percentile, custom (--mask or --custom).",
    ),
]
AmountOpt = Annotated[
    str | None,
    typer.Option(
        metavar="A",
        help="Of each layer's weights, or slices, that are left: a share (0.4, 40%), or a number.",
    ),
]
NormOpt = Annotated[
    str | None, typer.Option("--n", help="Order of ln_structured's norm: 1, 2, inf; 2 if not.")
]
DimOpt = Annotated[
    int | None,
    typer.Option(help="What structured methods slice: 0 output channels, 1 input channels."),
]
LayersOpt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Only these layers: a name or glob, an area (backbone, neck, head), or a layer's "
        "number; repeatable.",
    ),
]
KindOpt = Annotated[
    str | None, typer.Option(help="conv: weights of convolutions; bn: scales; both; conv if not.")
]
PatternOpt = Annotated[
    str | None, typer.Option(metavar="N:M", help="Of n_m: of every M neighbours N stay; 2:4.")
]
MaskOpt = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Masks to apply, .npz or .safetensors, by weights' names."),
]
CustomOpt = Annotated[
    str | None,
    typer.Option(metavar="MODULE:CLASS", help="A class of yours, derived from BasePruningMethod."),
]
FurtherOpt = Annotated[
    bool,
    typer.Option("--further", help="Take exact zeros for masks of an earlier run, and mask more."),
]
OutOpt = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder for the results; runs/mask, mask2 … if not."),
]
PassOpt = Annotated[int, typer.Option(help="Pictures a pass in latency.", min=1)]
RoundsOpt = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Mask, fine-tune with the zeros kept, mask more of what is left: so often at most. "
        "Needs --data, --epochs and -o; after a kill the same command goes on.",
    ),
]
EpochsOpt = Annotated[
    int | None, typer.Option(metavar="E", min=1, help="Of fine-tuning in each round.")
]
DropOpt = Annotated[
    float | None,
    typer.Option(
        metavar="AP",
        help="With --rounds: end when so much AP is lost (0.01 is a point); the round before is "
        "the result.",
    ),
]
StepOpt = Annotated[
    int, typer.Option("--train-batch", help="Pictures a step in fine-tuning.", min=1)
]


@command
def mask(
    model: ModelArg = None,
    method: MethodOpt = ...,  # type: ignore[assignment]
    amount: AmountOpt = None,
    cfg: CfgOpt = None,
    weights: WeightsOpt = None,
    n: NormOpt = None,
    dim: DimOpt = None,
    layers: LayersOpt = None,
    kind: KindOpt = None,
    pattern: PatternOpt = None,
    mask: MaskOpt = None,
    custom: CustomOpt = None,
    further: FurtherOpt = False,
    seed: SeedOpt = 0,
    rounds: RoundsOpt = None,
    epochs: EpochsOpt = None,
    max_drop: DropOpt = None,
    train_batch: StepOpt = 16,
    settings: SettingsOpt = None,
    data: DataOpt = None,
    split: SplitOpt = "val",
    imgsz: ImgszOpt = None,
    batch: PassOpt = 1,
    device: DeviceOpt = "",
    out: OutOpt = None,
    overwrite: OverwriteOpt = False,
    trust: TrustOpt = False,
    json_file: JsonOpt = None,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Mask weights with zeros: the baseline that gets nothing smaller or faster."""
    from yoloprune.errors import MaskError
    from yoloprune.mask.spec import parse_amount, parse_pattern, spec_of

    spec = spec_of(
        {
            "method": method,
            "amount": None if amount is None else parse_amount(amount),
            "n": None if n is None else _norm(n),
            "dim": dim,
            "layers": tuple(layers or ()),
            "kind": kind,
            "pattern": None if pattern is None else parse_pattern(pattern),
            "mask": mask,
            "custom": custom,
            "further": further,
            "seed": seed,
        }
    )
    check_device(device)
    if rounds is not None:
        if (split, batch) != ("val", 1):
            raise MaskError("--split, --batch: are not for --rounds, which measures on val.")
        how = {"rounds": rounds, "epochs": epochs, "max_drop": max_drop, "batch": train_batch,
               "imgsz": imgsz, "device": device}  # fmt: skip
        _go_round((model, cfg, weights), spec, how, data, settings, out,
                  overwrite=overwrite, trust=trust, json_file=json_file)  # fmt: skip
        return
    if (epochs, max_drop, settings) != (None, None, None):
        raise MaskError("--epochs, --max-drop, --set: are of fine-tuning. Give --rounds, too.")
    name = f"{named(model, cfg).stem}-masked"
    with results_folder(out, "mask", lambda at: _results(at, name), overwrite=overwrite) as folder:
        loaded, source = load_model(model, cfg, weights, trust=trust)
        from yoloprune.mask.run import MaskOptions, run_mask
        from yoloprune.report.masks import write_masks_picture

        options = MaskOptions(
            spec=spec, out=folder, data=data, split=split, imgsz=imgsz, batch=batch,
            device=torch_name(device),
        )  # fmt: skip
        result = run_mask(loaded, source, options)
        record = result.summary
        picture = folder / f"{Path(record['files']['model'][0]).stem}-weights.png"
        record["files"]["picture"] = str(write_masks_picture(picture, loaded, result.model))
    _show(record)
    write_json(json_file, record)
    say(f"results in {folder}")


def _go_round(
    named_by: tuple[str | None, str | None, str | None],
    spec: MaskSpec,
    how: dict[str, Any],
    data: str | None,
    settings: list[str] | None,
    out: Path | None,
    *,
    overwrite: bool,
    trust: bool,
    json_file: Path | None,
) -> None:
    """Rounds of masks, and what came of them."""
    from yoloprune.errors import MaskError
    from yoloprune.files import check_writable
    from yoloprune.rounds.masks import MaskRounds, run_mask_rounds
    from yoloprune.train.options import parse_settings

    for flag, given in (("--data", data), ("--epochs", how["epochs"]), ("-o", out)):
        if given is None:
            raise MaskError(f"{flag}: is missing, which --rounds needs.")
    assert data is not None and out is not None
    options = MaskRounds(spec=spec, data=data, out=out, settings=parse_settings(settings or []),
                         **how)  # fmt: skip
    check_writable(out)
    loaded, source = load_model(*named_by, trust=trust)
    if not overwrite and not (out / "state.json").exists():
        refuse_results(out, _results(out, f"{source.model.stem}-masked"))
    record = run_mask_rounds(loaded, source, options, overwrite=overwrite)
    _show_rounds(record)
    write_json(json_file, record)
    say(f"results in {out}")


def _show_rounds(record: Mapping[str, Any]) -> None:
    """A row a round, why it ended, and where the result is."""
    key = record["figure"]
    rows = [
        (
            row["name"] + (" ←" if row["name"] == record["accepted"] else ""),
            f"{row['sparsity']['overall']:.1%}",
            f"{row['untrained'][key]:.4f}" if "untrained" in row else "",
            f"{row[key]:.4f}",
            short(row["params"]),
            short(row["macs"]),
        )
        for row in record["rounds_done"]
    ]
    said = "AP50:95" if key == "AP" else key.replace("_", " ")
    columns = (
        Column("", justify="left"), Column("zeros"), Column(f"{said}, just masked"),
        Column(f"{said}, fine-tuned"), Column("parameters", optional=1), Column("MACs", optional=1),
    )  # fmt: skip
    show_table(f"{record['model']} masked round by round by {record['mask']['method']}, at "
               f"{size_of(record['imgsz'])}", columns, rows)  # fmt: skip
    show_line(f"stopped: {record['stopped']}; the result is {record['accepted']}")
    if record["accepted"] == "dense":
        show_line("no round held: what is written is the network as it was given")
    if record["faster"] is not None:
        show_line(f"latency: {record['faster']}")
    for path in (*record["files"]["model"], record["files"]["masks"], record["files"]["picture"]):
        show_line(f"wrote {path}")


def _norm(text: str) -> float:
    from yoloprune.errors import MaskError

    try:
        return float(text)
    except ValueError:
        raise MaskError(
            f"--n: got {text!r}, expected the order of a norm, such as 1, 2 or inf."
        ) from None


def _results(folder: Path, name: str) -> list[Path]:
    """What an earlier mask of a model of that name left."""
    ends = (".cfg", ".weights", ".names", ".pt", "-masks.npz", "-weights.png")
    return [path for end in ends if (path := folder / f"{name}{end}").exists()]


_COLUMNS = (
    Column("", justify="left", wraps=True),
    Column("before", wraps=True),
    Column("after", wraps=True),
)


def _show(record: Mapping[str, Any]) -> None:
    """Before and after, what became of the time, and where things are."""
    before, after = record["before"], record["after"]
    title = f"{record['model']} masked by {record['spec']['method']}, at {size_of(record['imgsz'])}"
    show_table(title, _COLUMNS, _rows(before, after))
    if record["faster"] is not None:
        show_line(f"latency: {record['faster']}")
    for path in (*record["files"]["model"], record["files"]["masks"], record["files"]["picture"]):
        show_line(f"wrote {path}")


def _rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every quantity that both sides have."""
    rows = []
    for key, name in (
        ("overall", "zeros in all parameters"),
        ("conv", "zeros in weights of convolutions"),
        ("bn", "zeros in scales of BatchNorms"),
    ):
        old, new = before["sparsity"][key], after["sparsity"][key]
        rows.append((name, f"{old:.1%}", f"{new:.1%}"))
    for key, name in (
        ("params", "parameters"),
        ("macs", "MACs"),
        ("bytes", "bytes"),
        ("zipped_bytes", "bytes behind gzip"),
    ):
        rows.append((name, short(before[key]), short(after[key])))
    if "latency_ms" in before:
        name = "latency, ms (median ± IQR)"
        rows.append((name, time_of(before, "latency_ms"), time_of(after, "latency_ms")))
    rows += [
        (key.replace("_", " ") if key != "AP" else "AP50:95", f"{value:.4f}", f"{after[key]:.4f}")
        for key, value in before.items()
        if isinstance(value, float) and key in after and not key.startswith("latency")
    ]
    return rows
