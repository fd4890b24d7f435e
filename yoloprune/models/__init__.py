"""One door for model files: Darknet and Ultralytics in, the same out, and export."""
