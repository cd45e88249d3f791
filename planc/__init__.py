"""planc compiles a training step into a memory plan that fits the device, and runs it.

plan = planc.compile("train.onnx", budget="50%")
with planc.load(plan, "train.onnx") as step:
    outputs = step(feeds)
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planc.api import compare, compile, estimate, load, verify, widen
    from planc.plan.plan import Plan
    from planc.runtime.scratch import reserve_scratch

__all__ = ["Plan", "compare", "compile", "estimate", "load", "reserve_scratch", "verify", "widen"]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""ONNX Runtime's builds keep a device identifier and a database of events in ~/.cache/Microsoft, which they send; not from
here. It is read when onnxruntime is first imported. Whoever wants them sets it to 0."""

_HOMES = {"Plan": "planc.plan.plan", "reserve_scratch": "planc.runtime.scratch"}


def __getattr__(name: str) -> object:
    """What the package offers, imported when it is asked for: a command needs little of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "planc.api")), name)
