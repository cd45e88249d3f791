"""How well the slab is reused: slab against load bound, bytes that aliasing saves, memory used against memory planned.

    python benchmarks/reuse.py [MODEL ...] [--budgets 100%,60%,40%,25%] [--time-limit 6] [--steps 2] [--batch N]

Every model of the zoo in a small form, profiled and run on this CPU. For each budget one row: `slab/load` is the height
of the packing over the largest sum of bytes alive together; `repairs` counts the schedules that did not pack; `scratch`
is what operators used of their regions in the slab, against the plan; `resident` is by how much the resident memory of a
new process grew, at its peak, from before loading to after the steps, then the plan's slab and host slab, then the growth
of one that runs the unplanned graph in an ordinary session. Sessions and their libraries are in both growths; the initial
values in the model file are read before.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from planc.compiler.job import compile_model
from planc.compiler.options import Compilation, CompileOptions
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError, PlancError
from planc.graph.concat import pieces_of
from planc.graph.footprint import padded_bytes
from planc.graph.graph import Graph, Role
from planc.importer.import_model import ImportedModel, import_model
from planc.importer.save import write_model
from planc.lowering.residencies import residencies_of, slot_map
from planc.plan.plan import Plan
from planc.plan.residency_index import ResidencyIndex
from planc.profiling.profile import profile
from planc.training import Optimizer, differentiate
from planc.zoo import ZooOptions, build_forward

SIZES = {
    "alexnet": ZooOptions(batch=4, image=99, width=32),
    "bert_base": ZooOptions(batch=2, seq=64, depth=2, classes=1000),
    "densenet121": ZooOptions(batch=4, image=64),
    "googlenet": ZooOptions(batch=4, image=112),
    "gpt2": ZooOptions(batch=2, seq=64, depth=2, width=256, classes=1000),
    "inception_v4": ZooOptions(batch=2, image=139),
    "mlp": ZooOptions(batch=64),
    "mobilenet_v2": ZooOptions(batch=4, image=64),
    "resnet": ZooOptions(batch=4, image=64, depth=26),
    "resnet18": ZooOptions(batch=8, image=112),
    "resnet34": ZooOptions(batch=4, image=64),
    "resnet50": ZooOptions(batch=4, image=64),
    "resnet101": ZooOptions(batch=2, image=64),
    "resnet152": ZooOptions(batch=2, image=64),
    "shufflenet": ZooOptions(batch=4, image=64),
    "squeezenet": ZooOptions(batch=4, image=112),
    "unet": ZooOptions(batch=2, image=64, width=16),
    "unet_bilinear": ZooOptions(batch=2, image=64, width=16),
    "vgg16": ZooOptions(batch=4, image=64, width=16),
    "vgg19": ZooOptions(batch=4, image=64, width=16),
    "vit_b16": ZooOptions(batch=2, image=64, depth=2, classes=1000),
}


def placed_bytes(graph: Graph, plan: Plan) -> int:
    """Bytes of the inputs of Concats that a step has in their outputs already, so that the Concats do not run."""
    layers = graph.layers
    ops = [op for run in plan.runs for op in range(layers[run.layer].start, layers[run.layer].stop)]
    placed = ResidencyIndex(plan.residencies).placed(graph, ops, 0)
    return sum(padded_bytes(graph, storage) for at in placed for storage, _ in pieces_of(graph, ops[at]) or ())


def aliased_bytes(graph: Graph, compiled: Compilation) -> dict[str, int]:
    """Bytes a step that are not allocated anew, by the kind of sharing; operators in place and Concats by placement as
    the plan has them."""
    schedule = compiled.solution.schedule
    stays = residencies_of(slot_map(graph, schedule.steps), compiled.planning, schedule)
    states = [s for s in graph.storages if s.role is Role.STATE]
    computed = [s for s in graph.storages if s.role is Role.COMPUTED]
    return {
        "in place": sum(padded_bytes(graph, s.storage) for s in stays if s.over is not None),
        "concat": placed_bytes(graph, compiled.plan),
        "views": sum(graph.tensors[t].nbytes for s in computed for t in s.tensors[1:]),
        "state": sum(s.nbytes for s in states if any(graph.tensors[t].updated for t in s.tensors)),
    }


_FRESH = """
import sys
from pathlib import Path
from planc.importer.import_model import import_model
from planc.plan.plan import Plan
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.step import load

