"""Networks and peers that several tests of Darknet's side share: random weights, OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.darknet.cfg import Cfg, cfg_bytes, parse_cfg
from yoloprune.darknet.network import DarknetModel, save_weights

FloatArray = NDArray[np.float32]

TINY = """\
# a network of one of everything
[net]
width=64
height=32
channels=3

[convolutional]            #0
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]            #1
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=mish

[route]                    #2: 6
layers=-1
groups=2
group_id=1

[convolutional]            #3
batch_normalize=1
filters=6
size=3
stride=1
pad=1
groups=6
activation=swish

[route]                    #4: 6 + 12
layers=-1,1

[maxpool]                  #5
size=2
stride=2

[convolutional]            #6
batch_normalize=1
filters=12
size=1
stride=1
activation=logistic

[upsample]                 #7
stride=2

[shortcut]                 #8
from=-7
activation=linear

[convolutional]            #9
filters=14
size=1
stride=1
activation=linear

[yolo]                     #10
mask=0,1
anchors=4,6, 9,8, 20,16
classes=2
num=3
scale_x_y=1.05

[route]                    #11
layers=-4,4

[maxpool]                  #12
size=2
stride=2

[convolutional]            #13
filters=7
size=1
stride=1
activation=linear

[yolo]                     #14
mask=2
anchors=4,6, 9,8, 20,16
classes=2
num=3
"""


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Batch norms such as training leaves them: no ones and zeros that would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            module.weight.data = torch.rand(count, generator=generator) + 0.5
            module.bias.data = torch.randn(count, generator=generator) * 0.2
            module.running_mean = torch.randn(count, generator=generator) * 0.2
            module.running_var = torch.rand(count, generator=generator) + 0.5


def build(source: str | Cfg, seed: int = 0) -> DarknetModel:
    """A network with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    cfg = parse_cfg(source, "tiny.cfg") if isinstance(source, str) else source
    model = DarknetModel(cfg)
    randomize(model, seed)
    return model.eval()


def load_in_opencv(model: DarknetModel, cfg: Cfg, folder: Path) -> cv2.dnn.Net:
    """The model in OpenCV, through files that our writers wrote.

    Raises:
        cv2.error: OpenCV's importer does not know a section.
    """
    cv2.setNumThreads(1)
    (folder / "m.cfg").write_bytes(cfg_bytes(cfg))
    save_weights(model, folder / "m.weights")
    return cv2.dnn.readNetFromDarknet(str(folder / "m.cfg"), str(folder / "m.weights"))


def opencv_raw(net: cv2.dnn.Net, heads: list[int], x: Tensor) -> list[FloatArray]:
    """What enters each head in OpenCV: the layer listed just before its permutation."""
    names = list(net.getLayerNames())
    net.setInput(x.numpy())
    return list(net.forward([names[names.index(f"permute_{i}") - 1] for i in heads]))


def worst_difference(ours: list[Tensor], theirs: list[FloatArray]) -> float:
    """Largest difference of any output, relative to that output's largest value."""
    assert [tuple(a.shape) for a in ours] == [b.shape for b in theirs]
    return max(
        float(np.abs(a.numpy() - b).max() / np.abs(b).max())
        for a, b in zip(ours, theirs, strict=True)
    )
