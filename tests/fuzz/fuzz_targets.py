"""Everything that reads a file from outside, with how its files are made and read."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from fuzz_mutate import edits, mutate
from fuzz_pickles import checkpoints
from hypothesis import strategies as st

import yoloprune
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel, load_weights, weight_fields
from yoloprune.darknet.weights import Field, Header, read_weights
from yoloprune.measure.data import load_dataset
from yoloprune.measure.inspection import inspect_model
from yoloprune.measure.labels import read_labels
from yoloprune.models.checkpoint import is_finished
from yoloprune.prune.plan import PrunePlan
from yoloprune.rounds.recipe import read_recipe

HERE = Path(__file__).parent
REPO = HERE.parents[1]
CASES = REPO.parent / "shared" / "cases"
SMALL = False
"""Whether to begin with few and small seeds only."""
CHEAP = 2_000_000
"""Parameters of a network that is run, too."""

Cases = st.SearchStrategy[bytes]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader of files.

    Attributes:
        suffix: of its files.
        seeds: whole files to begin with.
        made: files of its kind, made up.
        read: what is tried; returns, or raises a YoloPruneError.
    """

    suffix: str
    seeds: Callable[[], list[bytes]]
    made: Callable[[], Cases]
    read: Callable[[Path], Any]

    def cases(self) -> Cases:
        """Seeds with changes, and what is made up."""
        seeds = self.seeds()
        which = st.integers(0, len(seeds) - 1)  # a seed itself would fill pages of messages
        changed = st.builds(lambda i, changes: mutate(seeds[i], changes, seeds), which, edits)
        return st.one_of(changed, self.made(), changed)


def _seeds(folder: str, *more: Path) -> list[bytes]:
    own = sorted((HERE / "seeds" / folder).iterdir())
    others = [path for path in more if path.is_file()]
    return [path.read_bytes() for path in own + others]


# What stands where a value is expected.
numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([0, -1, 255, 65536, 2**31 - 1, 2**31, -(2**31), 2**63, 10**30]),
    st.floats(),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def _changed(tree: Any) -> st.SearchStrategy[Any]:
    """A tree of plain values, some of it replaced, left out or added to."""
    if isinstance(tree, dict) and tree:
        parts = {key: _changed(part) for key, part in tree.items()}
        some = st.fixed_dictionaries({}, optional=parts)
        whole = st.fixed_dictionaries(parts)
        added = st.tuples(whole, st.dictionaries(st.text(max_size=8), values, max_size=1))
        return st.one_of(whole, whole, some, added.map(lambda two: two[0] | two[1]), values)
    return st.one_of(st.just(tree), st.just(tree), st.just(tree), st.just(tree), values)


# -- cfg -----------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, list[object]]] = {
    "convolutional": {
        "filters": [1, 4, 8, 14, 21, 1 << 16], "size": [1, 3, 5], "stride": [1, 2], "pad": [0, 1],
        "batch_normalize": [0, 1], "groups": [1, 2, 4], "dilation": [1, 2], "padding": [0, 2],
        "activation": ["leaky", "linear", "mish", "swish", "logistic", "relu6", "tanh", "none"],
        "stride_x": [1, 3], "stride_y": [2], "antialiasing": [0, 1], "share_index": [0],
    },
    "shortcut": {
        "from": [-1, -2, 0, "-1,-2"], "activation": ["linear", "leaky"],
        "weights_type": ["none", "per_feature", "per_channel"],
        "weights_normalization": ["none", "relu", "softmax"],
    },
    "route": {"layers": [-1, "-1,-2", "0,1", "-1,-1"], "groups": [1, 2], "group_id": [0, 1, 2]},
    "maxpool": {"size": [1, 2, 3], "stride": [1, 2], "padding": [0, 1], "maxpool_depth": [0, 1]},
    "local_avgpool": {"size": [2, 3], "stride": [1, 2]},
    "avgpool": {},
    "upsample": {"stride": [1, 2, 64]},
    "reorg": {"stride": [1, 2], "reverse": [0, 1]},
    "reorg3d": {"stride": [2]},
    "scale_channels": {"from": [-1, -2, 0], "activation": ["linear", "logistic"]},
    "sam": {"from": [-1, -2]},
    "dropout": {"probability": [0, 0.5, 1], "dropblock": [0, 1], "dropblock_size_abs": [7]},
    "connected": {"output": [4, 1 << 20], "activation": ["leaky"]},
    "yolo": {
        "mask": ["0", "0,1", "0,1,2", "3"], "anchors": ["1,2", "4,6, 8,8, 12,16"], "num": [1, 3],
        "classes": [1, 2, 80], "scale_x_y": [1, 2], "new_coords": [0, 1], "iou_loss": ["ciou"],
    },
    "Gaussian_yolo": {"mask": ["0"], "anchors": ["1,2"], "num": [1], "classes": [1]},
    "region": {"anchors": ["1,2, 3,4"], "num": [2], "classes": [2], "coords": [4], "softmax": [1]},
    "softmax": {}, "cost": {}, "rnn": {}, "": {},
}  # fmt: skip
NET: dict[str, list[object]] = {
    "width": [32, 64, 96], "height": [32, 64, 33], "channels": [1, 3], "batch": [1],
    "letter_box": [0, 1], "inputs": [100],
}  # fmt: skip


