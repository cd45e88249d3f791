"""Where two runs differ: elements by their bits, and of several tensors the one that is made first."""

import numpy as np
import pytest
from support import networks
from support.plans import random_plan

from planc.runtime import measure as measure_module
from planc.runtime.differing import differing, first_made
from planc.runtime.step import load


def test_elements_are_compared_by_their_bits() -> None:
    a = {"x": np.array([0.0, np.nan, 1.0, 2.0], np.float32), "y": np.array(3, np.int64)}
    b = {"x": np.array([-0.0, np.nan, 1.0, 5.0], np.float32), "y": np.array(3, np.int64)}
    assert differing(a, a) == {}
    assert differing(a, b) == {"x": 2}


def test_the_first_is_the_one_that_the_step_makes_first() -> None:
    imported = networks.adam_mlp()
    graph = imported.graph
    made = {tensor: at for at, op in enumerate(graph.ops) for tensor in op.outputs}
    following = {graph.tensors[old].name: made[new] for old, new in graph.state.items() if new in made}
    names = sorted(following, key=lambda name: following[name])
    for position, name in enumerate(names):
        found = first_made(imported, [*names[:position:-1], name])
        layer = next(layer for layer in graph.layers if layer.start <= following[name] < layer.stop)
        assert found == f"{name!r} (layer {layer.title!r})"


def test_an_output_counts_with_the_states() -> None:
    imported = networks.adam_mlp()
    (loss,) = [name for name, tensor in imported.outputs.items() if tensor == imported.graph.loss]
    states = [imported.graph.tensors[old].name for old in imported.graph.state]
    assert first_made(imported, [*states, loss]).startswith(f"{loss!r}")


def test_a_comparison_tells_the_first_step_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = networks.mlp()
    states = [imported.graph.tensors[old].name for old in imported.graph.state]
    calls = iter([{}, {states[0]: 4}, {states[1]: 1}])
    monkeypatch.setattr(measure_module, "differing", lambda _found, _expected: next(calls))
    with load(random_plan(imported, 0), imported) as step:
        result = measure_module.measure(step, 3, 0, compare=True)
    assert (result.differing_values, result.bitwise_equal) == (5, False)
    assert result.first_differing == first_made(imported, [states[0]])
