"""Compile a training step into half of its memory, train with it, and read what was decided.

python examples/compile_and_run.py
"""

import numpy as np

import planc
from planc.training import Optimizer
from planc.zoo import ZooOptions, build_step


def main() -> None:
    """A small ResNet-18 for ten classes: plan it, verify the plan, train three steps."""
    model = build_step("resnet18", ZooOptions(batch=8, image=32, classes=10), Optimizer("momentum"))
    plan = planc.compile(model, budget="50%", time_limit=5)
    print(f"slab of {plan.memory.slab_bytes:,} bytes, liveness peak {plan.memory.liveness_peak_bytes:,}")
    print("violations:", planc.verify(plan, model))
    rng = np.random.default_rng(0)
    with planc.load(plan, model) as step:
        for _ in range(3):
            images = rng.standard_normal((8, 3, 32, 32), np.float32)
            outputs = step({"input": images, "labels": rng.integers(0, 10, 8)})
            print("loss", float(outputs["loss"]))


if __name__ == "__main__":
    main()
