"""Core ATen operators that a training graph cannot hold, each with its reason."""

from typing import Any

import torch

aten = torch.ops.aten

STATIC = "how long its result is depends on the values of its input, and planc's graphs are static; use torch.where"
GROWN = "a tensor that grows holds values that nobody wrote; make it whole, with torch.nn.functional.pad"
VALUE = "it gives the value of a tensor to Python, which then decides what runs; planc's graphs are static"
NO_EIGENVALUES = "ONNX has no eigenvalue decomposition"

REFUSED: dict[Any, str] = {
    aten._sparse_coo_tensor_with_dims_and_tensors.default: "graphs have dense tensors only; use sparse=False",
    aten.embedding_renorm.default: "max_norm writes into the weights while they are read; normalize the rows instead",
    aten._local_scalar_dense.default: VALUE,
    aten.nonzero.default: STATIC,
    aten.masked_select.default: STATIC,
    aten.randperm.default: "a random order has no lowering to ONNX; sort random numbers instead",
    aten.resize.default: GROWN,
    aten.resize_.default: GROWN,
    aten._fused_moving_avg_obs_fq_helper_functional.default: "observers that choose the scale while they run are not "
    "written out; choose it before, and quantise with torch.fake_quantize_per_tensor_affine",
    aten._linalg_svd.default: "ONNX has no singular value decomposition",
    aten._linalg_eigh.default: NO_EIGENVALUES,
    aten.linalg_eig.default: NO_EIGENVALUES,
    aten._linalg_eigvals.default: NO_EIGENVALUES,
    aten.multinomial.default: "draws without replacement have no lowering to ONNX; feed the samples as inputs",
}
"""Reasons by operator."""
