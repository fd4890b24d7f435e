"""What a model is worth: accuracy, latency, size. Each record says where it was measured."""

from yoloprune.measure.accuracy import Accuracy, CocoMetrics, coco_metrics, evaluate
from yoloprune.measure.data import Dataset, load_dataset
from yoloprune.measure.detect import Detections, DetectOptions, detect
from yoloprune.measure.environment import Environment, environment
from yoloprune.measure.latency import LatencyOptions, LatencySample, measure_latency
from yoloprune.measure.size import LayerSize, Size, count, file_bytes

__all__ = [
    "Accuracy",
    "CocoMetrics",
    "Dataset",
    "DetectOptions",
    "Detections",
    "Environment",
    "LatencyOptions",
    "LatencySample",
    "LayerSize",
    "Size",
    "coco_metrics",
    "count",
    "detect",
    "environment",
    "evaluate",
    "file_bytes",
    "load_dataset",
    "measure_latency",
]
