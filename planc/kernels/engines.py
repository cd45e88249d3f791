"""Which of a library's engines computes a call: a table that the profiler measures, the plan pins and models carry.

The table has for each call, by the name of its function, its engines from the fastest to the leanest, each with less
workspace than those before it. A form of a layer is a limit of workspace: every call runs by its fastest engine within it.
"""

import json
from collections.abc import Mapping, Sequence

import onnx

EngineTable = Mapping[str, Sequence[tuple[str, int]]]
"""Engine and workspace (bytes), by the name of a call's function."""

METADATA = "planc.engines"
_FORM = "planc.form"

WORKSPACE_FORMS: Mapping[str, int] = {
    f"workspace_{size >> 20}m": size for size in (256 << 20, 64 << 20, 16 << 20, 4 << 20, 1 << 20, 0)
}
"""Bytes of workspace that a call may take, by the name of a layer's form."""


def chosen(table: EngineTable, form: str = "") -> dict[str, str]:
    """The engine of each call in a form of its layer: without one, or in one that limits nothing, the fastest."""
    limit = WORKSPACE_FORMS.get(form)
    return {name: _within(engines, limit) for name, engines in table.items()}


def _within(engines: Sequence[tuple[str, int]], limit: int | None) -> str:
    fitting = (engine for engine, workspace in engines if limit is None or workspace <= limit)
    return next(fitting, engines[-1][0])


def write_engines(model: onnx.ModelProto, table: EngineTable) -> None:
    """Let a model say which engines compute those of its nodes that the table names."""
    used = {node.op_type for node in model.graph.node} & table.keys()
    if used:
        text = json.dumps({name: [list(engine) for engine in table[name]] for name in sorted(used)})
        model.metadata_props.add(key=METADATA, value=text)


def read_engines(model: onnx.ModelProto) -> EngineTable:
    """What `write_engines` wrote."""
    text = next((prop.value for prop in model.metadata_props if prop.key == METADATA), "{}")
    return {name: [(str(engine), int(size)) for engine, size in engines] for name, engines in json.loads(text).items()}


def mark_form(node: onnx.NodeProto, form: str) -> None:
    """Let a node say that it runs in a form of its own, whatever form its session has."""
    node.metadata_props.add(key=_FORM, value=form)


def form_of(node: onnx.NodeProto) -> str | None:
    """What `mark_form` wrote."""
    return next((prop.value for prop in node.metadata_props if prop.key == _FORM), None)
