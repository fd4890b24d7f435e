"""``yoloprune mask``: what it leaves, in both families, and that stock tools read it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.darknet.darknet_nets import TINY, build
from yoloprune.cli.main import app
from yoloprune.errors import FormatError
from yoloprune.mask.masking import made_permanent, mask_model
from yoloprune.mask.run import MaskOptions, latency_words, run_mask
from yoloprune.mask.sparsity import sparsity
from yoloprune.mask.spec import MaskSpec
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load, save

REPO = Path(__file__).parents[2]
DENSE = ("yoloprune-demo.cfg", "--weights", REPO / "weights/yoloprune-demo-dense.weights")
L1 = ("--method", "l1_unstructured", "--amount", "0.4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data"), ShapesSpec(images=3, val=6, seed=3))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Ultralytics network with random weights."""
    file = tmp_path_factory.mktemp("stock") / "v8.pt"
    torch.manual_seed(0)
    return save(load("yolov8n.yaml")[0], file)[0]


def mask(out: Path, *args: object) -> Any:
    flags = ("-o", out, "--json", out.with_suffix(".json"), "--device", "cpu", "--imgsz", "64")
    words = [str(word) for word in ("mask", *args, *flags)]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, words)


def test_a_darknet_network_stays_one(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = mask(out, *DENSE, *L1, "--kind", "both", "--data", data, "--imgsz", "96")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out.json").read_text())
    before, after = record["before"], record["after"]
    assert (before["params"], before["macs"]) == (after["params"], after["macs"])
    assert sum(Path(f).stat().st_size for f in record["files"]["model"]) == after["bytes"]
    assert after["zipped_bytes"] < 0.8 * before["zipped_bytes"]
    assert after["sparsity"]["conv"] == pytest.approx(0.4, abs=0.005)
    assert after["sparsity"]["bn"] == pytest.approx(0.4, abs=0.05)
    assert before["AP"] > 0.1 and 0 <= after["AP"] <= 1
    assert "latency: " in done.stdout and "yoloprune-demo-masked-weights.png" in done.stdout
    again = load(out / "yoloprune-demo-masked.cfg")[0]
    assert sparsity(again).share("conv") == pytest.approx(after["sparsity"]["conv"])
    net = cv2.dnn.readNetFromDarknet(
        str(out / "yoloprune-demo-masked.cfg"), str(out / "yoloprune-demo-masked.weights")
    )
    image = np.zeros((1, 3, 96, 96), np.float32)
    net.setInput(image)
    assert all(np.isfinite(x).all() for x in net.forward(net.getUnconnectedOutLayersNames()))


def test_a_stock_checkpoint_stays_one(stock: Path, tmp_path: Path) -> None:
    """Zeros stay in place through stock loading, copying, saving, and fusing."""
    from ultralytics import YOLO

    done = mask(tmp_path / "out", stock, "--method", "ln_structured", "--amount", "0.25")
    assert done.exit_code == 0, done.output
    file = tmp_path / "out" / "v8-masked.pt"
    opened = YOLO(file)
    dense, masked = load(stock)[0], load(file)[0]
    assert list(opened.model.state_dict()) == list(dense.state_dict())
    first = masked.model[0].conv.weight
    dead = (first == 0).all(dim=(1, 2, 3))
    assert int(dead.sum()) == len(first) // 4
    assert torch.equal(first[~dead], dense.model[0].conv.weight[~dead])
    opened.save(tmp_path / "again.pt")
    copied = copy.deepcopy(YOLO(tmp_path / "again.pt").model).float()
    assert torch.equal(copied.model[0].conv.weight, first)
    assert sparsity(copied).share("conv") == sparsity(masked).share("conv")
    picture = torch.rand(1, 3, 64, 64)
    fused = copy.deepcopy(masked).fuse(verbose=False)
    assert int((fused.model[0].conv.weight == 0).all(dim=(1, 2, 3)).sum()) == int(dead.sum())
    with torch.no_grad():
        torch.testing.assert_close(fused(picture)[0], masked(picture)[0], rtol=1e-3, atol=1e-3)
    assert not masked.model[0].conv._forward_pre_hooks


def test_the_mean_of_a_distribution_is_left_alone(stock: Path) -> None:
    """``DFL`` has the form of a convolution, and its weights are the numbers 0 to 15."""
    spec = MaskSpec(method="percentile", amount=0.9)
    masked = made_permanent(mask_model(load(stock)[0], spec))
    assert sparsity(masked).share("conv") == pytest.approx(0.9, abs=0.001)
    assert torch.equal(masked.model[22].dfl.conv.weight.ravel(), torch.arange(16.0))


def test_masks_that_are_not_permanent_are_not_saved(stock: Path, tmp_path: Path) -> None:
    for model in (load(stock)[0], build(TINY)):
        masked = mask_model(model, MaskSpec(method="l1_unstructured", amount=0.5))
        with pytest.raises(FormatError, match="carries masks of torch.nn.utils.prune. Make them"):
            save(masked, tmp_path / "out" / "x")
        assert save(made_permanent(masked), tmp_path / "out" / "x")


def test_masks_can_be_used_again_and_grow(tmp_path: Path) -> None:
    net = save(build(TINY), tmp_path / "tiny.cfg")[0]
    assert mask(tmp_path / "one", net, *L1).exit_code == 0
    masks = tmp_path / "one" / "tiny-masked-masks.npz"
    done = mask(tmp_path / "two", net, "--method", "custom", "--mask", masks)
    assert done.exit_code == 0, done.output
    files = [tmp_path / at / "tiny-masked.cfg" for at in ("one", "two")]
    first, second = (load(file)[0].state_dict() for file in files)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    file = tmp_path / "one" / "tiny-masked.cfg"
    done = mask(tmp_path / "three", file, *L1, "--further")
    record = json.loads((tmp_path / "three.json").read_text())
    assert record["before"]["sparsity"]["conv"] == pytest.approx(0.4, abs=0.001)
    assert record["after"]["sparsity"]["conv"] == pytest.approx(0.64, abs=0.001)
    again = mask(tmp_path / "one", net, *L1)
    assert again.exit_code == 1 and "holds results already, such as tiny-masked.cfg" in again.stderr


def test_what_n_of_m_leaves_out_and_what_dies_is_told(stock: Path, tmp_path: Path) -> None:
    source = load(stock)[1]
    options = MaskOptions(spec=MaskSpec(method="n_m"), out=tmp_path, imgsz=64, repeats=0)
    found = run_mask(load(stock)[0], source, options)
    assert found.summary["left_out"] == ["model.0.conv"]
    assert "1 layers have input channels that 4 does not divide" in found.summary["warnings"][0]
    assert found.after.share("conv") == pytest.approx(0.5, abs=0.001)
    assert found.summary["faster"] is None
    spec = MaskSpec(method="ln_structured", amount=0.7, dim=1, layers=("0",))
    file = tmp_path / "tiny.cfg"
    model = build(TINY)
    save(model, file)
    found = run_mask(model, load(file)[1], MaskOptions(spec=spec, out=tmp_path, repeats=0))
    assert found.summary["warnings"] == []
    assert found.after.layers["model.0.conv"] == pytest.approx(2 / 3)


def test_times_are_told_with_their_spread() -> None:
    def side(ms: float, iqr: float) -> dict[str, float]:
        return {"latency_ms": ms, "latency_iqr_ms": iqr}

    assert str(latency_words(side(10, 1), side(10.9, 0.1))).startswith("no clear change")
    assert latency_words(side(10, 1), side(5, 0.1)) == "2.00× faster"
    assert latency_words(side(10, 1), side(15, 0.1)) == "1.50× slower"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "l1"), "--method: unknown, got 'l1', expected random_unstructured"),
        (("--method", "l1_unstructured"), "--amount: is missing"),
        (("--method", "l1_unstructured", "--amount", "x"), "--amount: got 'x', expected a share"),
        ((*L1, "--layers", "bodkin.*"), "--layers: bodkin.*: matches no layer"),
        (("--method", "n_m", "--pattern", "2/4"), "--pattern: got '2/4', expected N:M"),
        (("--method", "ln_structured", "--amount", "0.5", "--n", "two"), "--n: got 'two'"),
        (("--method", "custom", "--mask", "m.pt"), "got .pt, which can run code when it is read"),
        (("--method", "custom", "--custom", "nowhere:A"), "--custom nowhere:A: cannot be imported"),
    ],
)
def test_what_cannot_be_is_one_line(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = mask(tmp_path / "out", *DENSE, *flags)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