def _section(kind: str, options: dict[str, list[object]]) -> st.SearchStrategy[str]:
    parts = {name: st.sampled_from(stock) | numbers for name, stock in options.items()}
    usual = {name: st.sampled_from(stock[:3]) for name, stock in options.items()}
    chosen = st.one_of(
        *(st.fixed_dictionaries({}, optional=usual) for _ in range(3)),
        st.fixed_dictionaries({}, optional=parts),
    )
    return chosen.map(
        lambda got: f"[{kind}]\n" + "".join(f"{k}={v}\n" for k, v in got.items()) + "\n"
    )


def _made_cfg() -> Cases:
    layers = [_section(kind, options) for kind, options in OPTIONS.items()]
    often = [layers[0]] * 6 + layers
    head = "[convolutional]\nfilters=21\n\n[yolo]\nmask=0,1,2\nanchors=4,6,8,8,12,16\n"
    ends = st.sampled_from(["", head + "classes=2\nnum=3\n"])
    body = st.lists(st.one_of(*often), min_size=1, max_size=12).map("".join)
    return st.tuples(_section("net", NET), body, ends).map(lambda parts: "".join(parts).encode())


def _read_cfg(path: Path) -> None:
    model = DarknetModel(read_cfg(path)).eval()
    height, width = model.net_size
    size = sum(parameter.numel() for parameter in model.parameters())
    if size <= CHEAP and height * width <= 64 * 64 and len(model.model) < 60:
        with torch.inference_mode():
            model(torch.zeros(1, model.yaml["channels"], height, width))


# -- weights -------------------------------------------------------------------------------------


@cache
def _network() -> DarknetModel:
    return DarknetModel(read_cfg(HERE / "seeds" / "cfg" / "heads.cfg")).eval()


def _weights_seeds() -> list[bytes]:
    count = sum(field.count for field in weight_fields(_network()))
    body = np.linspace(0.5, 1.5, count, dtype="<f4").tobytes()
    return [Header(seen=7).pack() + body, Header(minor=1).pack() + body]


def _made_weights() -> Cases:
    count = sum(field.count for field in weight_fields(_network()))
    versions = st.tuples(*[st.integers(-(2**31), 2**31 - 1) | st.integers(0, 3)] * 3)
    header = versions.map(lambda version: struct.pack("<3i", *version))
    floats = st.integers(-2, 2).map(lambda more: 4 * (count + more))
    values = st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80\x3f"])
    body = st.tuples(floats, values, st.integers(0, 24))
    return st.builds(
        lambda head, rest: head + bytes(rest[2]) + (rest[1] * rest[0])[: rest[0]], header, body
    )


def _load_weights(path: Path) -> None:
    if path.stat().st_size < 200:
        read_weights(path, [Field("#0 [convolutional]", 16)])
        return
    model = _network()
    load_weights(model, path)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))


# -- plan, recipe --------------------------------------------------------------------------------


@cache
def _graph() -> Any:
    return trace(_network())


def _read_plan(path: Path) -> None:
    made = PrunePlan.read(path)
    assert PrunePlan.from_json(made.to_json()) == made
    made.remove(_graph())


def _made_plan() -> Cases:
    plan = json.loads((HERE / "seeds" / "plan" / "small.json").read_text())
    layers = {"model.0.conv": [0, 1], "model.1.conv": [7], "model.10.conv": [3]}
    text = _changed(plan | {"layers": layers}).map(json.dumps)
    deep = st.integers(1, 200_000).map(lambda n: "[" * n)
    return st.one_of(text, text, text, deep).map(str.encode)


def _made_recipe() -> Cases:
    recipe = yaml.safe_load((HERE / "seeds" / "recipe" / "whole.yaml").read_text())
    plain = _changed(recipe).map(lambda data: yaml.safe_dump(data).encode())
    return st.one_of(plain, plain, _strange_yaml(["model", "data", "slim", "settings"]))


