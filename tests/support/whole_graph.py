"""Runs a whole imported graph as one session of ONNX Runtime on the CPU, its functions inlined there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from planc.importer.import_model import ImportedModel
from planc.importer.submodel import element_type, sub_model
from planc.runtime.open import open_session

Array = npt.NDArray[Any]


def run_all(imported: ImportedModel, feeds: Mapping[str, Array] | None = None, seed: int = 0) -> dict[str, Array]:
    """Outputs and next states by name, bound by address: NumPy has no bfloat16; inputs that `feeds` lacks are drawn."""
    graph = imported.graph
    model = sub_model(imported, range(len(graph.ops)))
    session = open_session(model.model_bytes, "cpu")
    binding, held = session.io_binding(), {}
    for port in (*model.inputs, *model.outputs):
        tensor, code = graph.tensors[port.tensor], element_type(imported, port.tensor)
        held[port.name] = value = np.zeros(tensor.shape, helper.tensor_dtype_to_np_dtype(code))
        if port in model.inputs:
            value[...] = _given(imported, tensor.name, value, feeds or {}, seed)
        bind = binding.bind_input if port in model.inputs else binding.bind_output
        bind(port.name, "cpu", 0, code, tensor.shape, held[port.name].ctypes.data)
    session.run_with_iobinding(binding)
    wanted = {*graph.outputs, *graph.state.values()}
    return {graph.tensors[p.tensor].name: held[p.name] for p in model.outputs if p.tensor in wanted}


def _given(imported: ImportedModel, name: str, like: Array, feeds: Mapping[str, Array], seed: int) -> Array:
    """The value of an input: fed, a constant, initial state, or drawn by its name."""
    known = feeds.get(name, imported.constants.get(name, imported.file.initial_values.get(name)))
    if known is not None:
        return np.asarray(known).astype(like.dtype)
    rng = np.random.default_rng([seed, *name.encode()])
    low, high = imported.graph.input_ranges.get(name, (0, 2))
    drawn = rng.standard_normal(like.shape) if like.dtype.kind not in "iub" else rng.integers(low, high, like.shape)
    return np.asarray(drawn).astype(like.dtype)
