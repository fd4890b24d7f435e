"""What a model is worth: accuracy, latency, size. Each record says where it was measured."""
