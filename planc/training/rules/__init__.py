"""Gradient rules and lowerings, one file per operator family; importing this package registers them all."""

from planc.training.registry import FORWARD_RULES, GRADIENTS
from planc.training.rules import activations as activations
from planc.training.rules import attention as attention
from planc.training.rules import convolution as convolution
from planc.training.rules import elementwise as elementwise
from planc.training.rules import indexing as indexing
from planc.training.rules import linear as linear
from planc.training.rules import losses as losses
from planc.training.rules import normalization as normalization
from planc.training.rules import pooling as pooling
from planc.training.rules import reduce as reduce
from planc.training.rules import resize as resize
from planc.training.rules import rotary as rotary
from planc.training.rules import row_norms as row_norms
from planc.training.rules import scatter as scatter
from planc.training.rules import shape as shape

__all__ = ["FORWARD_RULES", "GRADIENTS"]
