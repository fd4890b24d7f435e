"""Pages in headless Chromium: nothing in the console, nothing loaded, nothing sticking out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_bench_page import result
from tests.report.test_run_page import RECORD
from tests.report.test_slim import RESULT, made
from yoloprune.report.bench import write_bench_page
from yoloprune.report.run import write_run_page
from yoloprune.report.slim import write_slim_page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

DARK, LIGHT = 0, 1
WRITERS: dict[str, Callable[[Path], Path]] = {
    "bench": lambda path: write_bench_page(path, result()),
    "slim": lambda path: write_slim_page(path, RESULT, *made()),
    "run": lambda path: write_run_page(path, RECORD),
}
PROBE = """
const look = () => {
  const bounds = [...document.querySelectorAll("main *")].filter(
    (e) => !e.closest(".scroll") && e.getClientRects().length && !e.closest("svg"));
  return {
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    outside: bounds.filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5)
      .map((e) => e.outerHTML.slice(0, 80)),
    loaded: performance.getEntriesByType("resource").map((e) => e.name),
    background: getComputedStyle(document.body).backgroundColor,
    charts: [...document.querySelectorAll(".chart")].filter((e) => e.offsetWidth)
      .map((e) => e.className),
    faint: [...document.querySelectorAll("h1, p, td, th, figcaption")]
      .filter((e) => getComputedStyle(e).color === getComputedStyle(document.body).backgroundColor)
      .length,
  };
};
const sorted = (table, column) => {
  table.tHead.rows[0].cells[column].querySelector("button").click();
  return [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.v);
};
const seen = look();
const table = document.querySelector("#rows table");
if (table) seen.sorted = [sorted(table, 4), sorted(table, 4)];
parent.document.body.textContent = JSON.stringify(seen);
"""


def run(folder: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", *flags,
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probed(folder: Path, page: Path, width: int, theme: int) -> dict[str, Any]:
    """What a page looks like, told by a script that its own policy would not let run."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text("utf-8"))
    assert "Content-Security-Policy" not in text
    inner = text.replace("</body>", f"<script>{PROBE}</script></body>")
    copy = page.with_suffix(".probed.html")  # a window cannot be as narrow as a frame
    copy.write_text(
        f"<meta name=color-scheme content='light dark'><body><iframe width={width} height=900 "
        f"style='border: 0' srcdoc=\"{html.escape(inner)}\"></iframe>",
        "utf-8",
    )
    scheme = f"--blink-settings=preferredColorScheme={theme}"
    done = run(folder, copy, "--dump-dom", "--window-size=1600,1000", scheme)
    assert console(done) == []
    found = re.search(r"<body>(.*?)</body>", done.stdout, re.DOTALL)
    assert found is not None, done.stdout[:300]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


def test_the_console_is_heard(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>nothing.there</script>")
    assert len(console(run(tmp_path, page, "--dump-dom"))) == 1


def test_a_page_runs_under_its_own_policy(tmp_path: Path) -> None:
    page = WRITERS["bench"](tmp_path / "bench.html")
    done = run(tmp_path, page, "--dump-dom", "--window-size=390,900")
    assert console(done) == []
    assert done.stdout.count('<button type="button">') > 15  # the script made them


def test_what_a_page_must_not_run_is_refused(tmp_path: Path) -> None:
    page = WRITERS["bench"](tmp_path / "bench.html")
    bad = "<script>document.title = 'taken over'</script><img src='http://127.0.0.1:9/a.png'>"
    page.write_text(page.read_text("utf-8").replace("<h1", f"{bad}<h1"), "utf-8")
    done = run(tmp_path, page, "--dump-dom")
    assert len(console(done)) == 2 and "<title>taken over" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("name", WRITERS)
def test_a_page_fits_every_screen_and_theme(
    name: str, width: int, theme: int, tmp_path: Path
) -> None:
    seen = probed(tmp_path, WRITERS[name](tmp_path / f"{name}.html"), width, theme)
    assert seen["width"] == width
    assert seen["page"] <= width, seen["outside"]
    assert seen["outside"] == []
    assert seen["loaded"] == []
    assert seen["faint"] == 0
    (red, *_) = map(int, re.findall(r"\d+", seen["background"]))
    assert (red < 40) == (theme == DARK)
    kind = "chart narrow" if width == 390 else "chart wide"
    assert seen["charts"] and set(seen["charts"]) == {kind}
    if name == "bench":
        up, down = ([float(value) for value in column] for column in seen["sorted"])
        assert up == sorted(up) and down == up[::-1] and len(set(up)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_page_prints(name: str, tmp_path: Path) -> None:
    page, pdf = WRITERS[name](tmp_path / f"{name}.html"), tmp_path / "page.pdf"
    assert console(run(tmp_path, page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")) == []
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF") and 1 <= len(re.findall(rb"/Type\s*/Page\b", data)) < 8
