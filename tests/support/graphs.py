"""Hand-written training graphs for the importer's special cases."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph import annotations


def step_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int]],
    initial: Mapping[str, np.ndarray] | None = None,
    state: Mapping[str, str] | None = None,
    loss: str | None = None,
) -> onnx.ModelProto:
    """A float32 model with planc's metadata."""
    graph = helper.make_graph(
        list(nodes),
        "step",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (initial or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {annotations.STATE: json.dumps(dict(state or {}))}
    if loss:
        metadata[annotations.LOSS] = loss
    annotations.write_model(model, metadata)
    return model
