"""Gives a model's convolutions oneDNN's kernels, before a session on the CPU opens it."""

import onnx
import onnxruntime as ort

from planc.errors import DeviceError
from planc.kernels import DOMAIN, Call
from planc.kernels.device import ConvolutionKernel
from planc.runtime.onednn.convolution import Convolution
from planc.runtime.onednn.library import Library, onednn
from planc.runtime.ort.custom_ops import Operator, register
from planc.runtime.ort.own import declared_types, replaced


def with_kernels(model_bytes: bytes, options: ort.SessionOptions) -> bytes:
    """The model to open with `options`: the one given, or one whose convolutions of planc's domain are oneDNN's.

    Where oneDNN is not installed, the functions of these operators run as they stand.
    """
    if DOMAIN.encode() not in model_bytes:  # the library takes 50 MiB: load it for models that need it
        return model_bytes
    library = onednn()
    if library is None:
        return model_bytes
    model = onnx.load_model_from_string(model_bytes)
    operators = replaced(model, declared_types(model), lambda name, call: _operator(library, name, call))
    if operators:
        register(options, DOMAIN, operators, None)
    return bytes(model.SerializeToString())


def workspace_bytes(model_bytes: bytes) -> int:
    """The largest workspace that one of the model's convolutions takes."""
    library = onednn() if DOMAIN.encode() in model_bytes else None
    if library is None:
        return 0
    model = onnx.load_model_from_string(model_bytes)
    operators = replaced(model, declared_types(model), lambda name, call: _operator(library, name, call))
    return max((operator.workspace for operator in operators), default=0)


_made: dict[str, Operator | None] = {}
"""Operators by the names of their functions, which say what they compute: primitives are costly to make."""


def _operator(library: Library, name: str, call: Call) -> Operator | None:
    if name not in _made:
        _made[name] = _new_operator(library, name, call)
    return _made[name]


def _new_operator(library: Library, name: str, call: Call) -> Operator | None:
    kernel = call.operator.cpu(call) if call.operator.cpu else None
    if not isinstance(kernel, ConvolutionKernel):
        return None
    try:
        convolution = Convolution(library, kernel)
    except DeviceError:  # a size or type that this processor has no kernel for: the function runs
        return None
    return Operator(
        name=f"{name}_onednn",
        inputs=[t.dtype for t in call.inputs],
        outputs=[t.dtype for t in call.outputs],
        shapes=[t.shape for t in call.outputs],
        run=lambda addresses, _stream: convolution.run(addresses),
        workspace=convolution.workspace,
    )
