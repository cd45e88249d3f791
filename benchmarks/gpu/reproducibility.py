"""Whether the CUDA forms of planc's training graphs repeat bit for bit, and what the alternatives cost.

    PYTHONPATH=SITE:tests python3 benchmarks/gpu/reproducibility.py [NETWORK ...]

Each network runs three times on the same batch, ResNet-18 also with the CPU's lowering table; the report names what
differs of the next state (the velocity is the gradient itself), in the order of the backward phase: the first one is
nearest to the cause.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper
from support.training_steps import random_batch, state_pairs

from planc.runtime.cuda.provider import cuda_session
from planc.training import Optimizer, differentiate
from planc.training.emit import forms as lowering_table
from planc.training.emit.builder import Builder, Var
from planc.training.registry import ForwardNode
from planc.training.rules.indexing import _sum_rows
from planc.zoo import ZooOptions, build_forward

NETWORKS = {
    "resnet18": ZooOptions(batch=16, image=112),
    "gpt2": ZooOptions(batch=8, seq=128, depth=2, width=256, classes=2000),
    "squeezenet": ZooOptions(batch=8, image=112),
    "googlenet": ZooOptions(batch=8, image=112),
    "mobilenet_v2": ZooOptions(batch=8, image=112),
    "shufflenet": ZooOptions(batch=8, image=112),
    "densenet121": ZooOptions(batch=4, image=64),
    "alexnet": ZooOptions(batch=8, image=99),
    "unet": ZooOptions(batch=2, image=64, width=16),
    "unet_bilinear": ZooOptions(batch=2, image=64, width=16),
    "vit_b16": ZooOptions(batch=8, image=64, depth=2),
    "bert_base": ZooOptions(batch=4, seq=64, depth=2, classes=2000),
}
RUNS = 3


def differing(step: onnx.ModelProto) -> tuple[list[str], float]:
    """Outputs that differ between runs, in the order the step makes them, and the best time of a run in ms.

    Dropout advances its generator with every run, so each run has a session of its own.
    """
    feeds, outputs, times = random_batch(step), [o.name for o in step.graph.output], []
    results = []
    for _ in range(RUNS):
        session = cuda_session(step.SerializeToString(), 0)
        results.append(session.run(outputs, feeds))
        start = time.perf_counter()
        session.run(outputs, feeds)
        times.append(time.perf_counter() - start)
    unequal = {n for i, n in enumerate(outputs) if any(not np.array_equal(r[i], results[0][i]) for r in results[1:])}
    made = [o for node in step.graph.node for o in node.output if o in unequal]
    return made, min(times) * 1e3


def report(name: str) -> None:
    forward = build_forward(name, NETWORKS[name])
    for device in ("cuda", "cpu") if name == "resnet18" else ("cuda",):
        step = differentiate(forward.model, loss=forward.loss, optimizer=Optimizer("momentum"), device=device)
        try:
            unequal, ms = differing(step)
        except Exception as error:  # a kernel may be missing for the CPU's forms
            print(f"{name} {device}: {type(error).__name__} {str(error)[:300]}", flush=True)
            continue
        count = f"{len(unequal)} of {len(state_pairs(step))}"
        print(f"{name} {device}: {count} differ, {ms:.1f} ms {unequal[:4]}", flush=True)


def timed(build: Callable[[Builder], Var], inputs: dict[str, np.ndarray]) -> tuple[float, bool]:
    """Milliseconds of the nodes `build` emits, inputs on the card, and whether ten runs agree."""
    b = Builder()
    for name, array in inputs.items():
        b.values[name] = Var(name, array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
    result = build(b)
    ends = (*(b.values[n] for n in inputs), result)
    infos = [helper.make_tensor_value_info(v.name, v.dtype, list(v.shape)) for v in ends]
    graph = helper.make_graph(b.nodes, "form", infos[:-1], infos[-1:], list(b.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = cuda_session(model.SerializeToString(), 0)
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output(result.name, "cuda")
    first, times, same = None, [], True
    for _ in range(10):
        binding.synchronize_inputs()
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        times.append(time.perf_counter() - start)
        found = binding.copy_outputs_to_cpu()[0]
        same = same and (first is None or np.array_equal(first, found))
        first = found if first is None else first
    return min(times) * 1e3, same


def embeddings() -> None:
    """The three forms of an embedding's gradient; times include the host's launch of every kernel."""
    random = np.random.default_rng(0)
    for tokens, vocabulary in ((1024, 2000), (4096, 8000), (8192, 50257)):
        inputs = {
            "ids": random.integers(0, vocabulary, tokens),
            "rows": random.standard_normal((tokens, 768)).astype(np.float32),
        }
        for form in ("scatter-elements", "one-hot", "segmented-scan"):
            table = replace(lowering_table.CUDA, gather=lambda _indices, _rows, form=form: form)
            node = ForwardNode(helper.make_node("Gather", ["t", "i"], ["y"]), (), (), {}, {}, table)

            def build(b: Builder, node: ForwardNode = node, rows: int = vocabulary) -> Var:
                return _sum_rows(b, node, b.values["ids"], b.values["rows"], rows)

            ms, same = timed(build, inputs)
            verdict = "repeats" if same else "DIFFERS"
            print(f"embedding {tokens} x {vocabulary} {form}: {ms:.2f} ms {verdict}", flush=True)


if __name__ == "__main__":
    embeddings()
    for network in sys.argv[1:] or NETWORKS:
        report(network)
