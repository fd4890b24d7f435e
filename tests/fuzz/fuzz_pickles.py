"""Checkpoints that are none: pickles with other globals, zips cut off, programs at random."""

from __future__ import annotations

import io
import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

# What a pickle would name to do harm, and what stock checkpoints name themselves.
GLOBALS = [
    "os system", "posix system", "nt system", "subprocess Popen", "subprocess check_output",
    "builtins eval", "builtins exec", "builtins open", "builtins getattr", "builtins __import__",
    "io open", "pathlib Path", "pathlib PosixPath", "pathlib Path.touch", "shutil rmtree",
    "socket create_connection", "urllib.request urlopen", "runpy run_path", "pty spawn",
    "importlib import_module", "operator attrgetter", "functools partial", "types FunctionType",
    "torch load", "torch.serialization load", "torch.hub load", "torch.jit load",
    "torch.utils.cpp_extension load", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter", "torch.storage UntypedStorage", "torch FloatStorage",
    "torch._utils _rebuild_device_tensor_from_numpy", "torch._tensor _rebuild_from_type_v2",
    "collections OrderedDict", "collections defaultdict", "numpy.core.multiarray _reconstruct",
    "numpy load", "numpy ndarray", "numpy dtype", "_codecs encode", "ultralytics YOLO",
    "ultralytics.nn.tasks DetectionModel", "ultralytics.nn.tasks torch_safe_load",
    "ultralytics.nn.modules.conv Conv", "ultralytics.nn.autobackend AutoBackend",
    "ultralytics.data.utils load_dataset_cache_file", "ultralytics.utils IterableSimpleNamespace",
    "ultralytics.utils.downloads safe_download", "ultralytics.nn.modules.block TorchVision",
    "ultralytics.nn.text_model CLIP", "ultralytics.utils YAML.load", "torch.nn.modules.conv Conv2d",
    "yoloprune.darknet.network DarknetModel", "yoloprune.files write_bytes", "models.yolo Model",
    "__main__ main", "nowhere nothing",
]  # fmt: skip


def _frame(name: str) -> bytes:
    module, _, attribute = name.partition(" ")
    return f"c{module}\n{attribute}\n".encode()


