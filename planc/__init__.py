"""planc compiles a training step into a memory plan that fits the device, and runs it.

plan = planc.compile("train.onnx", budget="50%")
with planc.load(plan, "train.onnx") as step:
    outputs = step(feeds)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planc.api import compile, estimate, load, verify
    from planc.plan.plan import Plan
    from planc.runtime.scratch import reserve_scratch

__all__ = ["Plan", "compile", "estimate", "load", "reserve_scratch", "verify"]

_HOMES = {"Plan": "planc.plan.plan", "reserve_scratch": "planc.runtime.scratch"}


def __getattr__(name: str) -> object:
    """What the package offers, imported when it is asked for: a command needs little of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "planc.api")), name)
