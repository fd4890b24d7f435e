"""``yoloprune.bench``: files and networks in memory side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nets import Chain

import yoloprune as yp
from tests.train import slims

REPO = Path(__file__).parents[2]
CFG = "yoloprune-demo.cfg"
DENSE = (CFG, REPO / "weights/yoloprune-demo-dense.weights")
QUICK: dict[str, Any] = {"imgsz": 64, "repeats": 2, "memory": False, "runtimes": "torch"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slims.pictures(tmp_path_factory.mktemp("data"), "detect", count=3, classes=3)


def test_files_are_named_by_themselves_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = yp.bench([DENSE, CFG], batch=(1, 2), **QUICK)
    assert [model.name for model in found.models] == ["yoloprune-demo-dense", "yoloprune-demo"]
    assert found.baseline.name == "yoloprune-demo-dense"
    assert [(row.model, row.batch) for row in found.rows] == [
        ("yoloprune-demo-dense", 1),
        ("yoloprune-demo", 1),
        ("yoloprune-demo-dense", 2),
        ("yoloprune-demo", 2),
    ]
    assert not list(tmp_path.iterdir())


def test_a_network_in_memory_takes_part_beside_its_file(data: Path, tmp_path: Path) -> None:
    thin = yp.slim(CFG, macs=0.6, device="cpu")
    names = {"full": CFG, "slim": thin.model}
    found = yp.bench(names, baseline="full", data=data, out=tmp_path / "out", **QUICK)
    rows = {row.model: row for row in found.rows}
    assert rows["slim"].bytes < rows["full"].bytes
    assert rows["full"].ap == pytest.approx(yp.evaluate(CFG, data, imgsz=64).metrics["AP"])
    macs = {model.name: model.macs for model in found.models}
    assert macs["slim"] <= 0.6 * macs["full"]
    record = json.loads((tmp_path / "out/bench.json").read_text())
    assert [row["model"] for row in record["rows"]] == ["full", "slim"]
    with pytest.raises(yp.YoloPruneError, match=r"holds results already, .* overwrite=True"):
        yp.bench(names, out=tmp_path / "out", **QUICK)


@pytest.mark.parametrize(
    ("models", "how", "says"),
    [
        ("mine.pt", {}, "^models: got mine.pt, expected a list of files"),
        ([], {}, "^models: got list, expected a list of files"),
        ({"a": Chain()}, {}, "^models: a: Chain is no YOLO"),
        ([CFG, CFG], {}, "^bench: a network stands twice"),
        ([CFG], {"baseline": "x"}, "^baseline: x is none of the networks"),
        ([CFG], {"runtimes": "tf"}, "^runtime: unknown, got 'tf', expected torch"),
        ([CFG], {"precision": ["fp8"]}, "^precision: got 'fp8', expected fp32"),
        ([CFG], {"batch": 0}, "^batch: got 0, expected whole numbers of at least 1"),
        ([CFG], {"threads": ["2"]}, r"^threads: got \['2'\], expected whole numbers"),
        ([CFG], {"imgsz": 65}, "^imgsz: yoloprune-demo takes multiples of"),
        ([CFG], {"device": "gpu"}, "gpu"),
    ],
)
def test_errors_speak_of_arguments(
    models: Any, how: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(yp.YoloPruneError, match=says):
        yp.bench(models, out=tmp_path / "out", **{**QUICK, **how})
    assert not (tmp_path / "out").exists()
