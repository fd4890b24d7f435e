"""The files of a bench: its record, its tables, its page, its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yoloprune.measure.bench_result import BenchResult

FILES = ("bench.json", "bench.csv", "bench.md", "bench.html", "bench-card.md")


def bench_results(folder: Path) -> list[Path]:
    """Those that an earlier bench left."""
    return [folder / name for name in FILES if (folder / name).exists()]


def write_results(folder: Path, found: BenchResult) -> list[Path]:
    """Every face of a result, each whole or not at all."""
    from yoloprune.files import write_bytes
    from yoloprune.report.bench import write_bench_card, write_bench_page

    texts = {
        "bench.json": found.to_json(),
        "bench.csv": found.to_csv(),
        "bench.md": found.to_markdown(),
    }
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    page = write_bench_page(folder / "bench.html", found)
    card = write_bench_card(folder / "bench-card.md", found)
    return [*(folder / name for name in texts), page, card]
