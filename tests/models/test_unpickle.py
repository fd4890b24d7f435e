"""The restricted unpickler: every way in which a pickle could do work is refused, each by name."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
from torch import nn
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.modules import Conv, Detect
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import IterableSimpleNamespace

from yoloprune.models.known import MisuseError, UnknownGlobalError
from yoloprune.models.unpickle import load

G = Callable[[str, str], bytes]


def g(module: str, name: str) -> bytes:
    """The opcode that names a global."""
    return b"c" + f"{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def checkpoint(program: bytes, path: Path) -> Path:
    """A torch zip whose pickle is ``program`` (without protocol and stop)."""
    buffer = io.BytesIO()
    torch.save({"model": None}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                data = b"\x80\x02" + program + b"."
            target.writestr(info, data)
    return path


CONV = g("ultralytics.nn.modules.conv", "Conv")
MODEL = g("ultralytics.nn.tasks", "DetectionModel")
PROGRAMS = {
    "a class that opens its argument": g("ultralytics.nn.distill_model", "DistillationModel")
    + text("second.pt")
    + b"\x85R",
    "a model of a YAML": MODEL + text("evil.yaml") + b"\x85R",
    "a layer with arguments": CONV + b"K\x03K\x08\x86R",
    "a layer by the oldest opcode": b"(K\x03K\x08iultralytics.nn.modules.conv\nConv\n",
    "a layer by obj": b"(" + CONV + b"K\x03K\x08o",
    "a layer with named arguments": b"\x80\x04" + CONV + b")}" + text("c1") + b"K\x03s\x92",
    "a class as a value": b"}" + text("model") + CONV + b"s",
    "a class in a list": b"]" + CONV + b"a",
    "a class as a hook": CONV + b")\x81}" + text("act") + MODEL + b"sb",
    "a function as a forward": CONV
    + b")\x81}"
    + text("forward")
    + g("builtins", "getattr")
    + b"sb",
    "attributes of a function": g("torch._utils", "_rebuild_tensor_v2")
    + b"}"
    + text("a")
    + b"K\x01sb",
    "another attribute": g("builtins", "getattr") + CONV + text("__init__") + b"\x86R",
    "an attribute of a module": g("builtins", "getattr") + MODEL + text("load") + b"\x86R",
    "items of an object": CONV + b")\x81" + text("a") + b"K\x01s",
    "a large set": g("builtins", "bytearray") + b"\x8a\x05\x00\x00\x00\x00\x01\x85R",
    "the registry": b"\x82\x01",
    "an object of a builtin": g("builtins", "list") + b")\x81",
    "rebuilt of a base": g("copyreg", "_reconstructor") + CONV + g("builtins", "list") + b"]\x87R",
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_pickle_that_asks_for_work_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in (Conv, DetectionModel, DistillationModel):
        monkeypatch.setattr(one, "__init__", lambda *_, **__: pytest.fail("was called"))
    with pytest.raises(MisuseError):
        load(checkpoint(PROGRAMS[kind], tmp_path / "m.pt"))


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.__import__",
        "subprocess.Popen",
        "importlib.import_module",
        "torch.load",
        "torch.hub.load",
        "torch.serialization.load",
        "torch.utils.cpp_extension.load",
        "ultralytics.nn.tasks.load_checkpoint",
        "ultralytics.nn.tasks.torch_safe_load",
        "ultralytics.nn.autobackend.AutoBackend",
        "ultralytics.engine.model.Model",
        "ultralytics.utils.downloads.safe_download",
        "ultralytics.nn.modules.conv.math",
        "torch.nn.modules.module.warnings",
        "functools.partial",
        "operator.attrgetter",
        "numpy.load",
        "numpy.core.multiarray._reconstruct",
        "codecs.open",
        "yoloprune.models.door.load",
        "not.there",
    ],
)
def test_what_is_not_known_is_named_and_not_imported(name: str, tmp_path: Path) -> None:
    module, _, last = name.rpartition(".")
    with pytest.raises(UnknownGlobalError) as caught:
        load(checkpoint(g(module, last), tmp_path / "m.pt"))
    assert caught.value.name == name


def test_a_tensor_cannot_reach_beyond_what_is_stored(tmp_path: Path) -> None:
    storage = (
        b"(" + text("storage") + g("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x02tQ"
    )
    program = (
        g("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage
        + b"K\x00"
        + b"J\x00\x00\x00\x10\x85K\x01\x85\x89"
        + g("collections", "OrderedDict")
        + b")RtR"
    )
    path = checkpoint(program, tmp_path / "m.pt")
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{folder}/data/0", bytes(8))
    with pytest.raises(MisuseError, match="beyond what is stored"):
        load(path)


def test_torchscript_and_zips_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    with pytest.raises(MisuseError, match="TorchScript"):
        load(path)


def round_trip(value: Any, path: Path) -> Any:
    torch.save({"model": value}, path)
    return load(path)["model"]


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, "x", None, True, (1, 2)], "b": {1, 2}, "c": frozenset({3}), "d": b"bytes"},
        collections.OrderedDict(a=1),
        np.float64(0.25),
        np.float32(0.5),
        np.int64(7),
        torch.Size([1, 2]),
        torch.float16,
        torch.device("cpu"),
        slice(1, 2),
        Path("a/b"),
        1 << 80,
    ],
    ids=repr,
)
def test_plain_values_arrive(value: Any, tmp_path: Path) -> None:
    again = round_trip(value, tmp_path / "m.pt")
    assert again == value
    assert type(again) is type(value)


def test_namespaces_and_parameters_arrive(tmp_path: Path) -> None:
    again = round_trip(IterableSimpleNamespace(a=1, b="x"), tmp_path / "m.pt")
    assert vars(again) == {"a": 1, "b": "x"}
    module = nn.BatchNorm2d(3)
    module.weight.requires_grad_(False)
    again = round_trip(module, tmp_path / "m.pt")
    assert not again.weight.requires_grad and again.bias.requires_grad
    assert torch.equal(again.running_var, module.running_var)


def test_fused_heads_of_old_checkpoints_keep_their_forward(tmp_path: Path) -> None:
    conv = Conv(3, 8).eval()
    conv.conv.bias = nn.Parameter(torch.ones(8))
    conv.forward = conv.forward_fuse
    again = round_trip(conv, tmp_path / "m.pt")
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(again.forward(x), conv.forward_fuse(x))


def test_names_of_earlier_releases_are_found(tmp_path: Path) -> None:
    for module, name, kind in (
        ("ultralytics.yolo.utils", "IterableSimpleNamespace", IterableSimpleNamespace),
        ("ultralytics.nn.modules", "Detect", Detect),
        ("ultralytics.nn.modules.block", "Silence", nn.Identity),
        ("ultralytics.nn.tasks", "YOLOv10DetectionModel", DetectionModel),
    ):
        path = checkpoint(g(module, name) + b")\x81", tmp_path / "m.pt")
        assert type(load(path)) is kind


YAMLS = sorted(
    path.name
    for path in (Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml")
    if "resnet" not in path.name
)


@pytest.mark.slow
@pytest.mark.parametrize("name", YAMLS)
def test_every_stock_architecture_arrives(name: str, tmp_path: Path) -> None:
    from ultralytics.cfg import get_cfg

    from yoloprune.models.description import load_description

    model: Any = load_description(Path(name)).half()
    model.args, model.nc = get_cfg(), len(model.names)  # as training leaves them
    model.criterion = model.init_criterion() if hasattr(model, "init_criterion") else None
    again = round_trip(model, tmp_path / "m.pt")
    assert repr(again) == repr(model)
    found = again.state_dict()
    assert list(found) == list(model.state_dict())
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


def test_a_few_stock_architectures_arrive(tmp_path: Path) -> None:
    from yoloprune.models.description import load_description

    for name in ("yolov8n-seg.yaml", "yolov8n-pose.yaml", "yolo11n-obb.yaml", "yolov8n-cls.yaml"):
        model = load_description(Path(name))
        assert repr(round_trip(model, tmp_path / "m.pt")) == repr(model)


def test_the_programs_would_have_worked(tmp_path: Path) -> None:
    """Python's own unpickler carries them out: the refusals above are not of broken pickles."""
    program = b"\x80\x02" + PROGRAMS["a layer with arguments"] + b"."
    assert isinstance(pickle.loads(program), Conv)