def _strange_yaml(keys: list[str]) -> Cases:
    """YAML of which no safe_dump would think: aliases, tags, depth, keys that are no words."""
    scalars = st.sampled_from(
        ["1", "a", "2020-13-45", "2020-01-01 25:00:00", "!!bool maybe", "!!int x", "!!float a.b",
         "!!timestamp x", "!!set {a}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!binary '*'", "*a",
         "&a 1", "1:60:60", "0x", "0b", "._", ".", "+.inf", ".nan", "<<", "=", "!x y", "? a",
         "!!python/name:os.system ''", "!!python/object/new:os.system ['touch PWNED']", "~",
         "1e400", "0" * 5000, "9" * 5000, "\x85", "'\\ud800'", '"\\ud800"', '"\\U00110000"',
         '"\\x1b[2J"', '"\\0"', "|\n  x", "{*a : 1}", "[" * 2000],
    )  # fmt: skip
    pairs = st.tuples(st.sampled_from([*keys, "<<", "? [1]\n", "&a x", "*a", "1", "~"]), scalars)
    flat = st.lists(pairs, max_size=6).map(lambda ps: "".join(f"{k}: {v}\n" for k, v in ps))
    bomb = st.integers(2, 30).map(
        lambda n: "x0: &x0 [a, a]\n" + "".join(
            f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, n)
        ) + f"{keys[0]}: *x{n - 1}\n{keys[1]}: d.yaml\n"
    )  # fmt: skip
    return st.one_of(flat, flat, bomb).map(_bytes)


# -- data, labels --------------------------------------------------------------------------------


