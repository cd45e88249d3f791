"""PyTorch's own operator samples (torch.testing's OpInfo) through the export, forward and gradient, against torch.

    python benchmarks/operators.py                    all samples of all operators; writes results/operators.json
    python benchmarks/operators.py --samples 4        at most so many an operator, spread over its list, and its extremes
    python benchmarks/operators.py --part 0/2         every second operator, for two processes side by side
    python benchmarks/operators.py --only sort        one operator
    python benchmarks/operators.py --type bfloat16    the samples in half precision, in a file of their own

An operator is `equal` where every sample is as near to torch in float64 as 2e-4, or to torch in float32 (in half types
8e-3 and 6e-2, or to torch in that type); `refused` where
planc says by name why not; `random` where only the distribution could agree. Rows that are there are kept.
"""

import argparse
import collections
import fcntl
import json
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), str(HERE.parent / "tests"), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]
RESULTS = HERE / "results" / "operators.json"
SECONDS = 120
LEFT_OUT = ("sparse.", "jiterator", "torch.ops.aten._flash", "torch.ops.aten._efficient", "to_sparse")
"""Kernels and layouts that there are on no CPU, or that fake tensors cannot follow."""

RANDOM = frozenset(
    {
        "cauchy",
        "geometric",
        "exponential",
        "log_normal",
        "uniform",
        "normal.in_place",
        "randn_like",
        "rand_like",
        "randn",
    }
    | {"randint", "randint_like", "bernoulli", "normal", "normal.number_mean", "multinomial"}
    | {"nn.functional.dropout", "nn.functional.dropout2d", "nn.functional.dropout3d", "nn.functional.alpha_dropout"}
    | {"nn.functional.feature_alpha_dropout.with_train", "nn.functional.multi_head_attention_forward"}
    | {"nn.functional.scaled_dot_product_attention", "empty", "empty_like", "empty_strided", "empty_permuted"}
    | {"new_empty", "new_empty_strided", "nn.functional.rrelu"}
)
"""Operators whose samples draw random numbers, or read memory that nothing has written."""


def row(op: Any, most: int | None, dtype: Any) -> dict[str, Any]:
    """What became of the samples of one operator."""
    import torch
    from support import opinfo

    from planc.errors import InternalError, PlancError

    count: collections.Counter[str] = collections.Counter()
    said: dict[str, str] = {}
    try:
        listed = list(opinfo.samples(op, op.supports_autograd, dtype))
    except Exception as error:
        return {"operator": op.full_name, "status": "not float", "samples": 0, "said": {"not float": str(error)[:200]}}
    chosen = listed if most is None else listed[:: max(1, len(listed) // most)][:most]
    for sample in [*chosen, *(opinfo.extremes(op) if dtype == torch.float32 else ())]:
        signal.alarm(SECONDS)
        try:
            found = opinfo.difference(sample, dtype)
            kind = "equal" if found is None else "random" if op.full_name in RANDOM else "differs"
        except PlancError as error:
            kind, found = ("crash" if isinstance(error, InternalError) else "refused"), str(error)
        except TimeoutError:
            kind, found = "late", f"{SECONDS} s"
        except opinfo.NotEagerError as error:
            kind, found = "not float", str(error)
        except Exception as error:
            kind, found = "crash", f"{type(error).__name__}: {error}"
        signal.alarm(0)
        count[kind] += 1
        if found:
            said.setdefault(kind, f"{sample.name.removeprefix(op.full_name).strip()}: {found.splitlines()[0][:240]}")
    worst = next(
        (k for k in ("crash", "differs", "late", "refused", "random", "not float", "equal") if count[k]), "none"
    )
    return {"operator": op.full_name, "status": worst, "samples": sum(count.values()), **count, "said": said}


def store(made: dict[str, Any], path: Path) -> None:
    """Put one row in its place."""
    with (RESULTS.parent / ".operators.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = {r["operator"]: r for r in known(path)} | {made["operator"]: made}
        lines = ",\n".join(json.dumps(rows[name], sort_keys=True) for name in sorted(rows))
        path.write_text(f"[\n{lines}\n]\n")


def known(path: Path) -> list[dict[str, Any]]:
    """The rows that are there."""
    return json.loads(path.read_text()) if path.exists() else []


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="one operator")
    parser.add_argument("--samples", type=int, help="at most so many of each operator")
    parser.add_argument("--part", default="0/1", help="which part of how many")
    parser.add_argument("--type", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--redo", action="store_true", help="measure again what has a row")
    options = parser.parse_args()
    import torch
    from torch.testing._internal.common_methods_invocations import op_db

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def late(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    first, count = (int(n) for n in options.part.split("/"))
    dtype = getattr(torch, options.type)
    path = RESULTS if dtype == torch.float32 else RESULTS.with_stem(f"{RESULTS.stem}_{options.type}")
    done = set() if options.redo or options.only else {r["operator"] for r in known(path)}
    for op in op_db[first::count]:
        wanted = not options.only or op.full_name == options.only
        if wanted and op.full_name not in done and not any(word in op.full_name for word in LEFT_OUT):
            store(made := row(op, options.samples, dtype), path)
            print(made["operator"], made["status"], flush=True)


if __name__ == "__main__":
    main()
