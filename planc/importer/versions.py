"""Values that must outlive the bytes that they were given in.

An output is a value of one version. One that is an input, a constant or the old value of a state, or a view of such, has
bytes that the step does not keep for it: a batch input's are reused, a state's are overwritten. So does a state whose
next value is the old value of another. Each gets a copy, an operator of the graph like any other, which solvers,
lowering and verifier treat as such; it reads the old value before the operator that replaces it runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from planc.importer.wired import Wired


def with_copies(
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
