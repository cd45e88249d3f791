"""planc's own operators: meaning (an ONNX function), shapes, workspace, kernels per device, one operator a file."""

from planc.kernels import adam as adam
from planc.kernels import attention as attention
from planc.kernels import batch_norm as batch_norm
from planc.kernels import channel_sum as channel_sum
from planc.kernels import convolution as convolution
from planc.kernels import cross_entropy as cross_entropy
from planc.kernels import dropout as dropout
from planc.kernels import embedding_gradient as embedding_gradient
from planc.kernels import exchange as exchange
from planc.kernels import gelu as gelu
from planc.kernels import group_norm as group_norm
from planc.kernels import layer_norm as layer_norm
from planc.kernels import linear_cross_entropy as linear_cross_entropy
from planc.kernels import pooling as pooling
from planc.kernels import rotary as rotary
from planc.kernels import row_sum as row_sum
from planc.kernels.body import Body
from planc.kernels.function import call_of, checked_functions, function_of, node_of, opset_id
from planc.kernels.operator import DOMAIN, OPERATORS, Attribute, Call, Operator, TensorType, operator_named, register

__all__ = [
    "DOMAIN",
    "OPERATORS",
    "Attribute",
    "Body",
    "Call",
    "Operator",
    "TensorType",
    "call_of",
    "checked_functions",
    "function_of",
    "node_of",
    "operator_named",
    "opset_id",
    "register",
]
