"""``yoloprune slim --dry-run``: the plan as a table, a picture and a file, and nothing cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from yoloprune.cli.folders import results_folder
from yoloprune.cli.next_steps import model_words, show_next
from yoloprune.cli.options import warn, write_json
from yoloprune.cli.shorter import shortened
from yoloprune.cli.tables import Column, show_line, show_table, size_of
from yoloprune.report.figures import short

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.models.door import Source
    from yoloprune.prune.given import Decision
    from yoloprune.prune.options import SlimOptions
    from yoloprune.prune.outline import Limit, Line, Outline


@contextmanager
def dry_folder(out: Path | None, stem: str, *, overwrite: bool) -> Iterator[Path]:
    """Where a dry run writes: the folder that is asked for, else one that is gone afterwards.

    Args:
        out: as asked for.
        stem: of the model's name.
        overwrite: an earlier plan there may be replaced.

    Raises:
        YoloPruneError: as :func:`yoloprune.cli.folders.results_folder`.
    """
    if out is None:
        with TemporaryDirectory(prefix="yoloprune-") as temporary:
            yield Path(temporary)
        return

    def there(folder: Path) -> list[Path]:
        return [path for path in _files(folder, stem) if path.exists()]

    with results_folder(out, "slim", there, overwrite=overwrite) as folder:
        yield folder


def show_plan(
    model: nn.Module, source: Source, options: SlimOptions, json_file: Path | None, *, keep: bool
) -> None:
    """Decide what goes, and tell it.

    Args:
        model: a loaded detector.
        source: the files it came from.
        options: of the cut that is not carried out.
        json_file: where the same goes as data.
        keep: write the plan and its picture to the folder of ``options``.

    Raises:
        YoloPruneError: as :func:`yoloprune.prune.slim.slim` up to the plan.
    """
    from yoloprune.measure.size import count
    from yoloprune.prune.choose import alive_warning
    from yoloprune.prune.deciding import decide
    from yoloprune.prune.outline import outline
    from yoloprune.prune.ready import search_log
    from yoloprune.prune.stopwatch import Stopwatch

    watch = Stopwatch()
    decision = decide(model, source, options, watch)
    graph, plan = decision.graph, decision.plan
    size = count(decision.model, decision.size)
    how = {"clock": decision.clock, "budget": decision.budget}
    found = watch.run("outline", outline, decision.model, graph, plan, size, **how)
    alive = alive_warning(decision.model, graph, decision.choice, plan.remove(graph))
    warnings = decision.warnings(alive, repair=options.repair)
    _show(source, decision, found)
    for text in warnings:
        warn(text)
    files = _written(source, options, decision, found) if keep else ()
    search_log(options.out, source.model.stem).unlink(missing_ok=True)
    for path in files:
        show_line(f"wrote {path}")
    if files:
        also = ["--split-routes"] if options.split_routes else []
        show_next("slim", *model_words(source), *also, "--plan", files[0])
    else:
        show_line("nothing was written; with -o DIR the plan would be, for --plan to carry out")
    write_json(json_file, _record(source, decision, found, warnings, files, watch.seconds))


def _files(folder: Path, stem: str) -> tuple[Path, Path]:
    """The plan and its picture."""
    return folder / f"{stem}-plan.json", folder / f"{stem}-plan.png"


def _written(
    source: Source, options: SlimOptions, decision: Decision, found: Outline
) -> tuple[Path, ...]:
    from yoloprune.report.plan import write_plan_picture

    plan, picture = _files(options.out, source.model.stem)
    size = size_of(list(decision.size))
    title = f"{source.model.name} at {size}: {decision.plan.budget.asked}"
    write_plan_picture(picture, found, title)
    decision.plan.write(plan)
    return plan, picture


_LAYERS = (
    Column("layer", justify="left"),
    Column("channels"),
    Column("MACs"),
    Column("left", optional=3),
    Column("ms", optional=1),
    Column("frozen"),
)
_TOTALS = (
    Column("", justify="left", wraps=True),
    Column("before"),
    Column("after"),
    Column("left", optional=1),
    Column("asked", justify="left", wraps=True),
)


def _show(source: Source, decision: Decision, found: Outline) -> None:
    """A row a layer, what the letters in it mean, and the totals."""
    reasons = list(dict.fromkeys(reason for line in found.lines for reason in line.why))
    letters = {reason: _letter(i) for i, reason in enumerate(reasons)}
    timed = any(line.ms_before is not None for line in found.lines)
    shown = [i for i, column in enumerate(_LAYERS) if timed or column.name != "ms"]
    rows = [_row(line, letters) for line in found.lines]
    if any(found.elsewhere):
        rows.append(_macs_row("no layer with weights", *found.elsewhere))
    show_table(
        f"{source.model} at {size_of(list(decision.size))}",
        [_LAYERS[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
    )
    for reason, letter in letters.items():
        held = [line.why[reason] for line in found.lines if reason in line.why]
        layers = f"{len(held)} layer{'s' if len(held) > 1 else ''}"
        show_line(f"frozen, {letter}: {reason} ({sum(held):,} channels in {layers})")
    show_table("in all", _TOTALS, _totals(decision, found))
    if decision.shorter is not None:
        show_line(shortened(decision.shorter.to_dict()) + "; both tables are without them")
    plan, choice = decision.plan, decision.choice
    where = f", {choice.scope}" if choice.scope else ""
    show_line(
        f"{plan.reached.channels} of {plan.reached.prunable_channels} prunable channels would go "
        f"({plan.reached.percent:.1%}, {plan.reached.units} units) by {plan.criterion}{where}: "
        f"{choice.why}"
    )


def _letter(index: int) -> str:
    """From ``a`` to ``z``, then ``a2`` and so on."""
    turn, place = divmod(index, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")


def _row(line: Line, letters: dict[str, str]) -> list[str]:
    width = str(line.before) if line.before == line.after else f"{line.before} → {line.after}"
    why = " ".join(letters[reason] for reason in line.why)
    row = _macs_row(line.layer, line.macs_before, line.macs_after)
    row[1] = width
    if line.ms_before is not None:
        row[4] = f"{line.ms_before:.3g}" + (
            "" if line.ms_after is None else f" → {line.ms_after:.3g}"
        )
    row[5] = f"{line.frozen} {why}" if line.frozen else ""
    return row


def _macs_row(name: str, before: int, after: int) -> list[str]:
    macs = short(before) if before == after else f"{short(before)} → {short(after)}"
    return [name, "", macs, f"{after / before:.0%}" if before else "", "", ""]


def _totals(decision: Decision, found: Outline) -> list[Sequence[str]]:
    """Channels, and everything that a budget may count."""
    limits = {limit.name: limit for limit in found.limits}
    reached, precision = decision.plan.reached, decision.plan.budget.precision
    total = reached.prunable_channels
    kept = total - reached.channels
    rows: list[Sequence[str]] = [
        (
            "prunable channels", f"{total:,}", f"{kept:,}", f"{kept / max(total, 1):.1%}",
            _asked(limits.get("percent")),
        )
    ]  # fmt: skip
    sides = (
        ("macs", "multiply-adds", found.before.macs, found.after.macs),
        ("params", "parameters", found.before.params, found.after.params),
        (
            "bytes", f"bytes of weights, {precision}", found.before.bytes[precision],
            found.after.bytes[precision],
        ),
    )  # fmt: skip
    for key, name, before, after in sides:
        share = f"{after / before:.1%}" if before else ""
        rows.append((name, f"{before:,}", f"{after:,}", share, _asked(limits.get(key))))
    time = limits.get("latency")
    if time is not None:
        met = "" if time.holds else ": not met"
        asked = f"at most {time.asked / 1000:.3g}{met}"
        rows.append(("ms, predicted", "", f"{time.reached / 1000:.3g}", "", asked))
    return rows


def _asked(limit: Limit | None) -> str:
    """A limit in words, and whether it holds."""
    if limit is None:
        return ""
    held = "" if limit.holds else ": not met"
    if limit.name == "percent":
        return f"at least {limit.asked:.1%} gone{held}"
    return f"at most {limit.asked:,.0f}{held}"


def _record(
    source: Source,
    decision: Decision,
    found: Outline,
    warnings: Sequence[str],
    files: Sequence[Path],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The machine-readable form."""
    from dataclasses import asdict

    plan, choice = decision.plan, decision.choice
    return {
        "model": str(source.model),
        "imgsz": list(decision.size),
        "asked": asdict(plan.budget),
        "reached": asdict(plan.reached),
        **found.to_dict(),
        "criterion": plan.criterion,
        "scope": choice.scope,
        "why": choice.why,
        "blocks": None if decision.shorter is None else decision.shorter.to_dict(),
        "search": None if choice.search is None else choice.search.to_dict(),
        "warnings": list(warnings),
        "files": dict(zip(("plan", "picture"), map(str, files), strict=False)),
        "seconds": seconds,
    }
