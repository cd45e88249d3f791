"""Damage done at random to models, plans, cost tables and instances: what a careless editor or a bad disk leaves."""

import random
from typing import Any

import onnx

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**30, 2**63, -(2**63), 1.5, float("nan"), "", "x" * 50, "\0", [], {}, [1], {"a": 1}, [[]],
    "cpu", "in", 10**9,
)  # fmt: skip


def damage_document(document: Any, rng: random.Random) -> None:
    """Delete, nudge, repeat, exchange or replace one part of a JSON document, in place."""
    node = document
    while isinstance(node, dict | list) and node:
        key: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.15:
            _damage_entry(node, key, rng)
            return
        node = node[key]


def _damage_entry(node: Any, key: Any, rng: random.Random) -> None:
    draw, value = rng.random(), node[key]
    if draw < 0.15:
        del node[key]
    elif draw < 0.35 and isinstance(value, int | float) and not isinstance(value, bool):
        node[key] = value + rng.choice((-1, 1, -4096, 64, 4096, 10**6))
    elif draw < 0.45 and isinstance(node, list):
        node.insert(key, value)
    elif draw < 0.55 and isinstance(node, list):
        other = rng.randrange(len(node))
        node[key], node[other] = node[other], node[key]
    else:
        node[key] = rng.choice(ODD)


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Overwrite up to five bytes, or cut the end off."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        damaged[rng.randrange(min(len(damaged), 20_000))] = rng.randrange(256)
    return bytes(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.1 else damaged)


def damage_model(model: onnx.ModelProto, rng: random.Random) -> None:
    """Break one thing of a model's structure, in place."""
    graph, node = model.graph, rng.choice(model.graph.node)
    info = rng.choice((*graph.input, *graph.output)).type.tensor_type
    kind = rng.randrange(9)
    if kind == 0:
        graph.node.remove(node)
    elif kind == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((*rng.choice(graph.node).output, "unmade"))
    elif kind == 2:
        node.output[rng.randrange(len(node.output))] = rng.choice(("unread", graph.node[0].output[0], ""))
    elif kind == 3:
        node.op_type = rng.choice(("Relu", "Foo", "Loop", "Split", "MatMul", "ConcatFromSequence", "Dropout"))
    elif kind == 4:
        rng.choice(graph.initializer).dims.append(3)
    elif kind == 5:
        rng.choice(graph.initializer).ClearField("raw_data")
    elif kind == 6:
        info.elem_type = rng.choice((0, 1, 7, 8, 16, 99))
    elif kind == 7 and info.shape.dim:
        info.shape.dim[0].dim_value = rng.choice((-1, 0, 3, 10**12))
    elif model.metadata_props:
        entry = rng.choice(model.metadata_props)
        entry.value = rng.choice(("", "{", "[]", '{"a": 1}', entry.value[:-3], "null", '{"x": "y"}'))
