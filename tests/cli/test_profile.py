"""``profile`` and limits to latency, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.prune.clock import LatencyTable

NET = "yoloprune-demo.cfg"


def run(*args: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo network in torch."""
    file = tmp_path_factory.mktemp("profile") / "demo.json"
    done = run(
        *("profile", NET, "--runtime", "torch", "--networks", 8, "--threads", 1, "-o", file),
        *("--json", file.with_name("record.json")),
    )
    assert done.exit_code == 0, done.output
    assert "off by" in done.stdout
    assert "(worst)" in done.stdout
    assert f"--latency 0.5 --latency-table {file}" in done.stdout
    return file


def test_a_table_is_written(table: Path) -> None:
    found = LatencyTable.read(table)
    assert found.model == NET
    assert len(found.networks) == 9
    assert found.runtime.threads == 1
    record = json.loads(table.with_name("record.json").read_text())
    assert record["worst_error"] == max(found.errors)
    assert record["full_ms"] == found.full


def test_a_table_is_not_written_over(table: Path) -> None:
    before = table.read_bytes()
    done = run("profile", NET, "--runtime", "torch", "-o", table)
    assert done.exit_code == 1
    assert "exists" in done.output
    assert table.read_bytes() == before


def test_a_limit_is_met_and_told(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    done = run(
        *("slim", NET, "--latency", "0.8", "--latency-table", table, "--device", "cpu"),
        *("-o", tmp_path / "out", "--json", tmp_path / "r.json"),
    )
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r.json").read_text())
    told = record["latency"]
    last = told["tries"][-1]
    assert told["met"] is (last["ms"] <= 0.8 * last["full"])
    assert (
        json.loads(next((tmp_path / "out").glob("*-plan.json")).read_text())["budget"]["latency"]
        == 0.8
    )
    assert (", and holds the limit" in done.stdout) or (" % over the limit" in done.stdout)
    assert "torch, cpu, fp32" in done.stdout
    assert "--round-to 16 may keep more" in done.stdout


def test_a_table_of_another_machine_foretells(table: Path, tmp_path: Path) -> None:
    data = json.loads(table.read_text())
    data["machine"] = "Raspberry Pi 5"
    other = tmp_path / "pi.json"
    other.write_text(json.dumps(data))
    done = run(
        *("slim", NET, "--latency", "0.8", "--latency-table", other, "--device", "cpu"),
        *("-o", tmp_path / "out", "--json", tmp_path / "r.json"),
    )
    assert done.exit_code == 0, done.output
    assert "foretold for Raspberry Pi 5" in done.stdout
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["latency"]["tries"] == []


def test_a_dry_run_shows_milliseconds(table: Path, tmp_path: Path) -> None:
    done = run(
        *("slim", NET, "--latency", "0.8", "--latency-table", table, "--device", "cpu"),
        *("--dry-run", "--json", tmp_path / "r.json"),
    )
    assert done.exit_code == 0, done.output
    assert "ms" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--latency", "fast"), "--latency: is neither a share nor a time, got 'fast'"),
        (("--latency", "0.5", "--runtime", "abacus"), "--runtime: unknown, got 'abacus'"),
        (("--runtime", "torch"), "say what --latency is"),
        (("--latency", "0.5", "--latency-table", "no.json"), "no.json"),
    ],
)
def test_mistakes_are_named(flags: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = run("slim", NET, *flags, "--device", "cpu", "-o", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert words in done.output
    assert not list(tmp_path.rglob("*.cfg"))
