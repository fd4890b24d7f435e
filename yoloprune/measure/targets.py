"""What devices and toolchains want of a network: a table, each fact with its source.

A target is here only where somebody published what it wants, or where it was measured: nothing is
guessed. What is known and how:

- ``measured``: by yoloprune, with the version and processor that the fact names;
- ``source``: read in the toolchain's own source code;
- ``documented``: said by the maker's documentation;
- ``reported``: measured and published by a user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from yoloprune.errors import MeasureError
from yoloprune.measure.convs import Rule, anything, every, multiples, nchwc

Known = Literal["measured", "source", "documented", "reported"]
DEFAULT = "onnxruntime"
"""The target that is counted for where none is named."""
_AVX512 = 16
ROUND_TO = 8
"""What kept counts are multiples of where neither the user nor the target says."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is known of a target.

    Attributes:
        says: the fact.
        source: where it can be looked up.
        known: how it is known.
    """

    says: str
    source: str
    known: Known = "documented"


@dataclass(frozen=True, slots=True)
class Avoid:
    """An operation that a target does badly, or not at all.

    Attributes:
        op: one of ``yoloprune.measure.deployed.KINDS``.
        fact: why.
        above: windows up to this size, in pixels, are no trouble.
    """

    op: str
    fact: Fact
    above: int = 0

    @property
    def name(self) -> str:
        """What is avoided, in words."""
        return f"{self.op} above {self.above}×{self.above}" if self.above else self.op


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device or a toolchain.

    Attributes:
        name: as ``--target`` takes it.
        title: what it is.
        round_to: what kept counts are to be multiples of; None where nobody published any.
        rule: what leaves the fast path.
        path: the fast path, in words that follow "leaves".
        layout: how tensors lie in its memory.
        precision: that this holds for.
        facts: what is known of widths and layouts, the first being why of ``round_to``.
        avoid: operations.
        aliases: other names that are taken.
    """

    name: str
    title: str
    round_to: int | None
    rule: Rule
    path: str
    layout: str
    precision: str
    facts: tuple[Fact, ...]
    avoid: tuple[Avoid, ...] = ()
    aliases: tuple[str, ...] = ()


def find_target(name: str) -> Target:
    """Look a target up by its name or an alias, in any case.

    Raises:
        MeasureError: there is none of that name.
    """
    wanted = name.strip().lower().replace("_", "-")
    for target in TARGETS:
        if wanted in (target.name, *target.aliases):
            return target
    raise MeasureError(
        f"--target: unknown, got {name!r}, expected one of "
        f"{', '.join(target.name for target in TARGETS)}. `yoloprune targets` describes them."
    )


def rounding(asked: int | None, target: str | None) -> int:
    """What kept counts are to be multiples of.

    Args:
        asked: by the user; goes before what the target wants.
        target: name of one, if any.

    Raises:
        MeasureError: there is no such target.
    """
    wanted = None if target is None else find_target(target).round_to
    return asked or wanted or ROUND_TO


def wider_hint(round_to: int) -> str | None:
    """What to try where this processor computes more channels at once than widths go by.

    Args:
        round_to: what kept counts were made multiples of.
    """
    import torch

    if torch.backends.cpu.get_cpu_capability() != "AVX512" or round_to % _AVX512 == 0:
        return None
    return (
        f"this processor computes {_AVX512} channels at once, widths are multiples of {round_to}: "
        f"--round-to {_AVX512} may keep more at this limit"
    )


def _in_blocks(of: int, *, inputs: int | None = None, **rest: Any) -> Target:
    """A target whose tensors come in blocks of so many channels; what it reads, in ``inputs``."""
    rule = multiples(inputs=of if inputs is None else inputs, outputs=of)
    return Target(round_to=of, rule=rule, path=f"whole blocks of {of} channels", **rest)


