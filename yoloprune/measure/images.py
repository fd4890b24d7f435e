"""Pictures → network input, and boxes in the input → boxes in the picture."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from yoloprune.errors import DataError, MeasureError
from yoloprune.limits import count_from
from yoloprune.texts import read_bytes

ImageArray = NDArray[np.uint8]
Resize = Callable[[ImageArray, int, int], ImageArray]
InputSize = int | tuple[int, int] | torch.Size
"""Side of the square input, or ``(height, width)``, in pixels; or, as torch's own type, the whole
shape ``[B, ...]`` of an input that is no picture of three channels."""
_GREY = 114  # what Ultralytics pads with, in training and validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a picture lies in the network's input: ``input = picture * scale + offset``.

    Attributes:
        width, height: size of the picture in pixels.
        scale_x, scale_y: input pixels a picture pixel.
        offset_x, offset_y: input pixels left of and above the picture.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    offset_x: int = 0
    offset_y: int = 0

    def to_picture(self, boxes_xyxy: torch.Tensor, *, clip: bool = True) -> torch.Tensor:
        """Map boxes of the input to the picture.

        Args:
            boxes_xyxy: ``[n, 4]``, input pixels.
            clip: cut off what lies outside the picture.

        Returns:
            ``[n, 4]``, picture pixels.
        """
        scale = boxes_xyxy.new_tensor([self.scale_x, self.scale_y] * 2)
        offset = boxes_xyxy.new_tensor([self.offset_x, self.offset_y] * 2)
        mapped = (boxes_xyxy - offset) / scale
        if not clip:
            return mapped
        return mapped.clamp(min=0).minimum(mapped.new_tensor([self.width, self.height] * 2))


def input_size(imgsz: int | tuple[int, int]) -> tuple[int, int]:
    """Spell out an input size as ``(height, width)``.

    Raises:
        MeasureError: a side is not a positive integer.
    """
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if min(height, width) < 1:
        raise MeasureError(f"imgsz: got {height}x{width}, expected positive sides.")
    return height, width


def input_shape(imgsz: InputSize, *, batch: int = 1, channels: int = 3) -> torch.Size:
    """The shape of a batch.

    Args:
        imgsz: see :data:`InputSize`; a whole shape keeps all but its batch.
        batch: how many.
        channels: of pictures.

    Raises:
        MeasureError: a side is not a positive integer.
    """
    if isinstance(imgsz, torch.Size):
        return torch.Size((batch, *imgsz[1:]))
    return torch.Size((batch, channels, *input_size(imgsz)))


PIXELS_VARIABLE = "YOLOPRUNE_MAX_PIXELS"
"""Environment variable: pixels of the largest picture that is decoded."""
MAX_PIXELS = 1 << 28
MAX_FILE_MB = 1024
_LEAST_SIDE = 10
"""Pixels; Ultralytics leaves smaller pictures out of training."""


def read_image(path: Path) -> ImageArray:
    """Read a picture as uint8 ``[H, W, 3]`` BGR, turned as its EXIF data says.

    Raises:
        DataError: no such file, OpenCV cannot decode it, or it claims too many pixels.
    """
    image = _decoded(path, cv2.IMREAD_COLOR)
    return image.astype(np.uint8, copy=False)


def picture_problem(path: Path) -> str | None:
    """Why a picture cannot be used, in words with its name; None where it can.

    It is really decoded, at an eighth of its size where the format allows; once a process, as long
    as the file is the same, for several stages of a run ask.
    """
    try:
        state = path.stat()
        most = count_from(PIXELS_VARIABLE, MAX_PIXELS, "pixels", DataError)
    except (OSError, DataError):  # which decoding it will tell
        return _problem(path)
    return _known_problem(path, (state.st_ino, state.st_size, state.st_mtime_ns), most)


@lru_cache(maxsize=1 << 20)
def _known_problem(path: Path, _state: tuple[int, ...], _most: int) -> str | None:
    """As :func:`_problem`, by all that it depends on."""
    return _problem(path)


def _problem(path: Path) -> str | None:
    try:
        height, width = _decoded(path, cv2.IMREAD_REDUCED_GRAYSCALE_8).shape[:2]
    except DataError as exc:
        return str(exc).rstrip(".")
    if min(height, width) * 8 < _LEAST_SIDE:
        height, width = read_image(path).shape[:2]
        if min(height, width) < _LEAST_SIDE:
            return f"{path}: {width}x{height} pixels, expected at least {_LEAST_SIDE} a side"
    return None


def _decoded(path: Path, mode: int) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such image.")
    data = np.frombuffer(read_bytes(path, DataError, most_mb=MAX_FILE_MB), dtype=np.uint8)
    _check_pixels(path)
    try:
        image = cv2.imdecode(data, mode) if data.size else None
    except cv2.error as exc:
        raise DataError(f"{path}: not an image that OpenCV can decode.") from exc
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV can decode ({data.size} bytes).")
    return image


def _check_pixels(path: Path) -> None:
    """Refuse a picture that claims more pixels than any camera has, before they are made."""
    from PIL import Image

    most = count_from(PIXELS_VARIABLE, MAX_PIXELS, "pixels", DataError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # not Ultralytics' own, which installs a package where a file has no form that PIL knows
            patches = sys.modules.get("ultralytics.utils.patches")
            with getattr(patches, "_image_open", Image.open)(path) as image:
                width, height = image.size
    except Image.DecompressionBombError as exc:
        raise DataError(f"{path}: claims too many pixels ({exc}).") from exc
    except Exception:  # a form that OpenCV may know, or damage that it will tell of
        return
    if width * height > most:
        raise DataError(
            f"{path}: claims {width}x{height} pixels, expected at most {most}. If it is right, set "
            f"{PIXELS_VARIABLE} higher."
        )


def stretch(
    image: ImageArray, size: tuple[int, int], resize: Resize | None = None
) -> tuple[ImageArray, Placement]:
    """Resize to exactly ``size`` whatever the aspect ratio, as Darknet does.

    Args:
        image: uint8 ``[H, W, 3]``.
        size: height and width of the input.
        resize: how pixels are made; None is OpenCV's way.

    Reference:
        AlexeyAB/darknet ``src/detector.c``: ``resize_image`` unless ``letter_box=1``.
    """
    (height, width), (new_height, new_width) = image.shape[:2], size
    placement = Placement(
        width=width, height=height, scale_x=new_width / width, scale_y=new_height / height
    )
    return (resize or resize_opencv)(image, new_height, new_width), placement


def letterbox(
    image: ImageArray, size: tuple[int, int], resize: Resize | None = None
) -> tuple[ImageArray, Placement]:
    """Resize until the picture fits into ``size`` and centre it on grey.

    Args:
        image: uint8 ``[H, W, 3]``.
        size: height and width of the input.
        resize: how pixels are made; None is OpenCV's way.
    """
    (height, width), (new_height, new_width) = image.shape[:2], size
    scale = min(new_height / height, new_width / width)
    inner_height = max(1, min(round(height * scale), new_height))
    inner_width = max(1, min(round(width * scale), new_width))
    top, left = (new_height - inner_height) // 2, (new_width - inner_width) // 2
    canvas = np.full((new_height, new_width, 3), _GREY, dtype=np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = (resize or resize_opencv)(
        image, inner_height, inner_width
    )
    placement = Placement(
        width=width, height=height, scale_x=scale, scale_y=scale, offset_x=left, offset_y=top
    )
    return canvas, placement


def to_input(images: Sequence[ImageArray], device: torch.device) -> torch.Tensor:
    """Stack BGR pictures of one size into a float32 RGB ``[B, 3, H, W]`` in 0 … 1."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(images)[..., ::-1]))
    return stacked.to(device).permute(0, 3, 1, 2).float().div_(255).contiguous()


def resize_opencv(image: ImageArray, height: int, width: int) -> ImageArray:
    """Bilinear, pixel centres aligned: what OpenCV, Ultralytics and most deployments do."""
    if image.shape[:2] == (height, width):
        return image
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def resize_darknet(image: ImageArray, height: int, width: int) -> ImageArray:
    """Bilinear, corner pixels aligned: what Darknet's own ``detector test`` does.

    Reference:
        AlexeyAB/darknet ``src/image.c`` ``resize_image``.
    """
    if image.shape[:2] == (height, width):
        return image
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        planes, (height, width), mode="bilinear", align_corners=True
    )
    return resized[0].round().permute(1, 2, 0).to(torch.uint8).numpy()


RESIZES: dict[str, Resize] = {"opencv": resize_opencv, "darknet": resize_darknet}
"""Name → how a picture is made smaller or larger."""
