"""PyTorch and planc side by side on one card: memory, time, bits; a process a row, the two in turns.

    PYTHONPATH=SITE python3 benchmarks/gpu/head_to_head.py --out FOLDER [--steps r50-32,gpt2] [--precisions tf32,bf16]
        [--systems torch,planc] [--modes eager,compile,...] [--shares 100,75,50,33,25] [--seconds 12]
        [--warm PROCESSES] [--begin ROWS.json ...] [--until SECONDS]

planc's budgets are shares of what torch.compile allocates for the step, measured in this run or in rows of an earlier one
(`--begin`). Rows of PyTorch are kept, and those of planc's that ran by the graph and the kernels of now (`kernels`). Writes
head_to_head.json after every row, a list of: step, precision, system, mode, asked_mib, driver_mib, ms, predicted_ms,
bound_ms, planning_s, bits_equal, repeatable, of planc also kernels and, where bits differ, first_differing. `ms` is the
median wall-clock time of a step whose batch is on the card. `--warm` fills torch.compile's cache by that many processes at
once before the first row; `--until` starts no row after so many seconds, so that a short lease gives what it can; `--merge`
only joins rows. `next_run` beside this file has the commands that are worth most.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch_steps
from processes import MIB, Row, alone, median_ms, row_of, together, used

KEY = ("step", "precision", "system", "mode")


# --- PyTorch


def torch_row(step: str, precision: str, mode: str) -> Row:
    """Time and memory of one mode; runs in a process of its own."""
    import torch

    before = used()
    run = torch_steps.build(step, precision, mode)
    for _ in range(4):
        run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    if mode == "compile-graph":
        run = torch_steps.graphed(run)

    def finished() -> None:
        run()
        torch.cuda.synchronize()

    ms = median_ms(finished, timed=3) if mode == "offload" else median_ms(finished)
    asked = torch.cuda.max_memory_allocated() // MIB
    return row_of(asked_mib=asked, driver_mib=(used() - before) // MIB, ms=ms)


def torch_warm(step: str, precision: str, mode: str) -> Row:
    """Compile one step, so that later processes find it in the cache."""
    torch_steps.build(step, precision, mode)()
    return {}


def torch_modes(options: argparse.Namespace) -> list[str]:
    """The modes asked for, what needs `compile` to be known last."""
    return [mode for mode in torch_steps.MODES if mode in options.modes]


def warm(options: argparse.Namespace) -> None:
    """Fill the compiler's cache, several steps at once."""
    begin = time.perf_counter()
    works = [
        partial(torch_warm, step, precision, mode)
        for mode in torch_modes(options) if mode in torch_steps.COMPILED and mode != "compile-graph"
        for precision, step in product(options.precisions, options.steps)
    ]  # fmt: skip
    failed = [found for found in together(works, options.warm, options.start) if "FAILED" in found]
    print(f"compiled {len(works)} steps in {time.perf_counter() - begin:.1f} s, failed {failed}", flush=True)


# --- rows


def rows(options: argparse.Namespace, known: Iterable[Row]) -> Iterator[Row]:
    """Every row that is not known yet, PyTorch's of a step before planc's, whose budgets follow from them."""
    done = {tuple(row[name] for name in KEY): row for row in known if "FAILED" not in row}
    for precision, step in product(options.precisions, options.steps):
        head = {"step": step, "precision": precision}
        for mode in torch_modes(options) if "torch" in options.systems else ():
            key = (step, precision, "torch", mode)
            if key not in done:
                found = alone(partial(torch_row, step, precision, mode), options.start, options.lock)
                done[key] = {**head, "system": "torch", "mode": mode, **found}
                yield done[key]
        peak = done.get((step, precision, "torch", "compile"), {}).get("asked_mib")
        if "planc" in options.systems and peak:
            import planc_steps

            of_step = {mode: row for (*case, mode), row in done.items() if case == [step, precision, "planc"]}
            yield from planc_steps.rows(head, peak, of_step, options.shares, options)


def merged(files: Iterable[Path]) -> list[Row]:
    """Rows of several runs, the last of each kind kept, sorted."""
    found: dict[tuple[str, ...], Row] = {}
    for file in files:
        for row in json.loads(file.read_text()):
            key = tuple(row[name] for name in KEY)
            if "FAILED" not in row or key not in found:
                found[key] = row
    order = [list(torch_steps.STEPS), ["tf32", "bf16"], ["torch", "planc"]]
    modes = [*torch_steps.MODES, "profile", *(f"{share} %" for share in range(100, 0, -1))]
    return sorted(found.values(), key=lambda row: [n.index(row[k]) for n, k in zip([*order, modes], KEY, strict=True)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = {"steps": ",".join(torch_steps.STEPS), "precisions": "tf32,bf16", "systems": "torch,planc",
              "modes": ",".join(torch_steps.MODES), "shares": "100,75,50,33,25"}  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path())
    for name, default in listed.items():
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=default.split(","))
    parser.add_argument("--seconds", type=float, default=12.0, help="the solver's limit for each plan")
    parser.add_argument("--warm", type=int, default=0)
    parser.add_argument("--begin", type=Path, nargs="*", default=[])
    parser.add_argument("--until", type=float, default=float("inf"))
    parser.add_argument("--known", type=Path, help="cost tables and plans (STEP.PRECISION.SHARE.plan.json) made before")
    parser.add_argument("--lock", type=Path, help="several runs that name the same file measure in turns")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--start", choices=("fork", "spawn"), default="fork", help="how PyTorch's processes start")
    return parser.parse_args()


def preload(options: argparse.Namespace) -> None:
    """Import what every forked process of PyTorch would import."""
    if options.start == "fork" and "torch" in options.systems and not options.merge:
        import transformers.models.gpt2.modeling_gpt2
        import transformers.models.llama.modeling_llama  # noqa: F401


def main() -> None:
    """Print and write every row as it comes."""
    options = arguments()
    begin, found = time.perf_counter(), merged(options.begin)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "head_to_head.json"
    preload(options)
    if options.warm and "torch" in options.systems:
        warm(options)
    coming = iter(()) if options.merge else rows(options, found)
    while time.perf_counter() - begin <= options.until and (row := next(coming, None)) is not None:
        row.pop("context_MiB", None)
        found.append(row)
        print(f"{time.perf_counter() - begin:.0f} s", json.dumps(row), flush=True)
        file.write_text(json.dumps(found, indent=1))
    file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
