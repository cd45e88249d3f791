"""An independent checker of what a training graph promises the planner."""

from collections import Counter
from itertools import groupby

import onnx
from onnx import numpy_helper, shape_inference

from planc.graph.annotations import node_annotation
from support.training_steps import loss_name, state_pairs

Key = tuple[str, str]


def violations(step: onnx.ModelProto) -> list[str]:
    """Every broken promise, in words; empty for a good graph."""
    onnx.checker.check_model(step, full_check=True)
    unannotated = [n.name for n in step.graph.node if node_annotation(n) is None]
    if unannotated:
        return [f"node {name} has no layer" for name in unannotated]
    checks = (names, shapes, groups, phases, state_updates, update_placement, waste)
    return [problem for check in checks for problem in check(step)]


def key(node: onnx.NodeProto) -> Key:
    layer, _, phase = node_annotation(node)
    return layer, phase


def names(step: onnx.ModelProto) -> list[str]:
    counts = Counter(n.name for n in step.graph.node)
    repeated = [f"node name {name!r} is used {count} times" for name, count in counts.items() if count > 1 or not name]
    outputs = [o.name for o in step.graph.output]
    expected = {loss_name(step), *state_pairs(step).values()}
    return repeated + ([] if set(outputs) == expected else [f"outputs are {outputs}"])


def shapes(step: onnx.ModelProto) -> list[str]:
    """value_info covers every intermediate and agrees with ONNX's own inference."""
    bare = onnx.ModelProto()
    bare.CopyFrom(step)
    del bare.graph.value_info[:]
    inferred = shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    found = {v.name: v.type for v in inferred.graph.value_info}
    stated = {v.name: v.type for v in step.graph.value_info}
    outputs = {o.name for o in step.graph.output}
    made = {o for n in step.graph.node for o in n.output if o} - outputs
    wrong = [f"{n}: stated {stated[n]}, inferred {found[n]}" for n in stated if n in found and found[n] != stated[n]]
    return wrong + [f"{n} has no value_info" for n in made - set(stated)] + [f"{n}: stale" for n in set(stated) - made]


def groups(step: onnx.ModelProto) -> list[str]:
    """Nodes of one (layer, phase) are contiguous, and every tensor is made before it is read."""
    problems, seen = [], set()
    for group, _ in groupby(step.graph.node, key=key):
        problems += [f"group {group} is not contiguous"] if group in seen else []
        seen.add(group)
    available = {i.name for i in (*step.graph.input, *step.graph.initializer)}
    for node in step.graph.node:
        problems += [f"{node.name} reads {i} too early" for i in node.input if i and i not in available]
        available.update(node.output)
    return problems


def phases(step: onnx.ModelProto) -> list[str]:
    """Forward groups, then backward groups; updates between; no layer that can be recomputed reads a next state."""
    order = [k[1] for k, _ in groupby(step.graph.node, key=key) if k[1] != "update"]
    following = set(state_pairs(step).values())
    problems = [] if order == sorted(order, reverse=True) else ["a forward layer follows a backward layer"]
    for node in step.graph.node:
        if key(node)[1] != "update":
            problems += [f"{node.name} reads next state {i}" for i in node.input if i in following]
            problems += [f"{node.name} writes state {o}" for o in node.output if o in following]
    return problems


def state_updates(step: onnx.ModelProto) -> list[str]:
    """The group that makes a state's next value is the last to read the state."""
    inputs = {i.name for i in step.graph.input}
    initial = {t.name for t in step.graph.initializer}
    problems, producer = [], {o: key(n) for n in step.graph.node for o in n.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in step.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    order = {k: i for i, (k, _) in enumerate(groupby(step.graph.node, key=key))}
    for state, following in state_pairs(step).items():
        if state not in inputs or state not in initial:
            problems.append(f"state {state} is not an input with an initial value")
        home = order[producer[following]]
        late = [n.name for n in readers.get(state, []) if order[key(n)] > home]
        problems += [f"{name} reads state {state} after its update" for name in late]
    return problems


def update_placement(step: onnx.ModelProto) -> list[str]:
    """Nothing but other updates stands between an update and the last group it has to wait for."""
    listed = [(k, list(nodes)) for k, nodes in groupby(step.graph.node, key=key)]
    producer = {o: i for i, (_, nodes) in enumerate(listed) for n in nodes for o in n.output}
    readers: dict[str, list[int]] = {}
    for i, (_, nodes) in enumerate(listed):
        for name in {name for n in nodes for name in n.input}:
            readers.setdefault(name, []).append(i)
    state, problems = state_pairs(step), []
    for i, (group, nodes) in enumerate(listed):
        if group[1] != "update":
            continue
        own = {s for s, following in state.items() if producer[following] == i}
        waits = [producer[name] for n in nodes for name in n.input if name in producer and producer[name] < i]
        waits += [r for s in own for r in readers.get(s, []) if r < i]
        if not waits:  # the step count: it depends on nothing and may run at any time
            continue
        between = [k for k, _ in listed[max(waits) + 1 : i] if k[1] != "update"]
        problems += [f"update {group} waits behind {between}"] if between else []
    return problems


def waste(step: onnx.ModelProto) -> list[str]:
    """No dead node, no chain of views, no doubled constant, no operator that changes nothing, no giant Concat."""
    graph = step.graph
    read = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
    problems = [f"{n.name} is dead" for n in graph.node if not any(o in read for o in n.output)]
    views = {n.output[0] for n in graph.node if n.op_type == "Reshape"}
    transposed = {n.output[0]: key(n) for n in graph.node if n.op_type == "Transpose"}
    for n in graph.node:
        problems += [f"{n.name} is an Identity"] if n.op_type == "Identity" else []
        problems += [f"{n.name} views a view"] if n.op_type == "Reshape" and n.input[0] in views else []
        chained = n.op_type == "Transpose" and transposed.get(n.input[0]) == key(n)
        problems += [f"{n.name} transposes a transpose"] if chained else []
        problems += [f"{n.name} joins {len(n.input)} tensors"] if n.op_type == "Concat" and len(n.input) > 32 else []
    frozen = {i for n in graph.node if n.op_type == "BatchNormalization" for i in n.input[1:]}
    inputs = {i.name for i in graph.input}  # state, and hyper-parameters, which may happen to be equal
    fixed = [t for t in graph.initializer if t.name not in inputs and t.name not in frozen]
    constants = Counter((t.data_type, tuple(t.dims), numpy_helper.to_array(t).tobytes()) for t in fixed)
    problems += [f"{count} equal constants of shape {k[1]}" for k, count in constants.items() if count > 1]
    unused = {t.name for t in graph.initializer} - read - set(state_pairs(step))
    return problems + [f"initializer {name} is unused" for name in unused]
