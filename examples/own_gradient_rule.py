"""A gradient rule of one's own: train a network with an operator that planc has no rule for.

    python examples/own_gradient_rule.py

Atan is a standard operator. Its derivative is 1 / (1 + x^2). A rule gets the gradients of a node's outputs and emits
those of its inputs, with the builder's standard operators; what it emits is planned like everything else.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import planc
from planc.training import Optimizer, differentiate
from planc.training.emit.builder import Builder
from planc.training.registry import GRADIENTS, ForwardNode, Gradients, OutputGradients, gradient, sole

if "Atan" not in GRADIENTS:

    @gradient("Atan")
    def atan(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
        """dx = dy / (1 + x^2)."""
        x = node.input(0)
        return {0: b.div(sole(grads), b.add(b.mul(x, x), 1.0))}


def forward_model() -> "helper.ModelProto":
    """logits = Atan(x W) V for x of [16, 8], W of [8, 32], V of [32, 4]."""
    rng = np.random.default_rng(0)
    weights = {"W": rng.standard_normal((8, 32)), "V": rng.standard_normal((32, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Atan", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "V"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "own rule",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [16, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def main() -> None:
    """Twenty steps on one batch; the loss falls."""
    model = differentiate(forward_model(), loss="cross-entropy", optimizer=Optimizer("sgd", learning_rate=0.5))
    plan = planc.compile(model, budget="100%", time_limit=2)
    rng = np.random.default_rng(1)
    feeds = {"x": rng.standard_normal((16, 8), np.float32), "labels": rng.integers(0, 4, 16)}
    with planc.load(plan, model) as step:
        losses = [float(step(feeds)["loss"]) for _ in range(20)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
