"""``yoloprune.slim`` on networks in memory and on files, and what its result shows and keeps."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from nets import Chain, Residual, conv
from torch import Tensor, nn

import yoloprune as yp
from yoloprune.api.slim import Asked
from yoloprune.cli.slim import slim as command

EXAMPLE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def pictures(count: int = 12) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 32), conv(32, 48), nn.Flatten(), nn.Linear(48 * 1024, 5)).eval()


class Wave(nn.Module):
    """No picture: ``[B, 2, T]``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(2, 32, 3, padding=1)
        self.b = nn.Conv1d(32, 24, 3, padding=1)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x).relu()).relu().mean(2))


def test_any_module_in_one_line() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = yp.slim(model, EXAMPLE, macs=0.5, calib=pictures())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    sides = found.metrics
    assert sides["after"]["macs"] <= 0.5 * sides["before"]["macs"]
    assert sides["after"]["params"] == sum(p.numel() for p in found.model.parameters())
    assert found.record["self_test"]["max_rel_diff"] < 1e-9
    assert found.repair is not None and len(found.repair.layers) == 3
    with torch.no_grad():
        assert found.model(EXAMPLE).shape == (2, 5)


@pytest.mark.parametrize("kind", ["loader", "pairs", "tensor"])
def test_inputs_come_as_users_have_them(kind: str) -> None:
    data = [(picture, 0) for picture in pictures(10)]
    calib = {
        "loader": torch.utils.data.DataLoader(data, batch_size=4),
        "pairs": [(pictures(4), torch.zeros(4)), (pictures(4), torch.zeros(4))],
        "tensor": pictures(30),
    }[kind]
    found = yp.slim(net(), EXAMPLE, calib=calib, calib_images=8)
    assert found.repair is not None and found.repair.pictures == 8


def test_no_picture_is_needed() -> None:
    found = yp.slim(Wave().eval(), torch.rand(1, 2, 40), macs=0.6, calib=torch.rand(8, 2, 40))
    assert found.metrics["before"]["macs"] == 2 * 32 * 3 * 40 + 32 * 24 * 3 * 40 + 24 * 3
    assert found.model(torch.rand(5, 2, 40)).shape == (5, 3)
    with pytest.raises(yp.YoloPruneError, match=r"^latency: works on pictures \[1, 3, H, W\] only"):
        yp.slim(Wave().eval(), torch.rand(1, 2, 40), latency=0.5)


def test_a_plan_carries_over() -> None:
    model = net()
    first = yp.slim(model, EXAMPLE, percent=0.3)
    again = yp.slim(model, EXAMPLE, plan=first.plan)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name])
    with pytest.raises(yp.YoloPruneError, match="^plan: says what goes. Leave macs, search out"):
        yp.slim(model, EXAMPLE, plan=first.plan, macs=0.5, search=5)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"macs": 1.5e-9, "percent": 3}, "^percent: must be above 0 and below 1, got 3"),
        ({"macs": "half"}, "^macs: is neither a share nor an amount, got 'half'"),
        ({"min_channels": 0}, "^min_channels: must be a whole number, at least 1, got 0"),
        ({"criterion": "magic"}, "^criterion: unknown, got 'magic'"),
        ({"criterion": "recon"}, "^criterion recon: looks at pictures. Name some with calib"),
        ({"calib": "pictures/"}, "^calib: got a path. How Sequential is fed"),
        ({"calib": torch.rand(4, 1, 32, 32)}, r"^calib: has inputs of shape \[1, 32, 32\]"),
        ({"calib": [0, 1]}, "^calib: a batch holds no tensor, got int"),
        ({"calib": torch.rand(1, 3, 32, 32)}, "^calib: has 1 inputs, expected at least 2"),
        ({"search": 5, "calib": pictures(4), "repair": False}, "^search: compares repaired cuts"),
        ({"split": "held-back"}, "^split held-back: is written"),
    ],
)
def test_errors_speak_of_arguments(how: dict[str, object], says: str) -> None:
    with pytest.raises(yp.YoloPruneError, match=says):
        yp.slim(net(), EXAMPLE, **how)  # type: ignore[arg-type]


