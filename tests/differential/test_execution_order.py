"""ONNX Runtime runs a segment's operators in file order, on which planned addresses rely."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from support import networks

from planc.importer.submodel import sub_model
from planc.runtime.ort.sessions import faithful_options


@pytest.mark.parametrize("make", [networks.cnn, networks.mlp, networks.adam_mlp])
def test_file_order(make, tmp_path: Path) -> None:
    imported = make()
    model = sub_model(imported, range(len(imported.graph.ops)))
    options = faithful_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(model.model_bytes, options, providers=["CPUExecutionProvider"])
    tensors = imported.graph.tensors
    session.run(None, {p.name: np.ones(tensors[p.tensor].shape, tensors[p.tensor].dtype) for p in model.inputs})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = sorted((e for e in events if e["name"].endswith("_kernel_time")), key=lambda e: e["ts"])
    order = [int(e["name"].removeprefix("n").removesuffix("_kernel_time")) for e in kernels]
    assert order == sorted(order)
    assert len(order) >= len(imported.graph.ops)
