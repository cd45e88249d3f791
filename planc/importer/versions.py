"""Values that must outlive the bytes that they were given in.

An output is a value of one version. One that is an input, a constant or the old value of a state, or a view of such, has
bytes that the step does not keep for it: a batch input's are reused, a state's are overwritten. So does a state whose
next value is the old value of another. Each gets a copy, an operator of the graph like any other, which solvers,
lowering and verifier treat as such; it reads the old value before the operator that replaces it runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from planc.graph.wellformed import RESERVED
from planc.importer.draft import Draft
from planc.importer.wired import Wired

KEPT_SUFFIX = f"{RESERVED}kept"
"""Suffix of the tensor that an added copy of what was there before the step writes."""


def keep_versions(draft: Draft) -> None:
    """Copy what is wanted after the step as it was before."""
    tensors, replaced = draft.tensors, dict(draft.state)
    copies = [*_outputs_given(draft), *_states_of_states(draft)]
    if copies:
        draft.nodes = _with_copies(draft.nodes, copies, replaced, tensors.places.roots())


def _outputs_given(draft: Draft) -> list[Wired]:
    """Copies for the outputs that are no state's next value and lie in bytes that are there before the step."""
    tensors, bare = draft.tensors, draft.bare
    roots, following = tensors.places.roots(), set(bare.metadata.states.values())
    given = {roots[tensors.index[name]] for name in (*bare.inputs, *draft.constants)}
    copies = []
    for name, tensor in draft.kept.items():
        if name not in following and roots[tensor] in given:
            copies.append(draft.copied(tensor, name + KEPT_SUFFIX, name, "output-copy"))
            draft.kept[name] = copies[-1].outputs[0]
    return copies


def _states_of_states(draft: Draft) -> list[Wired]:
    """Copies for the states whose next value is the old value of another state."""
    roots = draft.tensors.places.roots()
    states = {roots[old] for old in draft.state}
    copies = []
    for old, new in list(draft.state.items()):
        if roots[new] in states and roots[new] != roots[old]:
            title = draft.tensors.names[old]
            copies.append(draft.copied(new, title + KEPT_SUFFIX, title, "state-copy"))
            draft.state[old] = copies[-1].outputs[0]
    return copies


def _with_copies(
    nodes: Sequence[Wired], copies: Iterable[Wired], state: Mapping[int, int], roots: Sequence[int]
) -> list[Wired]:
    """`nodes` with every copy right before the node that writes the next value of the state it reads, or at the end.

    `state` maps old to next values, `roots` has for each tensor what identifies its storage.
    """
    following = {roots[new]: roots[old] for old, new in state.items() if roots[new] != roots[old]}
    waiting: defaultdict[int, list[Wired]] = defaultdict(list)
    for copy in copies:
        waiting[roots[copy.inputs[0]]].append(copy)
    ordered: list[Wired] = []
    for node in nodes:
        for output in node.outputs:
            if output >= 0:
                ordered += waiting.pop(following.get(roots[output], -1), [])
        ordered.append(node)
    return [*ordered, *(copy for left in waiting.values() for copy in left)]
