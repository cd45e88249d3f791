"""PyTorch's own operator samples (torch.testing's OpInfo), exported one step at a time and compared with eager torch.

A sample's differentiable tensors are parameters, its other tensors batch inputs. The step's next buffers are the
operator's outputs, element by element; with momentum and one step, the momentum of a parameter is its gradient.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import planc.torch
from support.training_steps import state_pairs

Function = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """One call: the operator's function, and its arguments as a tree whose tensors are leaves."""

    name: str
    function: Function
    leaves: tuple[Any, ...]
    spec: Any


def samples(op: Any, requires_grad: bool = True) -> Iterator[Sample]:
    """The samples of an OpInfo in float32, those with attributes that only eager mode has left out."""
    torch.manual_seed(0)
    for number, sample in enumerate(op.sample_inputs("cpu", torch.float32, requires_grad=requires_grad)):
        leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
        after = sample.output_process_fn_grad

        def run(*args: Any, _after: Any = after, **kwargs: Any) -> Any:
            return _after(op(*args, **kwargs))

        yield Sample(f"{op.full_name} {number}", run, tuple(leaves), spec)


class Call(nn.Module):
    """The operator on its own parameters and the batch; outputs are kept in buffers."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.sample, self.fixed = sample, list(sample.leaves)
        for i, leaf in enumerate(sample.leaves):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                self.register_parameter(f"p{i}", nn.Parameter(leaf.detach().clone()))
        self.anchor = nn.Parameter(torch.zeros(()))
        self.outputs: list[str] = []

    def call(self, batch: dict[str, Tensor]) -> list[Tensor]:
        own = dict(self.named_parameters())
        leaves = [own.get(f"p{i}", batch.get(f"b{i}", leaf)) for i, leaf in enumerate(self.fixed)]
        args, kwargs = pytree.tree_unflatten(leaves, self.sample.spec)
        return [v for v in pytree.tree_leaves(self.sample.function(*args, **kwargs)) if isinstance(v, Tensor)]

    def prepare(self, batch: dict[str, Tensor]) -> list[Tensor]:
        made = self.call(batch)
        for i, value in enumerate(made):
            self.register_buffer(f"out{i}", torch.zeros_like(value.detach()).contiguous())
            weight = torch.linspace(0.5, 1.5, max(1, value.numel()), dtype=torch.float64)[: value.numel()]
            self.register_buffer(f"weight{i}", weight.reshape(value.shape).to(torch.float32))
        return made

    def forward(self, **batch: Tensor) -> Tensor:
        total = self.anchor.sum()
        for i, value in enumerate(self.call(batch)):
            getattr(self, f"out{i}").copy_(value.detach())
            if value.is_floating_point() and value.requires_grad:
                total = total + (value * getattr(self, f"weight{i}").to(value.dtype)).sum()
        return total


def batch_of(sample: Sample) -> dict[str, Tensor]:
    return {f"b{i}": v for i, v in enumerate(sample.leaves) if isinstance(v, Tensor) and not v.requires_grad}


def _expected(sample: Sample, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Outputs and gradients by eager torch, its floats in `dtype`."""
    wide = [v.detach().to(dtype).requires_grad_(v.requires_grad) if _float(v) else v for v in sample.leaves]
    module = Call(Sample(sample.name, sample.function, tuple(wide), sample.spec)).to(dtype)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch_of(sample).items()}
    module.prepare(batch)
    module.to(dtype)(**batch).backward()
    found = {n: v.detach().numpy() for n, v in module.named_buffers() if n.startswith("out")}
    grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return found | {f"{n}.momentum": g.to_dense().numpy() for n, g in grads.items()}


def _float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def exported(sample: Sample) -> dict[str, np.ndarray]:
    """The same by the exported step, run by plain ONNX Runtime."""
    module, batch = Call(sample), batch_of(sample)
    module.prepare(batch)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    model = planc.torch.export_training_step(module, lambda y: y, (batch, None), optimizer)
    pairs = state_pairs(model)
    initial = {t.name for t in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in initial]
    feeds = {name: batch[name.rpartition(".")[2]].detach().numpy() for name in names}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    return {name: made[following] for name, following in pairs.items()}


def difference(sample: Sample, tolerance: float = 2e-4) -> str | None:
    """What the exported step computes otherwise than torch, None where nothing; a ModelError passes through."""
    found = exported(sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide, narrow = _expected(sample, torch.float64), _expected(sample, torch.float32)
    for name, expected in narrow.items():
        if name.startswith("anchor"):
            continue
        made = found.get(name)
        if made is None:
            if np.any(np.nan_to_num(expected.astype(np.float64), nan=1.0)):
                return f"{name} is missing"
            continue
        if not (_near(made, wide[name], tolerance) or _near(made, expected, tolerance)):
            return f"{name}: {made.ravel()[:6]}, torch {expected.ravel()[:6]} (float64 {wide[name].ravel()[:6]})"
    return None


def _near(made: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    if made.shape != expected.shape:
        return False
    made, expected = made.astype(np.float64), expected.astype(np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    return bool(np.allclose(made, expected, rtol=tolerance, atol=tolerance * min(scale, 1e4), equal_nan=True))
