"""ONNX structure → Graph: storages by union-find, operators without views, layers, in-place state.

How a value goes through the file is told by `_imported`, step by step.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from planc.errors import ModelError
from planc.graph.fused import DOMAIN, VERSION
from planc.graph.graph import Graph
from planc.import_budget import import_budget
from planc.importer.concat_reads import read_inside
from planc.importer.draft import Draft, opset_of
from planc.importer.exchanges import keep_given, own_operands, rank_count, require_apart
from planc.importer.fuse import fuse
from planc.importer.graph_of import graph_of, layers_of
from planc.importer.group_updates import group_updates
from planc.importer.load import ModelFile, Skeleton, read_model, skeleton
from planc.importer.order import order_updates
from planc.importer.piece_views import join_pieces
from planc.importer.versions import keep_versions
from planc.importer.wire import fold, wired
from planc.kernels import DOMAIN as OWN
from planc.kernels import Call, call_of, function_of, opset_id
from planc.kernels.engines import EngineTable


@dataclass(frozen=True)
class ImportedModel:
    """A training step ready to be planned or run: the graph, its nodes by `Op.node`, constants and initial state.

    `state_names` maps each state input to the model's output that holds its next value, `outputs` every other output of
    the model to the graph's tensor with its value, `hyperparameters` the name of each to its inputs, one per parameter
    group, `micro_batches` a batch input to its names in every micro-batch. `functions` are what planc's own operators
    compute, and the fused ones where the import asked for such, by operator type.
    """

    graph: Graph
    nodes: tuple[onnx.NodeProto, ...]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    constants: dict[str, np.ndarray]
    state_names: Mapping[str, str]
    outputs: Mapping[str, int]
    hyperparameters: Mapping[str, tuple[str, ...]]
    micro_batches: Mapping[str, tuple[str, ...]]
    file: ModelFile
    calls: Mapping[str, Call] = field(default_factory=dict)
    """planc's own operators, by operator type: what each is called with."""
    functions: Mapping[str, onnx.FunctionProto] = field(default_factory=dict)
    engines: EngineTable = field(default_factory=dict)
    """Which engines of libraries compute planc's own operators, where that is settled."""
    joined: int = 0
    """How many operators fewer the graph has since element-wise ones and updates were joined."""
    joined_layers: int = 0
    """How many layers fewer."""

    @property
    def operators(self) -> int:
        """Operators of the step, the same number whatever is joined for a runtime."""
        return len(self.graph.ops) + self.joined

    @property
    def layers(self) -> int:
        """Layers of the step, likewise."""
        return len(self.graph.layers) + self.joined_layers


def import_model(source: str | Path | onnx.ModelProto | ModelFile, fused: bool = False) -> ImportedModel:
    """Read, check and take apart a training graph, its element-wise operators `fused` for a runtime that has kernels for
    such. Raises ModelError naming the file and the node or tensor at fault, or when it takes more than the import's budget
    (`planc.import_budget`)."""
    file = source if isinstance(source, ModelFile) else read_model(source)
    with import_budget(file.title):
        bare = skeleton(file)
        return _imported(replace(bare, content_hash=fused_hash(bare.content_hash)) if fused else bare, file, fused)


def import_for(source: str | Path | onnx.ModelProto | ModelFile, content_hash: str) -> ImportedModel:
    """The training graph as it was imported when it had that hash, for a plan or a cost table of it: with fused operators
    if it had them then, otherwise plain, whether or not its hash is the one."""
    file = source if isinstance(source, ModelFile) else read_model(source)
    with import_budget(file.title):
        bare = skeleton(file)
        if fused_hash(bare.content_hash) == content_hash:
            return _imported(replace(bare, content_hash=content_hash), file, True)
        return _imported(bare, file, False)


def fused_hash(content_hash: str) -> str:
    """Hash of a graph after its operators were fused."""
    return hashlib.sha256(f"{content_hash} {DOMAIN} {VERSION}".encode()).hexdigest()


def _imported(bare: Skeleton, file: ModelFile, fused: bool) -> ImportedModel:
    """The way of a step from its file's structure to its graph; each step changes the draft."""
    ranks = rank_count(bare.nodes, file.title)
    own = _own_calls(bare)
    _check_states(bare, file.title)
    # 1. Tensors get numbers; a node reads and writes numbers.
    draft = wired(bare)
    # 2. Nodes that read no values go: a shape is a constant, a view shares its source's bytes.
    fold(draft)
    # 3. What is wanted after the step as it was before is copied to bytes of its own.
    keep_versions(draft)
    if ranks > 1:
        keep_given(draft)
    # 4. Whoever writes a state's next value comes behind all who read the old one, or a copy moves it at the end.
    order_updates(draft)
    forward = draft.forward()
    # 5. Bytes are shared where that raises no peak: pieces with their source, inputs of a Concat with its output.
    join_pieces(draft)
    read_inside(draft)
    # 6. What ranks exchange has bytes of its own: they change while other operators run.
    if ranks > 1:
        own_operands(draft)
    # 7. Element-wise operators become passes over memory, for a runtime that has kernels for such.
    before = len(draft.nodes)
    passes = fuse(draft) if fused else {}
    # 8. Updates of small parameters become one pass, where that raises no peak.
    apart = len(layers_of(draft.nodes, forward)) if passes else None
    if passes:
        group_updates(draft, passes)
    joined = before - len(draft.nodes)
    # 9. Storages, operators and layers are what is left.
    graph = replace(graph_of(draft, forward), ranks=ranks)
    require_apart(graph, file.title)
    layers = len(graph.layers) if apart is None else apart
    return replace(_model(draft, graph, own, passes, file), joined=joined, joined_layers=layers - len(graph.layers))


def _check_states(bare: Skeleton, title: str) -> None:
    for name, out in bare.metadata.states.items():
        if bare.types[name] != bare.types[out]:
            raise ModelError(f"{title}: state {name!r} and its next value {out!r} differ in type or shape")


def _model(
    draft: Draft,
    graph: Graph,
    own: Mapping[str, Call],
    passes: Mapping[str, onnx.FunctionProto],
    file: ModelFile,
) -> ImportedModel:
    """The graph with what is needed to run it; `own` are planc's operators, `passes` functions of fused ones."""
    bare = draft.bare
    opsets = tuple(o for o in bare.opsets if o.domain != OWN)
    opsets += (opset_id(),) if own else ()
    opsets += (onnx.helper.make_opsetid(DOMAIN, VERSION),) if passes else ()
    metadata = bare.metadata
    following = set(metadata.states.values())
    return ImportedModel(
        graph=graph,
        nodes=tuple(node.proto for node in draft.nodes),
        opsets=opsets,
        constants=draft.constants,
        state_names=metadata.states,
        outputs={name: tensor for name, tensor in draft.kept.items() if name not in following},
        hyperparameters=metadata.hyperparameters,
        micro_batches=metadata.micro_batches,
        file=file,
        calls=own,
        functions={**{name: function_of(call, opset_of(bare.opsets)) for name, call in own.items()}, **passes},
    )


def _own_calls(bare: Skeleton) -> dict[str, Call]:
    """planc's own operators of the file, by operator type."""
    own = {node.op_type: node for node in bare.nodes if node.domain == OWN}
    return {name: call_of(node, bare.types) for name, node in own.items()}