# A pickle is a program; these are its instructions, with what may follow each.
_NAMES = st.sampled_from(GLOBALS)
_INTEGERS = st.integers(0, 255)
_OPCODES = st.one_of(
    _NAMES.map(_frame),
    _NAMES.map(_frame),
    st.sampled_from(
        [
            b"(",
            b")",
            b"]",
            b"}",
            b"t",
            b"l",
            b"d",
            b"0",
            b"1",
            b"2",
            b"R",
            b"R",
            b"b",
            b"b",
            b"o",
            b"s",
            b"u",
            b"a",
            b"e",
            b"N",
            b"\x85",
            b"\x86",
            b"\x87",
            b"\x88",
            b"\x81",
            b"\x93",
            b"Q",
            b"\x92",
            b"\x8f",
            b"\x90",
            b"\x91",
            b"\x94",
            b"\x97",
            b"\x98",
        ]
    ),
    _INTEGERS.map(lambda n: b"K" + bytes([n])),
    _INTEGERS.map(lambda n: b"h" + bytes([n % 4])),
    _INTEGERS.map(lambda n: b"q" + bytes([n % 4])),
    _INTEGERS.map(lambda n: b"r" + bytes([n, n, n, n])),  # a memo as long as the file says
    _INTEGERS.map(lambda n: b"\x80" + bytes([n % 8])),
    _INTEGERS.map(lambda n: b"\x82" + bytes([n])),
    st.sampled_from(["touch PWNED", "model", "ema", "storage", "0", "cpu", "__dict__", "yaml"]).map(
        lambda word: b"X" + len(word).to_bytes(4, "little") + word.encode()
    ),
    st.sampled_from([b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x8b\xff\xff\xff\x7f", b"B\0"]),
    st.sampled_from([b"I9\n", b"I" + b"9" * 9000 + b"\n", b"F1e999\n", b"Pstorage\n", b"S'a'\n"]),
    _NAMES.map(lambda name: b"i" + _frame(name)[1:]),
)


class _Checkpoints:
    """How they are made; torch is slow enough to do some of it once."""

    @cache  # noqa: B019  there is one of it
    def seeds(self) -> list[bytes]:
        from ultralytics.nn.tasks import DetectionModel

        small = Path(__file__).parent / "seeds" / "model" / "small.yaml"
        torch.manual_seed(0)
        model = DetectionModel(str(small), verbose=False).half()
        model.args = {"imgsz": 64, "task": "detect"}
        whole = {"epoch": -1, "model": model, "ema": None, "train_args": {"imgsz": 64}}
        found = []
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(whole, file, _use_new_zipfile_serialization=zipped)
            found.append(file.getvalue())
        return [*found, pickle.dumps({"model": None, "epoch": 3}), b""]

    def made(self) -> st.SearchStrategy[bytes]:
        program = st.lists(_OPCODES, max_size=24).map(
            lambda ops: b"\x80\x02" + b"".join(ops) + b"."
        )
        around = st.sampled_from(["bare", "zip", "zip", "model"])
        random = st.builds(self._packed, program, around)
        return st.one_of(random, self._other_globals(), self._other_members())

    def _packed(self, program: bytes, around: str) -> bytes:
        if around == "bare":
            return program
        if around == "model":  # as a value of the checkpoint's own dictionary
            head = b"\x80\x02}X\x05\x00\x00\x00model"
            program = head + program[2:-1] + b"s."
        return _rezipped(self.seeds()[0], {"data.pkl": program})

    def _other_globals(self) -> st.SearchStrategy[bytes]:
        """The whole checkpoint, some of the classes that it names exchanged."""
        inside = _member(self.seeds()[0], "data.pkl")
        named = sorted(set(_globals_of(inside)))
        swaps = st.lists(
            st.tuples(
                st.sampled_from(named), st.sampled_from([_frame(g) for g in GLOBALS] + named)
            ),
            min_size=1,
            max_size=3,
        )

        def swapped(pairs: list[tuple[bytes, bytes]]) -> bytes:
            data = inside
            for old, new in pairs:
                data = data.replace(old, new)
            return _rezipped(self.seeds()[0], {"data.pkl": data})

        return swaps.map(swapped)

    def _other_members(self) -> st.SearchStrategy[bytes]:
        """The whole checkpoint, some bytes of a member changed, its checksum made to fit."""
        with zipfile.ZipFile(io.BytesIO(self.seeds()[0])) as file:
            names = [name.partition("/")[2] for name in file.namelist()]
        often = ["data.pkl"] * len(names) + names
        spots = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6)

        def changed(name: str, spots: list[tuple[int, int]], cut: int) -> bytes:
            data = bytearray(_member(self.seeds()[0], name))
            for at, value in spots:
                if data:
                    data[at % len(data)] = value
            end = len(data) * cut // 8 if cut else len(data)
            return _rezipped(self.seeds()[0], {name: bytes(data[:end])})

        return st.builds(changed, st.sampled_from(often), spots, st.sampled_from([0] * 6 + [1, 7]))


def _globals_of(data: bytes) -> list[bytes]:
    import pickletools

    found = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            found.append(_frame(str(argument)))
    return found


def _member(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return file.read(next(n for n in file.namelist() if n.endswith(f"/{name}")))


def _rezipped(data: bytes, changes: dict[str, bytes]) -> bytes:
    """A checkpoint with other contents of some members."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content: Any = changes.get(info.filename.partition("/")[2])
            new.writestr(info.filename, old.read(info) if content is None else content)
    return out.getvalue()


checkpoints = _Checkpoints()
