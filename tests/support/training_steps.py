"""Runs training graphs with plain ONNX Runtime: random batches from the graph's own metadata, state fed back."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from planc.graph import annotations
from planc.runtime.ort.sessions import faithful_options

Arrays = dict[str, npt.NDArray[Any]]


def state_pairs(step: onnx.ModelProto) -> dict[str, str]:
    """{state input: output with its next value}."""
    return {name: str(following) for name, following in annotations.read_json(step, annotations.STATE).items()}


def loss_name(step: onnx.ModelProto) -> str:
    return next(p.value for p in step.metadata_props if p.key == annotations.LOSS)


def random_batch(step: onnx.ModelProto, seed: int = 3) -> Arrays:
    """A value for every input that is neither state nor a hyper-parameter, which has one."""
    state, ranges = (
        {t.name for t in step.graph.initializer} | set(state_pairs(step)),
        json.loads(json.dumps(annotations.read_json(step, annotations.INPUT_RANGES))),
    )
    random, feeds = np.random.default_rng(seed), {}
    for info in step.graph.input:
        if info.name in state:
            continue
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        integers = info.name in ranges
        low, high = ranges.get(info.name, (0, 1))
        drawn = random.integers(low, high, size=shape) if integers else random.standard_normal(shape)
        feeds[info.name] = np.asarray(drawn).astype(dtype)
    return feeds


def session(step: onnx.ModelProto) -> ort.InferenceSession:
    """A session with optimisations off, on the process's one thread pool."""
    return ort.InferenceSession(step.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])


def run_steps(
    step: onnx.ModelProto, feeds: Arrays, count: int = 1, running: ort.InferenceSession | None = None
) -> list[Arrays]:
    """The outputs of `count` successive steps on the same batch, from the initial state; in session `running` if given."""
    running, state, feeds = running or session(step), state_pairs(step), dict(feeds)
    names = [o.name for o in step.graph.output]
    results = []
    for _ in range(count):
        results.append(dict(zip(names, running.run(names, feeds), strict=True)))
        feeds |= {name: results[-1][following] for name, following in state.items()}
    return results
