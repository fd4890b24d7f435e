"""``python -m yoloprune``."""

from yoloprune.cli.app import main

main()
