"""The operator set that training graphs are written in, and how forward models of other sets come to it.

Older models are converted before anything else. Newer ones keep their set while they are analysed, so that newer
operators can be expanded; whatever is left of them must be expressible in the target set.
"""

import onnx
from onnx import defs, helper, version_converter

from planc.errors import ModelError
from planc.graph.wellformed import INFERENCE_ERRORS

OPSET = 18


def at_least_target(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` at opset 18 or newer. Raises ModelError where ONNX's converter cannot bring it there."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = versions.get("", versions.get("ai.onnx"))
    if version is None:
        raise ModelError("the model imports no version of the standard operator set")
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except (version_converter.ConvertError, *INFERENCE_ERRORS) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"the model's opset {version} cannot be converted to {OPSET}: {reason}") from error


def expressed(node: onnx.NodeProto, version: int) -> onnx.NodeProto:
    """`node` of opset `version` as a node of opset 18.

    Between 18 and 25 the operators planc keeps changed by accepting more types and by new attributes; one that is at
    its default is dropped. Raises ModelError for an operator or a setting that opset 18 lacks.
    """
    if version == OPSET:
        return node
    where = f"node {node.name!r}"
    try:
        schema = defs.get_schema(node.op_type, OPSET, "")
    except defs.SchemaError as error:
        raise ModelError(f"{where}: opset {OPSET} has no operator {node.op_type}, and no rule replaces it") from error
    newer = defs.get_schema(node.op_type, version, "")
    if newer.since_version == schema.since_version:
        return node
    kept = []
    for attribute in node.attribute:
        if attribute.name in schema.attributes:
            kept.append(attribute)
            continue
        default = newer.attributes[attribute.name].default_value
        if helper.get_attribute_value(attribute) != helper.get_attribute_value(default):
            raise ModelError(f"{where}: {node.op_type} with {attribute.name} needs an opset newer than {OPSET}")
    if len(node.input) > schema.max_input:
        raise ModelError(f"{where}: {node.op_type} with {len(node.input)} inputs needs opset {newer.since_version}")
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(kept)
    return copy
