"""Relative error of every network's loss and gradients against torch autograd in float64, beside torch's in float32.

    PYTHONPATH=tests python benchmarks/gradient_errors.py [NETWORK ...]

Prints the table of docs/training.md; the errors are defined in tests/support/gradient_errors.py.
"""

import sys

from support.gradient_errors import NETWORKS, gradient_errors

if __name__ == "__main__":
    print("| network | loss | gradients | loss, torch float32 | gradients, torch float32 |")
    print("|---|---:|---:|---:|---:|")
    for name in sys.argv[1:] or NETWORKS:
        planc, single = gradient_errors(name)
        errors = (planc.loss, planc.gradients, single.loss, single.gradients)
        print(f"| {name} | {' | '.join(f'{error:.0e}' for error in errors)} |", flush=True)