def test_what_is_no_network_or_no_batch_is_refused() -> None:
    with pytest.raises(yp.YoloPruneError, match="^example_input: is missing. Chain is no YOLO"):
        yp.slim(Chain())
    with pytest.raises(yp.YoloPruneError, match="^example_input: got list, expected one tensor"):
        yp.slim(Chain(), [EXAMPLE])  # type: ignore[arg-type]
    with pytest.raises(yp.YoloPruneError, match="^model: got int, expected a file"):
        yp.slim(3)  # type: ignore[arg-type]


def test_files_and_pairs_are_read(tmp_path: Path) -> None:
    found = yp.slim("yoloprune-demo.cfg", percent=0.6, device="cpu")
    pair = yp.slim(
        ("yoloprune-demo.cfg", "weights/yoloprune-demo.weights"), percent=0.6, device="cpu"
    )
    assert pair.plan.layers == found.plan.layers
    files = found.save(tmp_path / "out")
    names = {file.name for file in files}
    assert {"yoloprune-demo-slim.cfg", "yoloprune-demo-slim-report.html"} <= names
    assert yp.PrunePlan.read(tmp_path / "out/yoloprune-demo-slim-plan.json") == found.plan
    again, _ = yp.load(files[0])
    assert sum(p.numel() for p in again.parameters()) == found.metrics["after"]["params"]
    with pytest.raises(yp.YoloPruneError, match="holds results already.*overwrite=True"):
        found.save(tmp_path / "out")
    found.save(tmp_path / "out", overwrite=True)


def test_a_module_is_saved_as_torch_saves_it(tmp_path: Path) -> None:
    found = yp.slim(Residual().eval(), EXAMPLE, percent=0.4, min_channels=2, round_to=1)
    file, plan, page = found.save(tmp_path)
    again = torch.load(file, weights_only=False)
    torch.testing.assert_close(again(EXAMPLE), found.model(EXAMPLE))
    assert (plan.name, page.name) == ("Residual-slim-plan.json", "Residual-slim-report.html")

    class Local(Residual):
        pass

    unknown = yp.slim(Local().eval(), EXAMPLE, percent=0.4, min_channels=2, round_to=1)
    with pytest.raises(yp.YoloPruneError, match="Local: cannot be pickled.*state_dict"):
        unknown.save(tmp_path / "local")


def test_a_result_shows_itself(tmp_path: Path) -> None:
    found = yp.slim(net(), EXAMPLE, macs=0.5)
    assert repr(found).startswith("<Slimmed Sequential: params ") and len(repr(found)) < 100
    table = found.table()
    assert [row["quantity"] for row in table] == ["params", "macs", "bytes"]
    assert "Bytes held" in str(table)
    assert "<td>MACs</td>" in found._repr_html_()
    layers = {row["layer"]: row for row in found.layers()}
    assert layers["3"]["kept"].startswith("output of the model")
    assert layers["0.0"]["after"] < layers["0.0"]["before"] == 32
    page = found.report(tmp_path / "page.html").read_text()
    assert "Bytes held" in page and "File size" not in page
    assert "--calib" not in found.verdict and "calib" in found.verdict


def test_the_table_becomes_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = yp.slim(net(), EXAMPLE, macs=0.5).table().to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.set_index("quantity").loc["macs", "after"] > 0


def test_arguments_are_those_of_the_command() -> None:
    given = set(inspect.signature(yp.slim).parameters)
    assert given == set(Asked.__dataclass_fields__)
    flags = set(inspect.signature(command).parameters) - {
        "context", "cfg", "max_bytes", "dry_run", "out", "overwrite", "batch", "json_file", "debug",
        "quiet", "verbose",
    }  # fmt: skip
    assert flags - given == set()
