"""PyTorch's own operator samples (torch.testing's OpInfo), exported one step at a time and compared with eager torch.

A sample's differentiable tensors are parameters, its other tensors batch inputs. The step's next buffers are the
operator's outputs, element by element; with momentum and one step, the momentum of a parameter is its gradient.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.testing._internal.opinfo.core import BinaryUfuncInfo, UnaryUfuncInfo
from torch.utils import _pytree as pytree

import planc.torch
from planc.torch.tensors import to_numpy
from support.training_steps import session, state_pairs

Function = Callable[..., Any]


_SORTS = ("sort", "argsort")
"""Without `stable`, torch leaves the order of equal elements open, and halves are often equal."""


class NotEagerError(Exception):
    """PyTorch itself cannot run the sample in one of the types that it is compared in."""


@dataclass(frozen=True)
class Sample:
    """One call: the operator's function, and its arguments as a tree whose tensors are leaves."""

    name: str
    function: Function
    leaves: tuple[Any, ...]
    spec: Any


def samples(op: Any, requires_grad: bool = True, dtype: torch.dtype = torch.float32) -> Iterator[Sample]:
    """The samples of an OpInfo in one type, those with attributes that only eager mode has left out."""
    torch.manual_seed(0)
    for number, sample in enumerate(op.sample_inputs("cpu", dtype, requires_grad=requires_grad)):
        args, kwargs = sample.args, sample.kwargs
        if op.name in _SORTS:
            named = dict(zip(("dim", "descending"), args, strict=False))
            args, kwargs = (), {"dim": -1, **named, **kwargs, "stable": True}
        leaves, spec = pytree.tree_flatten(((sample.input, *args), kwargs))
        after = sample.output_process_fn_grad

        def run(*args: Any, _after: Any = after, **kwargs: Any) -> Any:
            return _after(op(*args, **kwargs))

        yield Sample(f"{op.full_name} {number}", run, tuple(leaves), spec)


EXTREMES = (
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1e-6, -1e-6, 3.0, -3.0, 20.0, -20.0, 89.0, -89.0, 1e10, -1e10, 3e38, -3e38,
    math.inf, -math.inf,
)  # fmt: skip
"""Where functions have poles, overflow, or lose their digits. What is no number is tried forward only."""


def extremes(op: Any) -> Iterator[Sample]:
    """Calls of an element-wise operator at the ends of its range, of a binary one at all pairs of some of them."""
    for name, numbers, trained in (("extremes", EXTREMES, op.supports_autograd), ("undefined", _UNDEFINED, False)):
        line = torch.tensor(numbers)
        if op.variant_test_name:
            return  # a variant has further arguments
        if isinstance(op, UnaryUfuncInfo):
            given: tuple[Tensor, ...] = (line,)
        elif isinstance(op, BinaryUfuncInfo):
            few = line if len(line) < 8 else line[[0, 1, 2, 3, 4, 8, 9, 18, 19]]
            given = tuple(a.reshape(-1).clone() for a in torch.meshgrid(few, few, indexing="ij"))
        else:
            return
        leaves, spec = pytree.tree_flatten((tuple(a.requires_grad_(trained) for a in given), {}))
        yield Sample(f"{op.full_name} {name}", op, tuple(leaves), spec)


_UNDEFINED = (math.nan, 1.0, -math.inf, 0.0)


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
        given = {f"b{i}": leaf for i, leaf in enumerate(self.fixed)}
        given |= {name: value.to(given[name].dtype) for name, value in batch.items()} | own
        leaves = [given.get(f"p{i}", given[f"b{i}"]) for i in range(len(self.fixed))]
        args, kwargs = pytree.tree_unflatten(leaves, self.sample.spec)
        return [v for v in pytree.tree_leaves(self.sample.function(*args, **kwargs)) if isinstance(v, Tensor)]

    def prepare(self, batch: dict[str, Tensor]) -> list[Tensor]:
        made = self.call(batch)
        for i, value in enumerate(made):
            self.register_buffer(f"out{i}", _whole(torch.zeros_like(value.detach())).contiguous())
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
    return {f"b{i}": _whole(v) for i, v in enumerate(sample.leaves) if isinstance(v, Tensor) and not v.requires_grad}


def _whole(tensor: Tensor) -> Tensor:
    """Halves in float32, which NumPy and ONNX Runtime's Python pass on."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _expected(sample: Sample, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Outputs and gradients by eager torch, its floats in `dtype`."""
    wide = [v.detach().to(dtype).requires_grad_(v.requires_grad) if _float(v) else v for v in sample.leaves]
    module = Call(Sample(sample.name, sample.function, tuple(wide), sample.spec)).to(dtype)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch_of(sample).items()}
    module.prepare(batch)
    module.to(dtype)(**batch).backward()
    found = {n: to_numpy(v.detach()) for n, v in module.named_buffers() if n.startswith("out")}
    grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return found | {f"{n}.momentum": to_numpy(g.to_dense()) for n, g in grads.items()}


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
    feeds = {name: to_numpy(batch[name.rpartition(".")[2]].detach()) for name in names}
    running = session(model)
    made = dict(zip([o.name for o in running.get_outputs()], running.run(None, feeds), strict=True))
    return {name: made[following] for name, following in pairs.items()}


TOLERANCES = {torch.float32: 2e-4, torch.float16: 8e-3, torch.bfloat16: 6e-2}
"""Some eight roundings of a half type: operators are rounded one by one where they are several of ONNX's."""


def difference(sample: Sample, dtype: torch.dtype = torch.float32) -> str | None:
    """What the exported step computes otherwise than torch in float64, or in the sample's type, None where nothing.

    A ModelError passes through. Raises NotEagerError where PyTorch cannot run the sample.
    """
    tolerance = TOLERANCES[dtype]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wide, narrow = _expected(sample, torch.float64), _expected(sample, dtype)
        except Exception as error:
            raise NotEagerError(str(error)) from error
    wide = {name: _within(value, dtype) for name, value in wide.items()}
    found = exported(sample)
    for name, expected in narrow.items():
        if name.startswith("anchor"):
            continue
        made = found.get(name)
        if made is None:
            if np.any(np.nan_to_num(expected.astype(np.float64), nan=1.0)):
                return f"{name} is missing"
            continue
        if not (_near(made, wide[name], tolerance) or _near(made, expected, tolerance)):
            at = _first_difference(made, wide[name])
            shown = [np.ravel(a)[at : at + 4] for a in (made, expected, wide[name])]
            return f"{name}[{at}:]: {shown[0]}, torch {shown[1]} (float64 {shown[2]})"
    return None


def _within(value: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """A float64 result as a narrower type can hold it: beyond its range lies infinity."""
    largest = torch.finfo(dtype).max
    if value.dtype != np.float64 or dtype == torch.float32:
        return value
    return np.where(np.abs(value) > largest, np.copysign(np.inf, value), value)


def _first_difference(made: np.ndarray, expected: np.ndarray) -> int:
    """Where two results first are not alike, in the order of their elements."""
    if made.shape != expected.shape:
        return 0
    alike = np.isclose(made.astype(np.float64), expected.astype(np.float64), rtol=1e-3, atol=1e-3, equal_nan=True)
    return int(np.argmin(alike.ravel())) if alike.size else 0


def _near(made: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    if made.shape != expected.shape:
        return False
    made, expected = made.astype(np.float64), expected.astype(np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    return bool(np.allclose(made, expected, rtol=tolerance, atol=tolerance * min(scale, 1e4), equal_nan=True))