def status(key):
    return next(int(x.split()[1]) << 10 for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
model, plan, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
imported = import_model(model)
feeds, initial = synthetic_feeds(imported.graph, 0), dict(imported.file.initial_values)
planned = Plan.load(plan) if plan.name else None
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
step = load(planned, imported) if planned else UnplannedStep(imported)
for _ in range(steps):
    step(feeds)
scratch = getattr(step.device, "peak_slab_scratch_bytes", 0) if planned else 0
print(scratch, status("VmHWM") - before)
"""


def fresh(model: Path, plan: Path, steps: int) -> tuple[int, int]:
    """Scratch used in the slab and growth of resident memory, bytes, in a new process; no plan: the unplanned graph."""
    command = [sys.executable, "-c", _FRESH, str(model), str(plan), str(steps)]
    used, grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(used), int(grown)


def measured(compiled: Compilation, model: Path, steps: int, unplanned: int) -> str:
    """Scratch used in the slab over its plan; growth of resident memory, the plan's bytes, and the growth `unplanned`."""
    memory, plan = compiled.plan.memory, model.with_suffix(".plan.json")
    compiled.plan.save(plan)
    used, grown = fresh(model, plan, steps)
    planned = memory.slab_bytes + memory.scratch_bytes + memory.host_bytes
    sizes = " / ".join(f"{size / 2**20:.1f}" for size in (grown, planned, unplanned))
    return f"{used:,} / {memory.slab_scratch_bytes:,} | {sizes}"


def row(
    name: str,
    imported: ImportedModel,
    costs: CostTable,
    budget: str,
    limit: float,
    steps: int,
    model: Path,
    unplanned: int,
) -> str:
    """One line of the table."""
    try:
        compiled = compile_model(imported, costs, CompileOptions(budget, time_limit_s=limit))
    except InfeasibleBudgetError as error:
        return f"| {name} | {budget} | – | – | – | – | – | needs {error.minimum_budget_bytes:,} |"
    except PlancError as error:
        return f"| {name} | {budget} | – | – | – | – | – | {type(error).__name__} |"
    memory, prediction = compiled.plan.memory, compiled.plan.prediction
    overhead = prediction.step_ns / prediction.unconstrained_step_ns - 1
    return (
        f"| {name} | {budget} | {memory.slab_bytes:,} | {memory.slab_bytes / memory.load_bytes:.5f} | {compiled.repairs} "
        f"| {overhead:.2%} | {measured(compiled, model, steps, unplanned)} |"
    )


def aliasing_row(name: str, imported: ImportedModel, costs: CostTable) -> str:
    """Bytes that each kind of sharing saves in the unconstrained step, and the arena that scratch does not need."""
    compiled = compile_model(imported, costs, CompileOptions("100%", time_limit_s=5.0))
    kinds = aliased_bytes(imported.graph, compiled)
    peak = compiled.plan.memory.liveness_peak_bytes
    numbers = " | ".join(f"{kinds[kind]:,}" for kind in ("in place", "concat", "views", "state"))
    return f"| {name} | {peak:,} | {numbers} | {compiled.plan.memory.slab_scratch_bytes:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(SIZES))
    parser.add_argument("--budgets", default="100%,60%,40%,25%")
    parser.add_argument("--time-limit", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, help="instead of each model's own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(options, Path(folder))


def report(options: argparse.Namespace, folder: Path) -> None:
    """Print both tables; models and plans lie in `folder` meanwhile."""
    aliases = []
    print(
        "| model | budget | slab | slab/load | repairs | overhead | scratch used / planned "
        "| resident / plan / unplanned, MiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models:
        size = SIZES[name]
        forward = build_forward(name, replace(size, batch=options.batch or size.batch)).model
        model = folder / f"{name}.onnx"
        write_model(differentiate(forward, loss="cross-entropy", optimizer=Optimizer("momentum")), model)
        imported = import_model(model)
        costs = profile(imported, "cpu", lambda *_: None)
        unplanned = fresh(model, Path(), options.steps)[1]
        for budget in options.budgets.split(","):
            print(row(name, imported, costs, budget, options.time_limit, options.steps, model, unplanned), flush=True)
        aliases.append(aliasing_row(name, imported, costs))
        print(f"{name} done", file=sys.stderr)
    kinds = "in place | Concat by placement | views | state updated in place | scratch inside the slab"
    print(f"\n| model | liveness peak | {kinds} |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(aliases))


if __name__ == "__main__":
    main()
