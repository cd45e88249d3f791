"""Steps in every precision on the card against float32: losses of successive steps, repeated bits, time of a step.

PYTHONPATH=SITE:tests python3 benchmarks/gpu/precisions.py [NETWORK ...]
"""

import sys
from time import perf_counter

import numpy as np
from onnx import numpy_helper
from support.training_steps import random_batch, state_pairs

from planc.importer.import_model import import_model
from planc.importer.submodel import sub_model
from planc.runtime.cuda.driver import Context
from planc.runtime.cuda.provider import cuda_session
from planc.training import Optimizer, differentiate
from planc.zoo import ZooOptions, build_forward

NETWORKS = {
    "gpt2": ZooOptions(batch=8, seq=128, depth=2, width=256, classes=2000),
    "resnet18": ZooOptions(batch=16, image=112),
    "vit_b16": ZooOptions(batch=8, image=64, depth=2),
    "mlp": ZooOptions(batch=64),
}
STEPS = 4


def losses(name: str, precision: str, fused: bool) -> tuple[list[float], bool, float]:
    """The losses of a few steps, whether two sessions give the same bits, and the last step's ms."""
    forward = build_forward(name, NETWORKS[name])
    step = differentiate(
        forward.model, loss=forward.loss, optimizer=Optimizer("adamw", 1e-3), device="cuda", precision=precision
    )
    imported = import_model(step, fused=fused)
    graph = imported.graph
    model = sub_model(imported, range(len(graph.ops)))
    loss = graph.tensors[graph.loss].name if graph.loss is not None else ""
    following = {graph.tensors[old].name: graph.tensors[new].name for old, new in graph.state.items()}
    initial = {t.name: t for t in step.graph.initializer}
    runs = []
    for _ in range(2):
        session = cuda_session(model.model_bytes, 0)
        feeds = random_batch(step)
        feeds |= {name: numpy_helper.to_array(initial[name]) for name in state_pairs(step)}
        named = {port.name: graph.tensors[port.tensor].name for port in model.inputs}
        constants = {n: v for n, v in imported.constants.items() if n not in feeds}
        ends = {graph.tensors[port.tensor].name: port.name for port in model.outputs}
        history, spent = [], 0.0
        for _ in range(STEPS):
            given = {port: feeds.get(tensor, constants.get(tensor)) for port, tensor in named.items()}
            start = perf_counter()
            made = dict(zip(ends, session.run(list(ends.values()), given), strict=True))
            spent = perf_counter() - start
            history.append({name: made[name] for name in (loss, *following.values())})
            feeds |= {old: made[new] for old, new in following.items()}
        runs.append(history)
    equal = all(np.array_equal(a[n], b[n]) for a, b in zip(*runs, strict=True) for n in a)
    return [float(made[loss]) for made in runs[0]], equal, spent * 1e3


if __name__ == "__main__":
    Context()
    for name in sys.argv[1:] or NETWORKS:
        for precision, fused in (("float32", True), ("bf16", True), ("bf16", False), ("fp16", True)):
            try:
                found = losses(name, precision, fused)
                print(
                    f"{name:<10}{precision:<9}fused={fused!s:<6}", [f"{x:.5f}" for x in found[0]], found[1:], flush=True
                )
            except Exception as error:
                print(f"{name:<10}{precision:<9}fused={fused!s:<6} FAILED {str(error)[:400]}", flush=True)
