"""What users ask of a cut, as they type it: a budget, and where latency is meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.errors import PlanError
from yoloprune.prune.budget import Budget
from yoloprune.prune.ratios import Rule, parse_ratios, read_ratios
from yoloprune.texts import parse_amount, parse_latency, parse_time

if TYPE_CHECKING:
    from yoloprune.prune.timing import TimingOptions

Amount = str | float | None
"""A limit: a share (``0.5``), or an amount (``"2.1G"``, ``2.1e9``, ``"12ms"``)."""


def budget_of(
    percent: float | None,
    limits: Mapping[str, Amount],
    precision: str | None,
    floors: tuple[int, float, int],
    *,
    file: str | Path = "",
    ratios: Path | Mapping[str, Any] | None = None,
    max_drop: float | None = None,
    blocks: int = 0,
) -> Budget:
    """What the flags of a cut ask for.

    Args:
        percent: ``--percent``.
        limits: ``macs``, ``params``, ``bytes`` and ``latency``, as they were typed.
        precision: of bytes.
        floors: ``min_channels``, ``max_layer_prune`` and ``round_to`` of ``Budget``.
        file: the model's, which says how it keeps numbers where ``precision`` does not.
        ratios: shares of single layers, or a file of them.
        max_drop: what AP may fall by.
        blocks: that go whole.

    Raises:
        PlanError: a value is no number, or out of its range.
    """
    if precision is not None and limits.get("bytes") is None:
        raise PlanError("--precision: is what --bytes is counted in. Give that too.")
    found: dict[str, Any] = {}
    for name, given in limits.items():
        try:
            if given is not None and name == "latency":
                found[name] = parse_latency(str(given))
            elif given is not None:
                found[name] = parse_amount(str(given), of_bytes=name == "bytes")
        except ValueError as exc:
            raise PlanError(f"--{name}: {exc}") from exc
    return Budget(
        percent=percent,
        **found,
        precision=precision or ("fp16" if Path(file).suffix == ".pt" else "fp32"),  # type: ignore[arg-type]
        min_channels=floors[0],
        max_layer_prune=floors[1],
        round_to=floors[2],
        max_drop=max_drop,
        blocks=blocks,
        ratios=_rules(ratios),
    )


def half_if_nothing(percent: float | None, others: Mapping[str, Any]) -> float | None:
    """The share of channels that goes: half of them, where nothing at all was asked for."""
    asked = any(value not in (None, 0) for value in others.values())
    return 0.5 if percent is None and not asked else percent


def seconds_of(given: str | float, flag: str) -> float:
    """A time, such as ``90``, ``"90s"``, ``"3m"`` or ``"1.5h"``, in seconds.

    Raises:
        PlanError: it is none.
    """
    try:
        return parse_time(str(given))
    except ValueError as exc:
        raise PlanError(f"{flag}: {exc}") from exc


def timing_of(
    latency: Amount,
    runtime: str | None,
    table: Path | None,
    *,
    device: str,
    threads: int | None,
    size: tuple[int, int],
    batch: int,
    model: str,
    round_to: int,
) -> TimingOptions | None:
    """Where a limit to latency is meant; None where there is none.

    Raises:
        PlanError: what says where stands without a limit, or the table cannot be read.
        MeasureError: the runtime is unknown or not installed.
    """
    from yoloprune.measure.runtimes import runtime_here, version_of
    from yoloprune.prune.clock import LatencyTable
    from yoloprune.prune.timing import TimingOptions

    if latency is None:
        if runtime is not None or table is not None or threads is not None:
            raise PlanError(
                "--runtime, --threads, --latency-table: say what --latency is. Give it."
            )
        return None
    if table is not None:
        if runtime is not None or threads is not None:
            raise PlanError("--latency-table: says where it was measured. Leave the rest out.")
        how = LatencyTable.read(table).runtime
    else:
        how = runtime_here(runtime, device=device, threads=threads, size=size, batch=batch)
        version_of(how.runtime)
    return TimingOptions(runtime=how, table=table, model=model, round_to=round_to)


def _rules(given: Path | Mapping[str, Any] | None) -> tuple[Rule, ...]:
    if given is None:
        return ()
    if isinstance(given, Path):
        return read_ratios(given)
    return parse_ratios(dict(given), "--ratios")
