"""Forward ONNX model to the ONNX graph of one training step."""

from planc.training.differentiate import differentiate
from planc.training.optimizers import Optimizer

__all__ = ["Optimizer", "differentiate"]
