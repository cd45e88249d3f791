"""planc compiles a training step into a memory plan that fits the device, and runs it.

plan = planc.compile("train.onnx", budget="50%")
with planc.load(plan, "train.onnx") as step:
    outputs = step(feeds)
"""

from planc.api import compile, load, verify
from planc.plan.plan import Plan
from planc.runtime.scratch import reserve_scratch

__all__ = ["Plan", "compile", "load", "reserve_scratch", "verify"]
