"""Whether a network that differs from float32 torch differs by rounding: everything against torch in float64.

    python benchmarks/conditioning.py                      the rows of coverage.json above 1e-4
    python benchmarks/conditioning.py mobilenetv2_050 ...  these models

Three trainings are compared with torch in float64, after each step, by the worst relative difference of a parameter or
buffer: planc in float32, torch in float32, and torch in float64 from parameters that are moved by rounding errors of
float32 (relative 6e-7, the worst of several draws). The last two say how much the network makes of rounding. Runs in the
environment of benchmarks/model_libraries.py; writes results/conditioning.json.
"""

import copy
import json
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "conditioning.json"
STEPS, DRAWS, NOISE = 3, 6, 6e-7
ABOVE = 1e-4


def trained(module: Any, loss: Any, batch: Any) -> list[dict[str, Any]]:
    """Parameters and buffers in float64 after each step of SGD with momentum."""
    import benchmarks.coverage as coverage

    return [
        {name: tensor.double().numpy().copy() for name, tensor in coverage.tensors_of(module).items()}
        for _ in coverage.eager_steps(module, loss, batch, STEPS)
    ]


def planned(module: Any, loss: Any, batch: Any) -> list[dict[str, Any]]:
    """The same by the exported step."""
    import onnxruntime as ort
    from onnx import numpy_helper

    import benchmarks.coverage as coverage
    from planc.graph import annotations
    from planc.runtime.ort.sessions import faithful_options
    from planc.torch.batch import batch_of
    from planc.torch.export import exported
    from planc.training.step_options import PLAIN

    taken = batch_of(batch)
    made = exported(module, loss, taken, coverage.optimizer_of(module), "cpu", PLAIN)
    pairs = {k: str(v) for k, v in annotations.read_json(made.model, annotations.STATE).items()}
    state = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer if t.name in pairs}
    read = {i.name for i in made.model.graph.input}
    feeds = {n: t.numpy() for n, t in zip(made.inputs, taken.tensors, strict=True) if n in read}
    text = made.model.SerializeToString()
    session = ort.InferenceSession(text, faithful_options(), providers=["CPUExecutionProvider"])
    names, found = [o.name for o in session.get_outputs()], []
    for _ in range(STEPS):
        results = dict(zip(names, session.run(None, {**feeds, **state}), strict=True))
        state = {name: results[following] for name, following in pairs.items()}
        found.append(state)
    return found


def worst(made: dict[str, Any], expected: dict[str, Any]) -> float:
    """The worst difference relative to a tensor's largest element."""
    import numpy as np

    pairs = ((made[n], expected[n]) for n in made.keys() & expected.keys())
    return max(float(np.abs(a - b).max(initial=0) / max(1e-2, np.abs(b).max(initial=0))) for a, b in pairs)


def moved(module: Any, seed: int) -> Any:
    """The module with every parameter off by about as much as float32 sums round."""
    import torch

    copied, random = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in copied.parameters():
            p.mul_(1 + (torch.rand(p.shape, generator=random, dtype=p.dtype) - 0.5) * 2 * NOISE)
    return copied


def compared(case: Any) -> dict[str, Any]:
    """One row."""
    import torch
    import torch.utils._pytree as pytree

    import benchmarks.coverage as coverage

    torch.manual_seed(0)
    module, loss, batch = case.make()
    module = coverage.without_randomness(module.train())
    narrow, wide = copy.deepcopy(module), copy.deepcopy(module).double()
    floats = pytree.tree_map(
        lambda v: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v, batch
    )
    exact = trained(copy.deepcopy(wide), loss, floats)
    runs = {"planc": [planned(module, loss, batch)], "torch": [trained(narrow, loss, batch)]}
    runs["moved"] = [trained(moved(wide, seed), loss, floats) for seed in range(DRAWS)]
    found = {
        name: [float(f"{max(worst(run[i], exact[i]) for run in listed):.3g}") for i in range(STEPS)]
        for name, listed in runs.items()
    }
    return {"group": case.group, "model": case.name, **found}


def main() -> None:
    """Measure the models that were asked for and add them to the results."""
    sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]
    import benchmarks.coverage as coverage
    from benchmarks import model_libraries

    model_libraries.enter(__file__)
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from benchmarks.coverage_cases import language, others, vision

    differing = {r["model"] for r in coverage.known() if (r["worst_difference"] or 0) > ABOVE}
    wanted = set(sys.argv[1:]) or differing
    for case in (c for source in (others, language, vision) for c in source.cases() if c.name in wanted):
        row = compared(case)
        print(json.dumps(row), flush=True)
        rows = {r["model"]: r for r in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
        rows[row["model"]] = row
        RESULTS.write_text("[\n" + ",\n".join(json.dumps(rows[name]) for name in sorted(rows)) + "\n]\n")


if __name__ == "__main__":
    main()
