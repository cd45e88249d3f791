"""PyTorch modules as training graphs, and trained state back into modules. Needs the extra `planc[torch]`."""

from planc.errors import UsageError

try:
    import torch as _torch  # noqa: F401 - only to say in planc's words that it is missing
except ImportError as error:
    raise UsageError("PyTorch is not installed: install planc[torch]") from error

from planc.torch.export import export_training_step
from planc.torch.state import load_into

__all__ = ["export_training_step", "load_into"]