_ORT = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core"
_NCHWC = f"{_ORT}/optimizer/nchwc_transformer.cc"
_ORT_HERE = "ONNX Runtime 1.32, AVX-512, one thread"
_ORT_FACTS = (
    Fact(
        "A dense conv enters the blocked layout if it reads fewer channels than a block has, or a "
        "multiple of 4, whatever it gives; a depthwise conv if its channels are a multiple of 4; "
        "another grouped conv only if what each group reads and gives are multiples of the block",
        _NCHWC,
        "measured",
    ),
    Fact("The block has 16 channels with AVX-512 and 8 on other x86 processors",
         f"{_ORT}/mlas/lib/platform.cpp", "source"),
    Fact(
        "YOLOv8n at half of its multiply-adds took 88 ms with widths as they fall, 36 of 64 convs "
        "being outside, and 74, 67, 62 and 61 ms with multiples of 4, 8, 16 and 32, none being "
        "outside; whole it took 96 ms (320×320, medians of 40 in turn on a busy machine)",
        _ORT_HERE,
        "measured",
    ),
    Fact(
        "A concatenation stays in the layout only where each of its parts is a multiple of the "
        "block; else its data is put in order before and after",
        _NCHWC,
        "measured",
    ),
)  # fmt: skip
_ORT_AVOID = (
    Avoid("channel slice", Fact(
        "Split and Slice (grouped routes, C2f) have no blocked kernel, so that data is put in "
        "order before and after each", _NCHWC, "measured")),
    Avoid("Mish", Fact("It runs as Softplus, Tanh and Mul outside of the blocked layout; ReLU, "
                       "LeakyReLU, Hardswish and SiLU stay in it", _NCHWC, "measured")),
    Avoid("transposed conv", Fact("It has no blocked kernel", _NCHWC, "measured")),
)  # fmt: skip
_ANY_ORT = Target(
    name="onnxruntime",
    aliases=("ort", "onnx"),
    title="ONNX Runtime on any x86 CPU",
    round_to=8,
    rule=every(AVX2=nchwc(8), AVX_512=nchwc(16)),
    path="the blocked layout",
    layout="NCHWc",
    precision="fp32",
    facts=_ORT_FACTS,
    avoid=_ORT_AVOID,
)
_TRT = "https://github.com/NVIDIA/TensorRT/blob/main/include/NvInferRuntimeBase.h"
_TRT_FORMATS = (
    "https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/data-format-desc.html"
)
_HTP = "https://docs.qualcomm.com/doc/80-63442-10/topic"
_AXIS = "https://developer.axis.com/computer-vision/on-device/system-on-chip"
_ARTPEC_8 = (
    "https://www.developer-stage.axis.com/computer-vision/computer-vision-on-device/"
    "optimization-tips"
)
_NCNN = "https://github.com/Tencent/ncnn/blob/master/src/layer"
_RKNN_YOLO = (
    "https://github.com/airockchip/rknn_model_zoo/blob/"
    "b66eb3f4635a9ddf63050a78ab13cac19c06a254/models/vision/object_detection/yolov5-pytorch/"
    "README_EN.md"
)
_DPU = "https://docs.amd.com/r/3.4-English/pg338-dpu/Features"

