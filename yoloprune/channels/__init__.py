"""Which channels of a model live or die together: the data, and the tracer that finds it."""

from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.trace import trace

__all__ = ["ChannelGraph", "trace"]
