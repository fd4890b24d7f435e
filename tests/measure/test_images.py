"""Preprocessing against Ultralytics' own, and boxes back by closed forms."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics.data.augment import LetterBox

from yoloprune.errors import DataError, MeasureError
from yoloprune.measure.images import input_size, letterbox, read_image, stretch, to_input


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(480, 640), (333, 500), (64, 64), (40, 17), (64, 32)])
def test_letterbox_is_that_of_ultralytics(shape: tuple[int, int]) -> None:
    image = picture(*shape)

    ours, _ = letterbox(image, (64, 64))

    np.testing.assert_array_equal(ours, LetterBox((64, 64), auto=False)(image=image))


@pytest.mark.parametrize("fit", [letterbox, stretch])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_the_whole_picture_maps_back_to_itself(fit, size: tuple[int, int]) -> None:
    image = picture(30, 60)
    array, place = fit(image, size)
    inner_height, inner_width = 30 * place.scale_y, 60 * place.scale_x
    corners = torch.tensor(
        [
            [
                place.offset_x,
                place.offset_y,
                place.offset_x + inner_width,
                place.offset_y + inner_height,
            ]
        ]
    )

    assert array.shape == (*size, 3)
    torch.testing.assert_close(place.to_picture(corners), torch.tensor([[0.0, 0.0, 60.0, 30.0]]))


def test_letterbox_by_hand() -> None:
    _, place = letterbox(picture(30, 60), (120, 120))

    # 60 wide becomes 120: twice the size, 60 high, 30 rows of grey above.
    box = torch.tensor([[20.0, 40.0, 140.0, 80.0]])
    assert place.to_picture(box).tolist() == [[10, 5, 60, 25]]
    assert place.to_picture(box, clip=False).tolist() == [[10, 5, 70, 25]]


def test_stretch_by_hand() -> None:
    _, place = stretch(picture(30, 60), (120, 120))

    assert place.to_picture(torch.tensor([[-4.0, 40.0, 60.0, 80.0]])).tolist() == [[0, 10, 30, 20]]


def test_input_is_rgb_in_0_to_1() -> None:
    image = np.zeros((1, 2, 3), dtype=np.uint8)
    image[0, 0] = (255, 51, 0)  # blue, green, red

    tensor = to_input([image], torch.device("cpu"))

    assert tensor.shape == (1, 3, 1, 2)
    torch.testing.assert_close(tensor[0, :, 0, 0], torch.tensor([0.0, 0.2, 1.0]))


def test_a_picture_reads_as_opencv_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "ä.png"
    image = picture(5, 7)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())

    np.testing.assert_array_equal(read_image(path), image)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)

    with pytest.raises(DataError, match=rf"a\.jpg: not an image .*\({len(content)} bytes\)"):
        read_image(path)
    with pytest.raises(DataError, match=r"b\.jpg: no such image"):
        read_image(tmp_path / "b.jpg")


def test_input_sizes() -> None:
    assert input_size(320) == (320, 320)
    assert input_size((96, 160)) == (96, 160)
    with pytest.raises(MeasureError, match="expected positive sides"):
        input_size((0, 3))