TARGETS: tuple[Target, ...] = (
    _ANY_ORT,
    replace(
        _ANY_ORT, name="onnxruntime-avx2", aliases=("ort-avx2",),
        title="ONNX Runtime on x86 with AVX2", rule=nchwc(8),
    ),
    replace(
        _ANY_ORT, name="onnxruntime-avx512", aliases=("ort-avx512",),
        title="ONNX Runtime on x86 with AVX-512", round_to=16, rule=nchwc(16),
    ),
    Target(
        name="openvino", aliases=("openvino-cpu",), title="OpenVINO on an x86 CPU",
        round_to=8, rule=anything, path="its fast kernels", layout="NHWC", precision="fp32",
        facts=(
            Fact("A vector holds 16 floats with AVX-512 and 8 with AVX2; layouts in blocks of "
                 "that many channels are filled up with zeros",
                 "https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html"),
            Fact("Dense and depthwise convs of any widths, odd ones too, run by the same kernels "
                 "(brgconv), channels last: none leaves a fast path",
                 "OpenVINO 2026.4, AVX-512, get_runtime_model()", "measured"),
        ),
    ),
    _in_blocks(
        16, inputs=1,
        name="openvino-int8", title="OpenVINO on an x86 CPU, 8 bits",
        layout="NHWC", precision="int8",
        facts=(
            Fact("YOLOv5nu at half of its multiply-adds took 11.0 ms with widths in eights, 6.1 in "
                 "sixteens and 6.4 in thirty-twos; whole it took 8.4 ms (320×320, medians of 40 in "
                 "turn, all convs by brgconv_avx512_amx)",
                 "OpenVINO 2026.4, AMX, one thread", "measured"),
        ),
    ),
    _in_blocks(
        16,
        name="openvino-npu", aliases=("intel-npu",), title="NPU of Intel Core Ultra, by OpenVINO",
        layout="NHWC", precision="fp16",
        facts=(
            Fact("Its compiler pads what a conv reads and gives to multiples of 16 channels",
                 "https://github.com/openvinotoolkit/npu_plugin/blob/develop/tests/lit/NPU/dialect/"
                 "IE/passes/expand_activation_channels_37XX.mlir", "source"),
        ),
    ),
    Target(
        name="ncnn", title="ncnn on ARM or x86 CPUs",
        round_to=8, rule=multiples(inputs=4, outputs=4), path="packed tensors (multiples of 4)",
        layout="NC4HW4, NC8HW8", precision="fp32, fp16",
        facts=(
            Fact("x86: channels are packed by 16 (AVX-512), 8 (AVX) or 4 where they are multiples "
                 "of that, else not at all", f"{_NCNN}/x86/convolution_x86.cpp", "source"),
            Fact("ARM: they are packed by 4 where they are multiples of 4, else not at all",
                 f"{_NCNN}/arm/convolution_arm.cpp", "source"),
        ),
    ),
    _in_blocks(
        8, inputs=1,
        name="xnnpack", aliases=("tflite", "litert", "tflite-xnnpack", "executorch"),
        title="XNNPACK: TensorFlow Lite, LiteRT and ExecuTorch on CPUs",
        layout="NHWC", precision="fp32",
        facts=(
            Fact("Its float kernels for ARM compute 8 output channels at a time",
                 "https://github.com/google/XNNPACK/blob/master/src/configs/gemm-config.c",
                 "source"),
        ),
    ),
    _in_blocks(
        8,
        name="tensorrt-fp16", aliases=("tensorrt", "trt", "trt-fp16"),
        title="TensorRT on NVIDIA GPUs, half precision",
        layout="NHWC8", precision="fp16",
        facts=(
            Fact("Its channels-last format for half precision fills channels up to a multiple of 8",
                 _TRT_FORMATS),
            Fact("A YOLO with layers of 25 and 50 channels ran in that format, with tensors "
                 "rearranged between layers",
                 "https://github.com/NVIDIA/TensorRT/issues/3876", "reported"),
        ),
    ),
    _in_blocks(
        32,
        name="tensorrt-int8", aliases=("trt-int8", "dla"),
        title="TensorRT on NVIDIA GPUs, 8 bits, and the DLA of Jetsons",
        layout="CHW32", precision="int8",
        facts=(
            Fact("Its format of 32 channels a vector is the one for 8 bits, and the DLA's own",
                 _TRT, "source"),
        ),
    ),
    _in_blocks(
        16,
        name="rknn", aliases=("rockchip", "rk3588", "rk3568", "rk3566", "rv1106"),
        title="Rockchip NPUs, by RKNN-Toolkit2",
        layout="NC1HWC2", precision="int8",
        facts=(
            Fact("Its own layout packs channels in blocks, typically of 16",
                 "https://docs.rs/rknn-runtime/0.1.1/rknn_runtime/tensor/struct.Nc1hwc2Layout.html",
                 "reported"),
        ),
        avoid=(
            Avoid("max pool", Fact(
                "Large windows are slow; two of 3×3 are one of 5×5, exactly", _RKNN_YOLO), above=3),
            Avoid("spatial slice", Fact(
                "Slices (YOLOv5's Focus) are slow on some of its devices; an equal conv is not",
                _RKNN_YOLO)),
            Avoid("SiLU", Fact(
                "ReLU is recommended on RK3399Pro, RK1808, RV1109 and RV1126; on RK3566, RK3568 "
                "and RK3588 it is not needed", _RKNN_YOLO)),
        ),
    ),
    _in_blocks(
        32,
        name="qualcomm-htp", aliases=("qnn", "htp", "hexagon", "qualcomm", "snpe"),
        title="Hexagon Tensor Processor of Qualcomm, by AI Engine Direct (QNN)",
        layout="32 channels a block", precision="int8",
        facts=(
            Fact("Channels are to be rounded up to multiples of 32",
                 f"{_HTP}/htp_guidelines_channels.html"),
            Fact("Activations are stored in steps of 32 channels; far fewer (4, 8, 16) compute "
                 "badly, other numbers waste memory",
                 f"{_HTP}/htp_guidelines_low_depth_activations.html"),
        ),
        avoid=(
            Avoid("depthwise conv", Fact("Dense convs use its matrix engine better",
                                         f"{_HTP}/htp_guidelines_low_depth_activations.html")),
        ),
    ),
    _in_blocks(
        16,
        name="ascend", aliases=("cann", "huawei-ascend"), title="Huawei Ascend, by CANN",
        layout="NC1HWC0", precision="fp16",
        facts=(
            Fact("Channels are cut into blocks of the cube unit's size, 16, the last one padded",
                 "https://www.hiascend.com/document/detail/en/canncommercial/800/apiref/"
                 "appdevgapi/aclpythondevg_01_0924.html"),
        ),
    ),
    _in_blocks(
        16,
        name="vitis-ai-dpu", aliases=("vitis-ai", "dpu", "dpuczdx8g"),
        title="AMD Xilinx DPU of Zynq UltraScale+, by Vitis AI",
        layout="16 channels in parallel", precision="int8",
        facts=(
            Fact("Its B4096 configuration computes 16 channels in parallel",
                 "https://docs.amd.com/r/3.0-English/ug1414-vitis-ai/Currently-Supported-Operators"),
        ),
        avoid=tuple(
            Avoid(op, Fact("It knows ReLU, ReLU6 and LeakyReLU; others run on the CPU", _DPU))
            for op in ("SiLU", "Mish", "Hardswish", "GELU")
        ),
    ),
    Target(
        name="axis-artpec8", aliases=("artpec8", "artpec-8"), title="Axis cameras with ARTPEC-8",
        round_to=6, rule=multiples(inputs=1, outputs=6), path="multiples of 6 filters",
        layout="NHWC", precision="int8",
        facts=(Fact("A conv's filters are to be a multiple of 6",
                    _ARTPEC_8),),
        avoid=(
            Avoid("depthwise conv", Fact("Dense convs are more efficient",
                                         _ARTPEC_8)),
        ),
    ),
    _in_blocks(
        16,
        name="axis-artpec9", aliases=("artpec9", "artpec-9"), title="Axis cameras with ARTPEC-9",
        layout="NHWC", precision="int8",
        facts=(
            Fact("A conv's channels are taken in groups of 16",
                 f"{_AXIS}/artpec-9/optimization-tips/"),
            Fact("Each part of a concatenation must be a multiple of 16 channels",
                 f"{_AXIS}/artpec-9/supported-ops/"),
        ),
        avoid=(
            Avoid("SiLU", Fact("ReLU6 is recommended", f"{_AXIS}/artpec-9/optimization-tips/")),
            Avoid("conv", Fact("Kernels of 1, 2, 3, 5, 7 and 9 run",
                               f"{_AXIS}/artpec-9/supported-ops/"), above=9),
        ),
    ),
    _in_blocks(
        16,
        name="ethos-u", aliases=("ethos", "vela", "ethos-u55", "ethos-u65"),
        title="Arm Ethos-U microNPUs, by Vela",
        layout="NHCWB16", precision="int8",
        facts=(
            Fact("A network of 17 channels took twice the memory and 1.9 times the cycles of one "
                 "of 16",
                 "https://community.arm.com/support-forums/f/ai-and-ml-forum/55270/"
                 "the-sram-allocation-with-vela-compiler", "reported"),
        ),
    ),
    Target(
        name="mediatek-mdla", aliases=("mdla", "mediatek"), title="MediaTek MDLA, by Neuron SDK",
        round_to=None, rule=anything, path="it", layout="NHWC", precision="int8, int16",
        facts=(),
        avoid=(
            Avoid("grouped conv", Fact(
                "Grouped convs are not supported (depthwise ones are)",
                "https://mediatek.gitlab.io/aiot/doc/aiot-dev-guide/master/sw/yocto/ml-guide/"
                "neuron-sdk/mt8195/supported-operations/mdla-guide/mdla_guidelines_2_0.html")),
        ),
    ),
    Target(
        name="k210", aliases=("kendryte-k210",), title="Kendryte K210, by nncase",
        round_to=None, rule=anything, path="it", layout="NCHW", precision="uint8",
        facts=(),
        avoid=tuple(
            Avoid(op, Fact("Its KPU takes convs of 1×1 and 3×3 and max pools of 2×2 and 4×4",
                           "https://github.com/kendryte/nncase/blob/master/docs/FAQ_EN.md"),
                  above=above)
            for op, above in (("conv", 3), ("max pool", 4))
        ),
    ),
)  # fmt: skip
"""All that is known; Hailo and the K230 are missing for want of a public source."""
