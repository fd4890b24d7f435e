"""A small detection set, drawn: circles, squares and triangles on textured grounds.

It stands in for real pictures where there is no network: the demo trains on it in minutes. Low
contrast, noise, blur, shading, overlaps and unlabelled lines, arcs and crosses keep it from being
solved at once. Every picture depends only on the seed, its split and its number.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import DataError

NAMES = ("circle", "square", "triangle")
YAML_NAME = "shapes.yaml"
SPLITS = ("train", "val")

MAX_OBJECTS = 6
MAX_OVERLAP = 0.2
"""Most of the smaller of two boxes that the other may cover."""
RADIUS = (0.06, 0.22)
"""Radius of a shape's circumscribed circle, as a fraction of the picture's side."""
MIN_CONTRAST = 40.0
"""Least distance in BGR, of 255 a channel, between a shape and the ground's mean colour."""
FINE = 4
"""Edges are softened by drawing this many times larger."""
SUBPIXEL_BITS = 4

Image = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesSpec:
    """What :func:`write_shapes` draws.

    Attributes:
        images: pictures to train on, >= 1.
        val: pictures to validate on, >= 1.
        size: side of a picture in pixels, >= 32.
        seed: >= 0; equal seeds give equal pictures.
    """

    images: int = 300
    val: int = 100
    size: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("val", 1), ("size", 32), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise DataError(f"shapes: {name} must be at least {least}, got {value}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One object of a picture.

    Attributes:
        kind: index into :data:`NAMES`.
        outline: ``[n, 2]`` corners in pixels, x then y; pixel centres lie at whole numbers.
    """

    kind: int
    outline: Floats

    @property
    def box_xyxy(self) -> Floats:
        """``[4]`` in pixels, from the edge of the picture: pixel 0 covers 0 to 1."""
        low, high = self.outline.min(axis=0), self.outline.max(axis=0)
        return np.concatenate([low, high]) + 0.5


def write_shapes(folder: Path, spec: ShapesSpec | None = None) -> Path:
    """Write a set of drawn pictures with YOLO labels; leave it if the same one is there already.

    Args:
        folder: made by this call, whole or not at all.
        spec: what to draw; None: the defaults.

    Returns:
        Path of the data YAML (``train``, ``val``, ``names``).

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    spec = spec or ShapesSpec()
    yaml = folder / YAML_NAME
    text = _yaml_text(spec)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if yaml.is_file() and yaml.read_text(encoding="utf-8") == text:
                return yaml
            raise DataError(
                f"{folder}: holds something else than these pictures. Name another folder."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for split, count in zip(SPLITS, (spec.images, spec.val), strict=True):
                _write_split(unfinished, split, count, spec)
            (unfinished / YAML_NAME).write_text(text, encoding="utf-8")
            unfinished.chmod(0o755)  # mkdtemp's folders are for their owner alone
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as exc:
        raise DataError(f"{folder}: cannot be written ({exc.strerror or exc}).") from exc
    return yaml


def draw_picture(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Draw one picture.

    Args:
        rng: source of every choice.
        size: side in pixels.

    Returns:
        ``[size, size, 3]`` BGR, and the objects in it, from back to front; at least one.
    """
    image = _ground(rng, size)
    mean = image.mean(axis=(0, 1))
    _add_clutter(rng, image)
    shapes = _place_shapes(rng, size)
    for shape in shapes:
        paint(image, shape.outline, _shaded(rng, _contrasting(rng, mean), size))
    if rng.random() < 0.5:
        _add_clutter(rng, image, at_most=2)
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.1)))
    noise = rng.normal(0.0, rng.uniform(3.0, 14.0), image.shape)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8), shapes


def paint(image: Image, outline: Floats, colour: Image) -> None:
    """Fill a polygon, with soft edges.

    Args:
        image: ``[H, W, 3]``, changed in place.
        outline: ``[n, 2]`` corners, as in :class:`Shape`; at least in part on the picture.
        colour: ``[H, W, 3]`` or ``[3]``.
    """
    left, top = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int) + 2
    region = image[top:bottom, left:right]
    height, width = region.shape[:2]
    fine = np.zeros((height * FINE, width * FINE), np.uint8)
    corners = ((outline - [left, top] + 0.5) * FINE - 0.5) * (1 << SUBPIXEL_BITS)
    cv2.fillPoly(fine, [np.round(corners).astype(np.int32)], 255, shift=SUBPIXEL_BITS)
    # Shrunk and not drawn with LINE_AA, whose shapes come out more than half a pixel too large.
    cover = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    alpha = (cover.astype(np.float32) / 255)[..., None]
    region += alpha * (np.broadcast_to(colour, image.shape)[top:bottom, left:right] - region)


def make_outline(kind: int, radius: float, angle: float, aspect: float = 1.0) -> Floats:
    """Corners of a shape around the origin, ``[n, 2]``.

    Args:
        kind: index into :data:`NAMES`.
        radius: of the circumscribed circle, in pixels.
        angle: turn, in radians.
        aspect: width over height before the turn; both corners and area keep ``radius`` at 1.
    """
    corners = (48, 4, 3)[kind]
    turns = np.arange(corners) * (2 * np.pi / corners)
    points = radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points *= [np.sqrt(aspect), 1 / np.sqrt(aspect)]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]))


def _write_split(folder: Path, split: str, count: int, spec: ShapesSpec) -> None:
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([spec.seed, SPLITS.index(split), number])
        image, shapes = draw_picture(rng, spec.size)
        picture = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (images / f"{number:05d}.jpg").write_bytes(picture.tobytes())
        lines = [_label(shape, spec.size) for shape in shapes]
        (labels / f"{number:05d}.txt").write_text("".join(lines), encoding="utf-8")


def _label(shape: Shape, size: int) -> str:
    """A line of YOLO's text format: class, centre and size relative to the picture."""
    low, high = shape.box_xyxy[:2] / size, shape.box_xyxy[2:] / size
    numbers = [*(low + high) / 2, *(high - low)]
    return f"{shape.kind} {' '.join(f'{n:.6f}' for n in numbers)}\n"


def _yaml_text(spec: ShapesSpec) -> str:
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    return (
        f"# Drawn by yoloprune: images={spec.images} val={spec.val} size={spec.size}"
        f" seed={spec.seed}\n"
        f"train: images/train\nval: images/val\nnames:\n{names}"
    )


def _ground(rng: np.random.Generator, size: int) -> Image:
    """A colour with a slope, blotches and grain."""
    image = np.empty((size, size, 3), np.float32)
    image[:] = rng.uniform(40, 215, 3)
    for cells, strength in ((2, 30.0), (int(rng.integers(4, 9)), 18.0), (size // 4, 8.0)):
        coarse = rng.normal(0.0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return image


def _add_clutter(rng: np.random.Generator, image: Image, at_most: int = 5) -> None:
    """Things without a label: lines, arcs, crosses."""
    size = image.shape[0]
    for _ in range(int(rng.integers(0, at_most + 1))):
        colour = rng.uniform(0, 255, 3).tolist()
        thickness = int(rng.integers(1, 3))
        x, y = (int(v) for v in rng.integers(0, size, 2))
        radius = int(size * rng.uniform(0.04, 0.2))
        form = int(rng.integers(3))
        if form == 0:
            end = tuple(int(v) for v in rng.integers(0, size, 2))
            cv2.line(image, (x, y), end, colour, thickness)
        elif form == 1:
            first = int(rng.integers(360))
            sweep = int(rng.integers(40, 200))
            cv2.ellipse(image, (x, y), (radius, radius), first, 0, sweep, colour, thickness)
        else:
            cv2.drawMarker(image, (x, y), colour, cv2.MARKER_TILTED_CROSS, radius, thickness)


def _place_shapes(rng: np.random.Generator, size: int) -> list[Shape]:
    """Shapes wholly inside the picture whose boxes overlap little."""
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, MAX_OBJECTS + 1))):
        kind = int(rng.integers(len(NAMES)))
        low, high = np.log(RADIUS)
        radius = size * float(np.exp(rng.uniform(low, high)))
        aspect = float(np.exp(rng.uniform(-0.15, 0.15)))
        outline = make_outline(kind, radius, float(rng.uniform(0, 2 * np.pi)), aspect)
        for _attempt in range(20):
            least, most = -outline.min(axis=0), size - 1 - outline.max(axis=0)
            shape = Shape(kind=kind, outline=outline + rng.uniform(least, most))
            if all(_overlap(shape.box_xyxy, other.box_xyxy) <= MAX_OVERLAP for other in shapes):
                shapes.append(shape)
                break
    return shapes


def _contrasting(rng: np.random.Generator, ground: Floats) -> Floats:
    """A colour that can be told from the ground's."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - ground) >= MIN_CONTRAST:
            return colour


def _shaded(rng: np.random.Generator, colour: Floats, size: int) -> Image:
    """The colour with a slope of brightness across the picture."""
    corners = rng.normal(0.0, 25.0, (2, 2, 1)) + colour
    return np.asarray(cv2.resize(corners.astype(np.float32), (size, size)), np.float32)


def _overlap(a: Floats, b: Floats) -> float:
    """Intersection over the smaller of two boxes ``[4]``, x1, y1, x2, y2."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    return float(sides.prod()) / min(float((a[2:] - a[:2]).prod()), float((b[2:] - b[:2]).prod()))