def lay_out(folder: Path) -> None:
    """The pictures and labels that a data file may name."""
    picture = cv2.imencode(".png", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
    for name in ("images/a.png", "images/b.png", "labels/a.txt", "labels/b.txt"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture if path.suffix == ".png" else b"0 0.5 0.5 0.5 0.5\n")
    (folder / "list.txt").write_text("images/a.png\n./images/b.png\n")
    (folder / "two.names").write_text("disc\nring\n")


PLACES = st.sampled_from(
    ["images", "list.txt", "two.names", ".", "..", "/", "/dev/zero", "/dev/null", "a\0b", "", "~",
     "images/a.png", "labels", "*", "a" * 300, "http://127.0.0.1:9/x.zip", "\n", "x\x1b", "-",
     "/proc/self", "images/", "./images/../images", "coco8.yaml", "\udcff", "/dev/stdin"]
)  # fmt: skip


def _made_data() -> Cases:
    places = st.one_of(PLACES, PLACES, st.lists(PLACES, max_size=3), values)
    names = st.one_of(
        st.lists(st.text(max_size=5), max_size=4),
        st.dictionaries(numbers | st.text(max_size=3), st.text(max_size=3), max_size=3),
        values,
    )
    tree = st.fixed_dictionaries(
        {"val": places},
        optional={
            "path": places, "train": places, "nc": numbers, "download": PLACES, "names": names,
            "kpt_shape": values, "channels": numbers, "flip_idx": values,
        },
    )  # fmt: skip
    named = tree.map(lambda data: data | {"names": ["a", "b"]})
    plain = st.one_of(tree, named).map(lambda data: _bytes(yaml.safe_dump(data)))
    return st.one_of(plain, plain, _strange_yaml(["names", "val", "train", "path"]))


def _made_darknet() -> Cases:
    keys = st.sampled_from(["classes", "train", "valid", "names", "eval", "backup", ""])
    lines = st.tuples(keys, PLACES | st.sampled_from(["1", "2", "-1", "٣", "9" * 5000]))
    whole = st.lists(lines, max_size=6)
    return whole.map(lambda rows: _bytes("".join(f"{key} = {value}\n" for key, value in rows)))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _made_labels() -> Cases:
    words = st.one_of(
        st.floats(-0.1, 1.1).map(repr),
        numbers.map(str),
        st.sampled_from(["0", "1", "0.5", "nan", "1_0", "٣", "0x1", "1e999", "", "-", "\x1c"]),
    )
    line = st.lists(words, max_size=12).map(" ".join)
    ends = st.sampled_from(["\n", "\r\n", "\r", "\x85", "\u2028", "\x0c"])
    lines = st.lists(st.tuples(line, ends).map("".join), max_size=6)
    return lines.map(lambda rows: "".join(rows).encode())


# -- models of Ultralytics -----------------------------------------------------------------------


def _made_model() -> Cases:
    model = yaml.safe_load((HERE / "seeds" / "model" / "small.yaml").read_text())
    names = st.sampled_from(
        ["Conv", "C2f", "C3", "Concat", "nn.Upsample", "nn.Sequential", "Detect", "SPPF", "Segment",
         "torch.load", "nn.Module", "nn.modules.os.system", "Classify", "RTDETRDecoder", "Index",
         "TorchVision", "os", "__import__", "eval", "C2PSA", "CBLinear", "Pose", "OBB", "nn.os"]
    )  # fmt: skip
    reads = st.integers(-4, 8) | st.lists(st.integers(-4, 8), max_size=3) | values
    inner = st.lists(numbers | st.text(max_size=4) | st.sampled_from([8, 16, 3, True]), max_size=4)
    layer = st.tuples(reads, st.integers(0, 3) | numbers, names, inner).map(list)
    layers = st.lists(layer, max_size=4)
    activation = st.sampled_from(
        ["nn.ReLU()", "nn.SiLU", "torch.nn.Mish()", "__import__('os').system('touch PWNED')",
         "nn.Module.forward", "open('PWNED','w')", "[c for c in ()]", "lambda x: x", "", "("]
    ) | values  # fmt: skip
    tree = _changed(model).filter(lambda data: isinstance(data, dict))
    more = st.fixed_dictionaries(
        {}, optional={"activation": activation, "backbone": layers, "head": layers}
    )
    both = st.tuples(tree, more).map(lambda two: two[0] | two[1])
    plain = both.map(lambda data: yaml.safe_dump(data).encode())
    return st.one_of(plain, plain, _strange_yaml(["nc", "backbone", "head", "activation"]))


def _load_model(path: Path) -> None:
    model, _ = yoloprune.load(path)
    if sum(parameter.numel() for parameter in model.parameters()) <= CHEAP:
        inspect_model(model, 64)


def _load_checkpoint(path: Path) -> None:
    finished: Exception | None = None
    try:
        is_finished(path)
    except yoloprune.YoloPruneError as exc:
        finished = exc
    _load_model(path)
    if finished is not None:
        raise finished


def _checkpoint_seeds() -> list[bytes]:
    broken = [CASES / "broken" / name for name in ("empty.pt", "web-page.pt", "lfs-pointer.pt")]
    broken += [CASES / "code" / "class-call.pt", CASES / "code" / "second-stage.pt"]
    return checkpoints.seeds() + [path.read_bytes() for path in broken if path.is_file()]


_CFGS = ("costly/routes.cfg", "costly/wide.cfg", "users/bom.cfg")


def _shipped() -> list[Path]:
    """The repository's; all but the smallest take seconds to build."""
    return sorted((REPO / "cfg").glob("*demo*.cfg" if SMALL else "*.cfg"))


TARGETS: dict[str, Target] = {
    "cfg": Target(
        suffix=".cfg",
        seeds=lambda: _seeds("cfg", *_shipped(), *(CASES / name for name in _CFGS)),
        made=_made_cfg,
        read=_read_cfg,
    ),
    "weights": Target(
        suffix=".weights", seeds=_weights_seeds, made=_made_weights, read=_load_weights
    ),
    "plan": Target(
        suffix=".json", seeds=lambda: _seeds("plan"), made=_made_plan, read=_read_plan
    ),
    "recipe": Target(
        suffix=".yaml",
        seeds=lambda: _seeds("recipe", CASES / "costly/aliases.yaml", CASES / "code/recipe.yaml"),
        made=_made_recipe,
        read=read_recipe,
    ),
    "data": Target(
        suffix=".yaml",
        seeds=lambda: _seeds("data", CASES / "broken/date.yaml", CASES / "users/pose/data.yaml"),
        made=_made_data,
        read=load_dataset,
    ),
    "darknet": Target(
        suffix=".data", seeds=lambda: _seeds("darknet"), made=_made_darknet, read=load_dataset
    ),
    "labels": Target(
        suffix=".txt",
        seeds=lambda: _seeds("labels"),
        made=_made_labels,
        read=lambda path: read_labels(path, classes=2),
    ),
    "checkpoint": Target(
        suffix=".pt", seeds=_checkpoint_seeds, made=checkpoints.made, read=_load_checkpoint
    ),
    "model": Target(
        suffix=".yaml",
        seeds=lambda: _seeds("model", CASES / "code/activation.yaml"),
        made=_made_model,
        read=_load_model,
    ),
}  # fmt: skip
