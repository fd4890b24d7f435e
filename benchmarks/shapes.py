"""Draws the demo's picture set: ``python benchmarks/shapes.py OUT --images 300 --val 100``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from yoloprune.errors import DataError
from yoloprune.measure.demo_data import ShapesSpec, write_shapes


def main() -> int:
    """Read the flags, draw, say where."""
    default = ShapesSpec()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--images", type=int, default=default.images, help="pictures to train on")
    parser.add_argument("--val", type=int, default=default.val, help="pictures to validate on")
    parser.add_argument("--size", type=int, default=default.size, help="side in pixels")
    parser.add_argument("--seed", type=int, default=default.seed)
    flags = parser.parse_args()
    try:
        spec = ShapesSpec(images=flags.images, val=flags.val, size=flags.size, seed=flags.seed)
        yaml = write_shapes(flags.out, spec)
    except DataError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(yaml)
    return 0


if __name__ == "__main__":
    sys.exit(main())
