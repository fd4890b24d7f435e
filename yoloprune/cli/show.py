"""What the command line prints: tables for people, made from the same records as the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from yoloprune.prune.slim import SlimResult


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def quantity(value: float) -> str:
    """A count with a decimal prefix: ``6.06 M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def slim(result: SlimResult) -> None:
    """Before and after, asked and reached, and where things are."""
    record = result.summary
    console = _console()
    table = Table(title=f"{record['model']} at {_size(record['imgsz'])}", title_justify="left")
    for name, justify in (("", "left"), ("before", "right"), ("after", "right"), ("", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    before, after = record["before"], record["after"]
    for key, name, form in _ROWS:
        if before.get(key) is not None and after.get(key) is not None:
            table.add_row(name, form(before, key), form(after, key), _change(before, after, key))
    console.print(table)
    reached = record["reached"]
    console.print(
        f"asked {record['asked']['percent']:.1%} of {reached['prunable_channels']} prunable "
        f"channels, removed {reached['channels']} ({reached['percent']:.1%}, "
        f"{reached['units']} units), all with {record['criterion']} ≤ {reached['threshold']:.4g}"
    )
    console.print(
        f"self-test: cut and masked model differ by {record['self_test']['max_rel_diff']:.1e} "
        "of the output's scale"
    )
    files = record["files"]
    for path in (*files["model"], files["plan"], files.get("report")):
        if path:
            console.print(f"wrote {path}", soft_wrap=True)


def _size(imgsz: list[int]) -> str:
    return f"{imgsz[1]}×{imgsz[0]}"


def _count(side: Mapping[str, Any], key: str) -> str:
    return quantity(side[key])


def _fraction(side: Mapping[str, Any], key: str) -> str:
    return f"{side[key]:.4f}"


def _time(side: Mapping[str, Any], key: str) -> str:
    spread = side.get("latency_iqr_ms")
    return f"{side[key]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


_ROWS = (
    ("params", "parameters", _count),
    ("macs", "MACs", _count),
    ("bytes", "bytes", _count),
    ("latency_ms", "latency, ms (median ± IQR)", _time),
    ("AP", "AP50:95", _fraction),
    ("AP50", "AP50", _fraction),
)


def _change(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    if key.startswith("AP"):
        return f"{after[key] - before[key]:+.4f}"
    return f"÷ {before[key] / after[key]:.2f}" if after[key] else ""


def info(record: Mapping[str, Any]) -> None:
    """A row a layer, and the totals."""
    console = _console()
    table = Table(title=f"{record['model']} at {_size(record['imgsz'])}", title_justify="left")
    table.add_column("layer", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for name in ("out", "prunable", "params", "MACs", "|γ| p05", "p50", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit group / why not")
    for layer in record["layers"]:
        gamma = layer["gamma"]
        scales = [f"{gamma[q]:.3g}" for q in ("p05", "p50", "p95")] if gamma else ["", "", ""]
        shape = layer["out_shape"]
        out = "×".join(str(n) for n in shape[1:]) or str(layer["out_channels"])
        table.add_row(
            layer["name"],
            layer["type"],
            out,
            str(layer["prunable"]),
            quantity(layer["params"]),
            quantity(layer["macs"]),
            *scales,
            layer["reason"] or ", ".join(f"#{g}" for g in layer["groups"]),
        )
    console.print(table)
    for reason in record["balances"]:
        console.print(f"equal counts: {reason}")
    for name in record["unreached"]:
        console.print(f"not reached by the forward pass: {name}")
    total = record["totals"]
    share = total["prunable_channels"] / max(total["channels"], 1)
    norms = total["prunable_bn_channels"] / max(total["bn_channels"], 1)
    console.print(
        f"{quantity(total['params'])} parameters, {quantity(total['macs'])} MACs; "
        f"{total['prunable_channels']} of {total['channels']} channels prunable ({share:.1%}), "
        f"{total['prunable_bn_channels']} of {total['bn_channels']} BN channels ({norms:.1%}), "
        f"{total['prunable_units']} of {total['units']} units"
    )


def val(record: Mapping[str, Any]) -> None:
    """The COCO summary."""
    console = _console()
    table = Table(
        title=f"{record['model']} on {record['data']} ({record['split']}, {record['images']} "
        f"pictures) at {_size(record['imgsz'])}",
        title_justify="left",
    )
    metrics = record["metrics"]
    for name in metrics:
        table.add_column({"AP": "AP50:95"}.get(name, name), justify="right")
    table.add_row(*("–" if v is None else f"{v:.4f}" for v in metrics.values()))
    console.print(table)


def predict(record: Mapping[str, Any]) -> None:
    """A line a box."""
    console = _console()
    for image in record["images"]:
        console.print(f"{image['file']}: {len(image['boxes'])} objects", soft_wrap=True)
        for box in image["boxes"]:
            corners = ", ".join(f"{v:.0f}" for v in box["xyxy"])
            console.print(f"  {box['name']} {box['confidence']:.1%}  [{corners}]", markup=False)


def train(record: Mapping[str, Any]) -> None:
    """How sparse the scales are, and where the trained models are."""
    console = _console()
    sparse = record.get("sparsity")
    if sparse:
        gamma = sparse["gamma"]
        spread = ", ".join(f"{name} {gamma[name]:.3g}" for name in ("p25", "p50", "p75", "max"))
        console.print(
            f"{sparse['zero_units']} of {sparse['units']} prunable units stand at zero "
            f"({sparse['zero_share']:.1%}); |gamma|: {spread}"
        )
    files = record["files"]
    for path in (*files["model"], files.get("sparsity")):
        if path:
            console.print(f"wrote {path}", soft_wrap=True)


def rounds(record: Mapping[str, Any]) -> None:
    """A row a round, why it ended, and where the result is."""
    console = _console()
    table = Table(
        title=f"{record['data']} ({record['images']} pictures) at {_size(record['imgsz'])}",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    names = ("gone", "AP50:95", "AP50", "parameters", "MACs", "bytes", "latency, ms")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in record["rounds"]:
        mark = " ←" if row["name"] == record["accepted"] else ""
        table.add_row(
            row["name"] + mark,
            f"{row['percent']:.0%}" if "percent" in row else "",
            f"{row['AP']:.4f}",
            f"{row['AP50']:.4f}",
            quantity(row["params"]),
            quantity(row["macs"]),
            quantity(row["bytes"]),
            _time(row, "latency_ms"),
        )
    console.print(table)
    console.print(f"stopped: {record['stopped']}; the result is {record['accepted']}")
    for path in (*record["files"]["model"], record["files"]["picture"]):
        console.print(f"wrote {path}", soft_wrap=True)


def export(record: Mapping[str, Any]) -> None:
    """Where the exported model is, and how it compares."""
    console = _console()
    console.print(f"wrote {record['file']}", soft_wrap=True)
    check = record["check"]
    if check is None:
        console.print(f"{record['format']}: not run here, so not compared with the model")
        return
    shapes = " and ".join("×".join(str(n) for n in shape) for shape in check["inputs"])
    console.print(
        f"{check['runtime']} on {shapes}: differs by {check['max_rel_diff']:.1e} of the output's "
        f"scale (at most {check['tolerance']:g} is allowed)"
    )
