"""The operator set that training graphs are written in, and how forward models of other sets come to it.

Older models are converted before anything else. Newer ones keep their set while they are analysed, so that newer
operators can be expanded; whatever is left of them must be expressible in the target set.
"""

from collections.abc import Iterable

import onnx
from onnx import TensorProto, defs, helper, version_converter

from planc.errors import ModelError
from planc.graph.wellformed import INFERENCE_ERRORS

OPSET = 18

BRAIN_OPSET = 22
"""The first whose convolutions, pools and other operators are defined for bfloat16."""

_CHANGED = {"GroupNormalization": 21, "DFT": 20}
"""Operators that mean something else from that opset on."""


def opset_for(element_types: Iterable[int]) -> int:
    """The operator set of a training graph whose tensors have these types."""
    return BRAIN_OPSET if TensorProto.BFLOAT16 in element_types else OPSET


def in_oldest_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """A training graph in bfloat16 brought back in place to the opset of all others where its operators on bfloat16 know
    the type there: ONNX Runtime has kernels for generators of random numbers in that set only."""
    graph, brain = model.graph, TensorProto.BFLOAT16
    infos = (*graph.input, *graph.value_info, *graph.output)
    halves = {i.name for i in infos if i.type.tensor_type.elem_type == brain}
    halves |= {t.name for t in graph.initializer if t.data_type == brain}
    kinds = {n.op_type for n in graph.node if not halves.isdisjoint((*n.input, *n.output))}
    if model.opset_import[0].version == BRAIN_OPSET and all(_takes_bfloat16(kind) for kind in kinds):
        for entry in (model.opset_import[0], *(function.opset_import[0] for function in model.functions)):
            entry.version = OPSET
    return model


def _takes_bfloat16(op_type: str) -> bool:
    schema = defs.get_schema(op_type, OPSET, "") if defs.has(op_type, OPSET) else None
    constraints = schema.type_constraints if schema is not None else ()
    return any("tensor(bfloat16)" in c.allowed_type_strs for c in constraints) and op_type != "ConstantOfShape"


def knows_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, of opset 18 or newer, brought in place to one that defines its operators for bfloat16.

    Between the two, operators have gained types and attributes whose defaults are the old meaning. Raises ModelError for
    the few that changed.
    """
    entry = next(e for e in model.opset_import if e.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        changed = _CHANGED.get(node.op_type, 0)
        if entry.version < changed:
            raise ModelError(
                f"node {node.name!r}: {node.op_type} of opset {entry.version} has another meaning in opset {BRAIN_OPSET}, "
                f"which bfloat16 needs; export the model at opset {changed} or newer, or use float16"
            )
    entry.version = max(entry.version, BRAIN_OPSET)
    return model


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


def expressed(node: onnx.NodeProto, version: int, target: int = OPSET) -> onnx.NodeProto:
    """`node` of opset `version` as a node of opset `target`.

    Between 18 and 25 the operators planc keeps changed by accepting more types and by new attributes; one that is at
    its default is dropped. Raises ModelError for an operator or a setting that the target lacks.
    """
    if version == target:
        return node
    where = f"node {node.name!r}"
    try:
        schema = defs.get_schema(node.op_type, target, "")
    except defs.SchemaError as error:
        raise ModelError(f"{where}: opset {target} has no operator {node.op_type}, and no rule replaces it") from error
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
            raise ModelError(f"{where}: {node.op_type} with {attribute.name} needs an opset newer than {target}")
    if len(node.input) > schema.max_input:
        raise ModelError(f"{where}: {node.op_type} with {len(node.input)} inputs needs opset {newer.since_version}")
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(kept)
    return copy
