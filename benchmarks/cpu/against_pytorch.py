"""planc beside PyTorch eager on the CPU, each in a process of its own, in turns: time of a step and growth of the process.

    python benchmarks/cpu/against_pytorch.py --export                 # the training graphs, on any machine, busy or not
    python benchmarks/cpu/against_pytorch.py --json benchmarks/cpu/results/against_pytorch.json      # on quiet cores
    python benchmarks/cpu/against_pytorch.py --table benchmarks/cpu/results/against_pytorch.json

The module is exported by `planc.torch` and planned at 100 % of its liveness peak, and, in the first of `--forms`, so that
the process should grow by a half and a quarter of what PyTorch's grows by, and by as much as with PyTorch's own
checkpointing. Every process is timed for a few steps in
rotation until all have had their rounds or the network's `--seconds` are over; a row holds the least and the median of all
steps, and what the process took beyond its imports. Rows are kept as each network ends: what the file has already is not
measured again. Graphs and costs stay in `--folder`. torchvision and transformers are installed at the first run.
"""

import argparse
import filecmp
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))  # this checkout, whatever is installed

from benchmarks import model_libraries  # noqa: E402
from planc.errors import PlancError  # noqa: E402
from planc.files import atomic_write  # noqa: E402

LIMITS: dict[str, Callable[[int, int], float]] = {
    "half of PyTorch": lambda eager, _: eager / 2,
    "quarter of PyTorch": lambda eager, _: eager / 4,
    "as checkpointed": lambda _, checkpointed: checkpointed,
}
"""What a process may grow by, of what PyTorch's grows by, eager and with its own checkpointing."""

PREPARING = 0.7
"""Of a network's time: no plan is begun later."""


def serve(step: Any, before: int, load_s: float, predicted: int = 0) -> None:
    """Answer each line, a number of steps, with the seconds of each and by how much the process has grown."""
    from planc.runtime.resident import peak_resident_bytes

    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
        answer = {
            "seconds": seconds,
            "growth": peak_resident_bytes() - before,
            "load_s": load_s,
            "predicted": predicted,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def serve_torch(name: str, checkpointed: bool) -> None:
    """PyTorch eager; with `checkpointed` every child of the module that is a list or sequence recomputes its parts."""
    import torch
    from modules import CASES

    from planc.runtime.resident import reset_peak, resident_bytes

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    functional_warm(torch)
    reset_peak()
    before = resident_bytes()
    started = time.perf_counter()
    case = CASES[name]()
    if checkpointed:
        checkpoint(case.module)
    serve(case.eager_step(), before, time.perf_counter() - started)


def functional_warm(torch: Any) -> None:
    """Let PyTorch load its libraries: what they take is no part of a step."""
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.randn(4, 3, 3, 3)).sum().backward()


def checkpoint(module: Any) -> None:
    """Recompute every outermost block: an element of a list or a sequence that has several parts of its own."""
    import torch

    for part in module.children():
        if isinstance(module, torch.nn.ModuleList | torch.nn.Sequential) and _is_block(part):
            part.forward = _recomputed(part.forward)
        else:
            checkpoint(part)


def _is_block(part: Any) -> bool:
    import torch

    plain = type(part) in (torch.nn.Sequential, torch.nn.ModuleList)
    return not plain and len(list(part.children())) > 1


def _recomputed(forward: Any) -> Any:
    from torch.utils.checkpoint import checkpoint as recompute

    return lambda *args, **named: recompute(forward, *args, use_reentrant=False, **named)


def serve_planc(plan: str, model: str) -> None:
    """A plan, loaded in a process that never sees PyTorch."""
    import numpy as np

    from planc.api import load
    from planc.runtime.resident import reset_peak, resident_bytes

    feeds = dict(np.load(Path(model).with_suffix(".npz")))
    reset_peak()
    before = resident_bytes()
    started = time.perf_counter()
    step = load(plan, model)
    serve(lambda: step(feeds), before, time.perf_counter() - started, step.predicted_growth_bytes)


