"""``python -m yoloprune``."""

from yoloprune.cli.main import main

main()
