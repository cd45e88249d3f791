"""An update of Adam's (Kingma and Ba, 2015) with decoupled decay (Loshchilov and Hutter, 2019), as one operator.

    m' = b1 m + (1 - b1) g,  v' = b2 v + (1 - b2) g^2,  w' = keep w - step m' / (root sqrt(v') + eps)

On a CPU with oneDNN it takes the place of fourteen nodes for each parameter. `scalars` are b1, 1 - b1, b2, 1 - b2, step,
root and keep: the learning rate and Adam's corrections are in `step` and `root`.
"""

from collections.abc import Sequence

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import AdamKernel
from planc.kernels.operator import Call, Operator, TensorType, register

SCALARS = ("beta1", "beta1_rest", "beta2", "beta2_rest", "step_size", "root", "keep")
"""In the order in which they lie."""


def _types(call: Call) -> tuple[TensorType, ...]:
    parameter, *others, scalars = call.inputs
    if parameter.dtype != TensorProto.FLOAT or any(other != parameter for other in others):
        raise call.refuse("a float32 parameter, moments and a gradient like it")
    if scalars != TensorType(TensorProto.FLOAT, (len(SCALARS),)):
        raise call.refuse(f"{len(SCALARS)} float32 scalars")
    return (parameter,) * 3


def _meaning(call: Call, body: Body) -> Sequence[str]:
    parameter, first, second, gradient, scalars = body.inputs
    beta1, rest1, beta2, rest2, step, root, keep = (body.slice(scalars, 0, k, k + 1) for k in range(len(SCALARS)))
    shape = call.outputs[0].shape
    if not shape:
        parameter, first, second, gradient = (body.reshape(a, (1,)) for a in (parameter, first, second, gradient))
    first = body.op("Add", body.op("Mul", first, beta1), body.op("Mul", gradient, rest1))
    square = body.op("Mul", gradient, gradient)
    second = body.op("Add", body.op("Mul", second, beta2), body.op("Mul", square, rest2))
    spread = body.op("Add", body.op("Mul", body.op("Sqrt", second), root), body.number(call.real("eps")))
    moved = body.op("Mul", body.op("Div", first, spread), step)
    made = (body.op("Sub", body.op("Mul", parameter, keep), moved), first, second)
    return made if shape else [body.reshape(a, ()) for a in made]


def _library(call: Call) -> AdamKernel | None:
    size = call.inputs[0].size
    return AdamKernel(size, call.real("eps")) if size else None


ADAM = register(
    Operator(
        "Adam",
        ("parameter", "moment1", "moment2", "gradient", "scalars"),
        ("new_parameter", "new_moment1", "new_moment2"),
        _types,
        _meaning,
        {"eps": 1e-8},
        cpu=_library,
        in_place=(0, 1, 2),
    )
)
"""Each of the first three may be written over its old value."""

__all__ = ["ADAM", "SCALARS"]
