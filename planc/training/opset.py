"""Conversion of a forward model to the operator set that training graphs are written in."""

import onnx
from onnx import version_converter

from planc.errors import ModelError

OPSET = 18
IR_VERSION = 10


def to_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` at opset 18 (the same object when it is there already)."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = versions.get("", versions.get("ai.onnx"))
    if version is None:
        raise ModelError("the model imports no version of the standard operator set")
    if version < OPSET:
        model = version_converter.convert_version(model, OPSET)
    return model
