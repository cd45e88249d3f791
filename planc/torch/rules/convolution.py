"""Convolutions, forward and backward, in the forms of the library's lowering table."""

from typing import Any

from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import Var


def _attributes(w: Var, stride: list[int], padding: list[int], dilation: list[int], groups: int) -> dict[str, Any]:
    dims = w.rank - 2
    stride, padding, dilation = (list(v) * (dims // len(v)) for v in (stride, padding, dilation))
    return {
        "kernel_shape": list(w.shape[2:]), "strides": stride, "pads": padding * 2, "dilations": dilation,
        "group": groups,
    }  # fmt: skip


@lower(aten.convolution.default)
def convolution(
    c: TorchLowering, input: Var, weight: Var, bias: Var | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Var:  # fmt: skip
    """Conv, or ConvTranspose where `transposed`."""
    attributes = _attributes(weight, stride, padding, dilation, groups)
    if transposed and any(output_padding):
        attributes["output_padding"] = list(output_padding)
    y = Var(c.fresh("Conv"), *c.specs[0])
    inputs = [input, weight] if bias is None else [input, weight, bias]
    emit_forward(c.b, forward_node(c.b, c.table, "ConvTranspose" if transposed else "Conv", inputs, [y], **attributes))
    return y


@lower(aten.convolution_backward.default)
def convolution_backward(
    c: TorchLowering, grad_output: Var, input: Var, weight: Var, bias_sizes: list[int] | None, stride: list[int],
    padding: list[int], dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
    output_mask: list[bool],
) -> tuple[Var | None, ...]:  # fmt: skip
    """The gradients of input, weight and bias that `output_mask` asks for."""
    attributes = _attributes(weight, stride, padding, dilation, groups)
    if transposed and any(output_padding):
        attributes["output_padding"] = list(output_padding)
    bias = Var("", tuple(bias_sizes), weight.dtype) if bias_sizes else None
    op_type = "ConvTranspose" if transposed else "Conv"
    node = forward_node(c.b, c.table, op_type, [input, weight, bias], [grad_output], **attributes)
    found = gradients_of(c.b, node, [grad_output], [i for i, asked in enumerate(output_mask) if asked])
    return tuple(found.get(i) for i in range(3))
