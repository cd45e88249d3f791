"""The packer's compiled functions: each is compiled once, whatever it packs, so that no later packing has to wait."""

from random import Random

from planc.packing.buffers import Buffer
from planc.packing.exact import conflicts as packing_causes
from planc.packing.exact import propagation as packing_bounds
from planc.packing.exact import search as packing_search
from planc.packing.heuristics import skyline as packing_skyline
from planc.packing.heuristics import squeaky_wheel as packing_wheel
from planc.packing.pack import pack


def compiled_functions() -> dict[str, list[object]]:
    """The argument types that every compiled function of the packer has been compiled for or loaded with."""
    modules = (packing_bounds, packing_causes, packing_search, packing_skyline, packing_wheel)
    return {
        f"{module.__name__}.{name}": list(function.signatures)
        for module in modules
        for name, function in vars(module).items()
        if hasattr(function, "signatures")
    }


def random_buffers(count: int, gaps: bool, alignment: int) -> list[Buffer]:
    random = Random(count)
    found = []
    for i in range(count):
        start = random.randrange(30)
        spans = [(start, start + random.randint(1, 9))]
        if gaps and i % 3 == 0:
            spans.append((spans[0][1] + 2, spans[0][1] + 5))
        found.append(Buffer(str(i), random.randint(1, 500), tuple(spans), random.choice((1, alignment))))
    return found


def test_no_function_is_compiled_for_a_second_kind_of_packing() -> None:
    for count, gaps, alignment in ((20, False, 1), (60, True, 1), (60, False, 64), (60, True, 64), (200, True, 8)):
        buffers = random_buffers(count, gaps, alignment)
        bound = pack(buffers, time_limit=0.2).lower_bound
        pack(buffers, capacity=bound, time_limit=0.1)
    forms = compiled_functions()
    assert {"planc.packing.exact.search._search", "planc.packing.heuristics.squeaky_wheel._spin"} <= forms.keys()
    assert [name for name, signatures in forms.items() if len(signatures) > 1] == []
    assert len(forms["planc.packing.exact.search._search"]) == 1
    assert len(forms["planc.packing.heuristics.squeaky_wheel._spin"]) == 1
