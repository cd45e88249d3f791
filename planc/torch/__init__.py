"""PyTorch modules as training graphs, and trained state back into modules. Needs the extra `planc[torch]`."""

from planc.errors import UsageError

try:
    import torch as _torch  # noqa: F401 - only to say in planc's words that it is missing
except ImportError as error:
    raise UsageError("PyTorch is not installed: install planc[torch]") from error

from planc.torch.batches import Batches
from planc.torch.compile_step import compile_step
from planc.torch.export import export_training_step
from planc.torch.progress import show_progress
from planc.torch.shared import Shared
from planc.torch.state import load_into
from planc.torch.step import CompiledStep
from planc.training.step_options import DynamicScale, StepOptions

__all__ = [
    "Batches",
    "CompiledStep",
    "DynamicScale",
    "Shared",
    "StepOptions",
    "compile_step",
    "export_training_step",
    "load_into",
    "show_progress",
]
