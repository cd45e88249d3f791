"""The artifacts of the former onnxruntime-training, as a source of training graphs."""
