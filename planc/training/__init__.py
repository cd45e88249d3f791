"""Forward ONNX model to the ONNX graph of one training step."""

from planc.training.differentiate import differentiate
from planc.training.optimizers import Optimizer
from planc.training.step_options import DynamicScale, StepOptions

__all__ = ["DynamicScale", "Optimizer", "StepOptions", "differentiate"]
