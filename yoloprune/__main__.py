"""``python -m yoloprune``."""

from yoloprune.cli import main

main()
