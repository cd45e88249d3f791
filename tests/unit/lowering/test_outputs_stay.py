"""What the caller reads after the step stays in its place."""

from onnx import helper
from support.costs import made_up_costs
from support.graphs import step_model

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.importer.import_model import import_model
from planc.verifier.verify import verify


def test_the_last_operator_does_not_overwrite_an_output_that_it_reads() -> None:
    """Relu could take its input's bytes, were they not an output too."""
    nodes = [helper.make_node("Tanh", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    imported = import_model(step_model(nodes, {"x": [8, 64]}, {"h": [8, 64], "y": [8, 64]}))
    plan = compile_model(
        imported, made_up_costs(imported.graph, scratch=0), CompileOptions("100%", time_limit_s=1.0)
    ).plan
    assert verify(imported.graph, plan) == ()
    offsets = {stay.storage: stay.offset for stay in plan.residencies}
    assert offsets["h"] != offsets["y"]
