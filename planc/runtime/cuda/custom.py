"""Gives a model's fused operators and planc's own ones kernels, before a session on a card opens it."""

import onnx
import onnxruntime as ort

from planc.errors import DeviceError
from planc.graph.fused import DOMAIN as FUSED
from planc.kernels import DOMAIN as OWN
from planc.kernels.engines import read_engines
from planc.runtime.cuda.fused import can_fuse, fused_operators
from planc.runtime.cuda.kernels import own_operators
from planc.runtime.cuda.source import Operand
from planc.runtime.ort.custom_ops import register
from planc.runtime.ort.own import declared_types, written_out

_PROVIDER = "CUDAExecutionProvider"


def with_kernels(model_bytes: bytes, options: ort.SessionOptions, form: str = "", index: int = 0) -> bytes:
    """The model to open with `options` on card `index`: the one given, or, where it has fused operators or planc's own,
    one with kernels for them, library calls by the engines that the model names for `form`.

    Raises DeviceError where there can be no kernels.
    """
    fused, own = FUSED.encode() in model_bytes, OWN.encode() in model_bytes
    if not fused and not own:
        return model_bytes
    if not can_fuse():
        raise DeviceError(
            "the model has operators whose kernels NVRTC compiles, and it is not there: install it, for example with "
            "pip install 'planc[cuda]', or compile with --no-fuse"
        )
    model = onnx.load_model_from_string(model_bytes)
    types = declared_types(model)
    if fused:
        operands = {name: Operand(t.dtype, t.shape) for name, t in types.items()}
        register(options, FUSED, fused_operators(model, operands), _PROVIDER, index)
        kept = [f for f in model.functions if f.domain != FUSED]
        del model.functions[:]
        model.functions.extend(kept)
    if own:
        register(options, OWN, own_operators(model, types, read_engines(model), form), _PROVIDER, index)
    return bytes(written_out(model).SerializeToString())