@dataclass
class Server:
    """One process that runs steps when asked."""

    label: str
    process: subprocess.Popen[str]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    growth: int = 0
    load_s: float = 0.0
    predicted: int = 0

    def run(self, steps: int, warm: bool = False) -> None:
        stdin, stdout = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
        stdin.write(f"{steps}\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
        self.growth, self.load_s, self.predicted = (answer[key] for key in ("growth", "load_s", "predicted"))
        if not warm:
            self.seconds += answer["seconds"]

    def close(self) -> None:
        cast(IO[str], self.process.stdin).close()
        self.process.wait()


def start(label: str, *arguments: str, **facts: Any) -> Server:
    command = [sys.executable, str(HERE), "serve", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    server = Server(label, process, facts)
    server.run(2, warm=True)
    return server


def export(folder: Path, name: str, forms: str) -> Path:
    """The training graph and one batch beside it, made in a process of its own."""
    path = folder / f"{name}-{forms}.onnx"
    subprocess.run([sys.executable, str(HERE), "export", name, forms, str(path)], check=True)
    return path


def export_here(name: str, forms: str, path: str) -> None:
    import numpy as np
    import torch
    from modules import CASES

    from planc.torch import export_training_step

    torch.manual_seed(0)
    case = CASES[name]()
    batch = (case.inputs, case.targets)
    model = export_training_step(case.module, case.loss, batch, case.optimizer(), path, device=forms)
    state = {v.name for v in model.graph.initializer}
    names = [v.name for v in model.graph.input if v.name not in state]
    data = {}
    for value in names:
        shape = [d.dim_value for d in next(v for v in model.graph.input if v.name == value).type.tensor_type.shape.dim]
        for tensor in batch:
            if list(tensor.shape) == shape and value not in data:
                data[value] = tensor.numpy()
                batch = tuple(t for t in batch if t is not tensor)
    np.savez(Path(path).with_suffix(".npz"), **data)


def costs_of(model: Path, tier: str) -> Path:
    """The model's cost table, measured once."""
    costs = model.with_suffix(".costs.json")
    if not costs.exists():
        command = [sys.executable, "-c", "from planc.cli.main import main; main()", "profile", str(model)]
        command += ["--device", "cpu", "--host-tier", tier, "-o", str(costs)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return costs


def planned(model: Path, limit: str, budget: float | int, seconds: float, tier: str) -> Server:
    """A server of the model's plan for a budget, a share of the peak or bytes."""
    from planc.api import compile as compile_plan

    plan = compile_plan(model, costs=costs_of(model, tier), budget=budget, time_limit=seconds, host_tier=tier)
    path = model.with_suffix(f".{limit.partition(' ')[0]}.plan.json")
    plan.save(path)
    facts = {"step_ns": plan.prediction.step_ns, "slab": plan.memory.slab_bytes}
    label = f"planc {model.stem.rpartition('-')[2]}, {limit}"
    return start(label, "planc", str(path), str(model), **facts)


def measure(folder: Path, name: str, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each system, all of one network."""
    began = time.monotonic()
    models = exports(folder, name, chosen.forms)
    servers = [start("torch eager", "torch", name, "eager"), start("torch checkpointed", "torch", name, "checkpointed")]
    whole: Server | None = None
    for model, limit in [(model, "100 %") for model in models] + [(models[0], limit) for limit in LIMITS]:
        if time.monotonic() - began > PREPARING * chosen.seconds or (limit in LIMITS and whole is None):
            print(f"{name}: no time for {model.stem}, {limit}", flush=True)
            continue
        budget: float | int = 1.0
        if whole and limit in LIMITS:
            budget = int(LIMITS[limit](*(server.growth for server in servers[:2])))
            budget -= whole.predicted - whole.facts["slab"]
        try:
            server = planned(model, limit, budget, chosen.time_limit, chosen.tier)
        except PlancError as error:
            print(f"{name}: no plan for {model.stem}, {limit}: {error}", flush=True)
            continue
        whole = whole or server
        servers.append(server)
    for turn in range(chosen.rounds):
        if turn and time.monotonic() - began > chosen.seconds:
            break
        for position in range(len(servers)):
            servers[(position + turn) % len(servers)].run(chosen.steps)
    for server in servers:
        server.close()
    return [row(name, server, servers[0]) for server in servers]


def exports(folder: Path, name: str, forms: str) -> list[Path]:
    """The network's training graphs, made where they are not there yet; forms that change nothing of it are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    for each in forms.split(","):
        path = folder / f"{name}-{each}.onnx"
        if not path.exists():
            export(folder, name, each)
        if not any(filecmp.cmp(path, other, shallow=False) for other in found):
            found.append(path)
    return found


def row(name: str, server: Server, eager: Server) -> dict[str, Any]:
    found = {
        "network": name, "system": server.label, "steps": len(server.seconds),
        "growth_mib": round(server.growth / 2**20, 1),
        "load_s": round(server.load_s, 2),
        "least_ms": round(1e3 * min(server.seconds), 1), "median_ms": round(1e3 * statistics.median(server.seconds), 1),
        "least_over_eager": round(min(server.seconds) / min(eager.seconds), 3),
        "median_over_eager": round(statistics.median(server.seconds) / statistics.median(eager.seconds), 3),
    }  # fmt: skip
    if server.facts:
        found |= {
            "predicted_ms": round(server.facts["step_ns"] / 1e6, 1),
            "predicted_mib": round(server.predicted / 2**20, 1),
        }
    print(found, flush=True)
    return found


def compare() -> None:
    """Measure the chosen networks; rows are written as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet18,gpt2,resnet50,mobilenet_v2,unet,bert")
    parser.add_argument("--forms", default="onednn,cpu")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--time-limit", type=float, default=8.0, help="Seconds that a solver may take.")
    parser.add_argument("--seconds", type=float, default=210.0, help="A network's time, about.")
    parser.add_argument("--tier", default="file")
    parser.add_argument("--folder", type=Path, default=Path("build/against_pytorch"))
    parser.add_argument("--export", action="store_true", help="Make the training graphs and nothing else.")
    parser.add_argument(
        "--table", type=Path, help="Print the rows of a file as a table of Markdown and do nothing else."
    )
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.table:
        print("\n".join(table(json.loads(chosen.table.read_text())["rows"])))
        return
    model_libraries.enter(__file__)
    rows = json.loads(chosen.json.read_text())["rows"] if chosen.json and chosen.json.exists() else []
    for name in chosen.networks.split(","):
        if chosen.export:
            print(*exports(chosen.folder, name, chosen.forms), flush=True)
        elif not any(row["network"] == name for row in rows):
            load = os.getloadavg()[0]
            rows += [{**row, "load_average": round(load, 1)} for row in measure(chosen.folder, name, chosen)]
            if chosen.json:
                facts = {"rows": rows, "threads": len(os.sched_getaffinity(0))}
                atomic_write(chosen.json, f"{json.dumps(facts, indent=1)}\n".encode())


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each row: time over PyTorch's, growth over PyTorch's."""
    lines = [
        "| network | system | least ms | over eager | median over eager | growth, MiB | predicted | steps |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        keys = (
            "network",
            "system",
            "least_ms",
            "least_over_eager",
            "median_over_eager",
            "growth_mib",
            "predicted_mib",
            "steps",
        )
        lines.append("| " + " | ".join(str(row.get(key, "")) for key in keys) + " |")
    return lines


def main() -> None:
    """Compare, or be one of the comparison's processes; that of a plan alone does without PyTorch's networks."""
    if sys.argv[1:3] == ["serve", "planc"]:
        serve_planc(*sys.argv[3:])
    elif sys.argv[1:3] == ["serve", "torch"]:
        model_libraries.enter(__file__)
        serve_torch(sys.argv[3], checkpointed=sys.argv[4] == "checkpointed")
    elif sys.argv[1:2] == ["export"]:
        model_libraries.enter(__file__)
        export_here(*sys.argv[2:])
    else:
        compare()


if __name__ == "__main__":
    main()
