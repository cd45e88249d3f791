"""Seeds of operators that draw random numbers and have none of their own.

ONNX leaves such a seed to the runtime. ONNX Runtime takes the process's for it, together with the operator's position
in its session: planned and unplanned runs would draw different numbers, two operators that come first in their sessions
the same ones, and no run could be repeated or resumed. Here every operator gets a seed of its own, made from what the
user chose for the step and the rank of the operator among those of the model, so that any session of the same model
draws the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import onnx

from planc.graph.operators import RANDOM
from planc.graph.random_places import FLOAT_SEEDS, SEEDS, move_seed
from planc.importer.import_model import ImportedModel

_TRAINING_MODE = 2
"""Position of Dropout's flag; before opset 12 it has none, draws nothing and takes no seed."""


def with_seeds(imported: ImportedModel, base: int) -> ImportedModel:
    """The model whose unseeded operators have seeds made from `base`."""
    return replace(imported, nodes=tuple(seeded(imported.nodes, base)))


def of_rank(imported: ImportedModel, rank: int) -> ImportedModel:
    """The model whose seeded operators draw what those of micro-batch `rank` would, were all ranks' one process's."""
    if not rank:
        return imported
    nodes = []
    for node in imported.nodes:
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        move_seed(moved, rank * max(map(len, imported.micro_batches.values()), default=1))
        nodes.append(moved if moved != node else node)
    return replace(imported, nodes=tuple(nodes))


def advanced(imported: ImportedModel, runs: int) -> ImportedModel:
    """The model whose Dropouts draw first what they would draw after `runs` runs.

    ONNX Runtime's CPU kernel makes a generator for every run, of the seed plus the number of runs before.
    """
    return replace(imported, nodes=tuple(_advanced(node, runs) for node in imported.nodes))


def _advanced(node: onnx.NodeProto, runs: int) -> onnx.NodeProto:
    if node.op_type != "Dropout" or not runs:
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.name == "seed":
            attribute.i = (attribute.i + runs + (1 << 63)) % (1 << 64) - (1 << 63)
    return copy


def seeded(nodes: Sequence[onnx.NodeProto], base: int) -> list[onnx.NodeProto]:
    """The nodes of a model in any order, copies with a seed in place of those that lack one.

    Seeds lie as far apart as there is room: ONNX Runtime counts that of a Dropout up by one with every run.
    """
    names = sorted(node.output[0] for node in nodes if _lacks_seed(node))
    start = int.from_bytes(hashlib.sha256(str(base).encode()).digest()[:8], "little")
    shares = {name: (rank, len(names)) for rank, name in enumerate(names)}
    return [_seeded(node, start, *shares[node.output[0]]) if _lacks_seed(node) else node for node in nodes]


def _lacks_seed(node: onnx.NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx") or any(attribute.name == "seed" for attribute in node.attribute):
        return False
    return node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > _TRAINING_MODE)


def _seeded(node: onnx.NodeProto, start: int, rank: int, count: int) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    room = SEEDS if node.op_type == "Dropout" else FLOAT_SEEDS
    seed = (start + rank * room // count) % room
    copy.attribute.append(onnx.helper.make_attribute("seed", seed if node.op_type == "Dropout" else float(seed)))
    return copy
