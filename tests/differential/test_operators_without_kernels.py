"""Steps made for a card, run where its operators have no kernels: their functions' bodies run in the place of the calls."""

from functools import cache

import numpy as np
import pytest
from support.plans import random_plan
from support.zoo_networks import MOMENTUM, small_forward

from planc.graph.footprint import write_over_candidates
from planc.importer.import_model import ImportedModel, import_model
from planc.importer.submodel import SubModel, sub_model
from planc.kernels import DOMAIN
from planc.runtime.cpu_session import cpu_session
from planc.runtime.measure import measure
from planc.runtime.ort.sessions import faithful_options
from planc.runtime.step import load
from planc.training import differentiate

NETWORKS = ["gpt2", "bert_base", "resnet18"]
Arrays = dict[str, np.ndarray]


@cache
def _made_for_a_card(name: str) -> ImportedModel:
    built = small_forward(name)
    step = differentiate(built.model, loss=built.loss, optimizer=MOMENTUM, device="cuda", parameters=built.parameters)
    return import_model(step)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_computes_the_bits_of_the_whole_graph(name: str, seed: int) -> None:
    imported = _made_for_a_card(name)
    assert any(op.domain == DOMAIN for op in imported.graph.ops)
    with load(random_plan(imported, seed, scratch_in_slab=False), imported, host_tier="ram") as step:
        assert measure(step, 2, 0, compare=True).bitwise_equal


def _calls_that_write_over() -> list[tuple[str, int, int]]:
    """Network, operator and storage, one for each kind of operator and position of the operand."""
    found: dict[tuple[str, int], tuple[str, int, int]] = {}
    for name in NETWORKS:
        graph = _made_for_a_card(name).graph
        for index, op in enumerate(graph.ops):
            for storage in write_over_candidates(graph, index) if op.domain == DOMAIN else ():
                position = next(k for k, t in enumerate(op.inputs) if t >= 0 and graph.tensors[t].storage == storage)
                found.setdefault((op.op_type.partition("_")[0], position), (name, index, storage))
    return list(found.values())


def test_a_body_may_write_its_output_over_what_it_reads() -> None:
    calls = _calls_that_write_over()
    assert len(calls) >= 4
    for name, index, storage in calls:
        imported = _made_for_a_card(name)
        model = sub_model(imported, range(index, index + 1))
        inputs = _values(imported, model)
        apart, over = (_run(imported, model, inputs, at) for at in (None, storage))
        assert apart == over, imported.graph.ops[index].op_type


def _values(imported: ImportedModel, model: SubModel) -> Arrays:
    rng, found = np.random.default_rng(0), {}
    for port in model.inputs:
        tensor = imported.graph.tensors[port.tensor]
        whole = np.dtype(tensor.dtype).kind in "iub"
        value = rng.integers(0, 2, tensor.shape) if whole else rng.random(tensor.shape)
        found[port.name] = value.astype(tensor.dtype)
    return found


def _run(imported: ImportedModel, model: SubModel, inputs: Arrays, storage: int | None) -> list[bytes]:
    """The outputs' bytes, the first one made over the operand in `storage`."""
    tensors, session = imported.graph.tensors, cpu_session(model.model_bytes, faithful_options())
    binding, held = session.io_binding(), {name: value.copy() for name, value in inputs.items()}
    places: list[np.ndarray] = []
    for port in model.inputs:
        value = held[port.name]
        binding.bind_input(port.name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
    for position, port in enumerate(model.outputs):
        over = next((held[p.name] for p in model.inputs if tensors[p.tensor].storage == storage), None)
        tensor = tensors[port.tensor]
        place = over if over is not None and not position else np.zeros(tensor.shape, tensor.dtype)
        binding.bind_output(port.name, "cpu", 0, place.dtype, place.shape, place.ctypes.data)
        places.append(place)
    session.run_with_iobinding(binding)
    return [place.tobytes() for place in places]
