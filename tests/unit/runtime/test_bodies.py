"""Operators of planc's own that run as their functions, where no library has kernels for them."""

import numpy as np
import onnx
import pytest
from support.zoo_networks import MOMENTUM, small_forward

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.importer.import_model import import_model
from planc.profiling.profile import profile
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.onednn import operators
from planc.runtime.ort.own import written_out
from planc.runtime.step import load
from planc.training import differentiate


def _step(name: str) -> onnx.ModelProto:
    forward = small_forward(name)
    return differentiate(forward.model, loss=forward.loss, optimizer=MOMENTUM, device="onednn")


@pytest.mark.parametrize("name", ["squeezenet", "unet"])
def test_scratch_is_what_layers_took_alone_where_bodies_follow_one_another(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a body makes and nobody reads, such as a pool's indices, must not stay until the run ends."""
    monkeypatch.setattr(operators, "onednn", lambda: None)
    imported = import_model(_step(name))
    plan = compile_model(imported, profile(imported, "cpu"), CompileOptions("150%", time_limit_s=2)).plan
    unplanned = UnplannedStep(imported)
    with load(plan, imported) as step:
        for seed in range(2):
            feeds = synthetic_feeds(imported.graph, seed)
            wanted = unplanned(feeds)
            for output, value in step(feeds).items():
                assert np.asarray(value).tobytes() == np.asarray(wanted[output]).tobytes()


@pytest.mark.parametrize("name", ["squeezenet", "unet"])
def test_everything_that_written_out_bodies_make_is_read(name: str) -> None:
    model = written_out(_step(name))
    read = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    unread = [
        (node.op_type, output) for node in model.graph.node for output in node.output if output not in read | {""}
    ]
    assert unread == []
