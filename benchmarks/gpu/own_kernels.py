"""Kernels of planc's own operators on the card, through ONNX Runtime: errors beside torch's, repeated bits, and times.

    PYTHONPATH=SITE python3 benchmarks/gpu/own_kernels.py [--out FILE] [NAME ...]

Errors are 2-norms relative to float64, of planc's kernel and of torch's own on the same data; times are medians of a
recorded CUDA graph's replays; the floor is bytes (every operand once) over 3 TB/s.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from onnx import TensorProto, helper

from planc.graph.annotations import IR_VERSION
from planc.kernels import OPERATORS, Call, Operator, TensorType, function_of, node_of, opset_id
from planc.kernels.cross_entropy import CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT
from planc.kernels.device import SourceKernel, Variants
from planc.kernels.dropout import DROPOUT
from planc.kernels.embedding_gradient import EMBEDDING_GRADIENT
from planc.kernels.group_norm import GROUP_NORM, GROUP_NORM_GRADIENT
from planc.kernels.layer_norm import LAYER_NORM, LAYER_NORM_GRADIENT
from planc.kernels.linear_cross_entropy import LINEAR_CROSS_ENTROPY
from planc.kernels.rotary import ROTARY
from planc.kernels.row_sum import ROW_SUM
from planc.runtime.cuda.provider import cuda_session, run_options

BANDWIDTH = 3e12
REPEATS = 20
F = torch.nn.functional
KINDS = {
    torch.float32: TensorProto.FLOAT, torch.bfloat16: TensorProto.BFLOAT16, torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64, torch.uint8: TensorProto.UINT8, torch.bool: TensorProto.BOOL,
}  # fmt: skip
TYPES = {kind: dtype for dtype, kind in KINDS.items()}


@dataclass(frozen=True)
class Case:
    """A call: its operands, the same by torch (in the type it is given), and which outputs to compare."""

    operator: Operator
    inputs: Sequence[torch.Tensor]
    settings: dict[str, Any]
    by_torch: Callable[[torch.dtype], Sequence[torch.Tensor]] | None


def _logits(rows: int, classes: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(classes, (rows,), device="cuda")
    labels[::7] = -100
    return (torch.randn(rows, classes, device="cuda") * 3).to(dtype), labels


def cross_entropy(rows: int, classes: int, dtype: torch.dtype) -> Case:
    logits, labels = _logits(rows, classes, dtype)
    return Case(
        CROSS_ENTROPY, [logits, labels], {}, lambda t: [F.cross_entropy(logits.to(t), labels, reduction="none")]
    )


def cross_entropy_gradient(rows: int, classes: int, dtype: torch.dtype) -> Case:
    logits, labels = _logits(rows, classes, dtype)
    share = torch.tensor(1 / rows, device="cuda")
    x = logits.float()
    most = x.max(1, keepdim=True).values
    statistics_ = torch.cat([most, (x - most).exp().sum(1, keepdim=True).log()], 1)
    del x

    def by_torch(t: torch.dtype) -> Sequence[torch.Tensor]:
        leaf = logits.to(t).requires_grad_()
        F.cross_entropy(leaf, labels, reduction="none").backward(share.to(t).expand(rows))
        return [leaf.grad]

    return Case(CROSS_ENTROPY_GRADIENT, [logits, labels, statistics_, share], {}, by_torch)


def row_sum(rows: int, columns: int, dtype: torch.dtype, squares: int = 0) -> Case:
    x = torch.randn(rows, columns, device="cuda").to(dtype)
    return Case(ROW_SUM, [x], {"squares": squares}, lambda t: [(x.to(t) ** (1 + squares)).sum(0)])


def dropout(elements: int, dtype: torch.dtype) -> Case:
    x = torch.randn(elements, device="cuda").to(dtype)
    return Case(DROPOUT, [x, torch.tensor([1, 2], device="cuda")], {"ratio": 0.1, "stream": 7}, None)


def layer_norm(rows: int, width: int, dtype: torch.dtype, centred: int, to: torch.dtype | None = None) -> Case:
    x = torch.randn(rows, width, device="cuda").to(dtype) * 2 + 1
    scale, bias = (torch.randn(width, device="cuda") for _ in range(2))
    vectors = [scale, bias][: 1 + centred]

    def by_torch(t: torch.dtype) -> Sequence[torch.Tensor]:
        norm = F.layer_norm if centred else F.rms_norm
        made = norm(x.to(t), (width,), *(v.to(t) for v in vectors), eps=1e-5)
        return [made if to is None or t is torch.float64 else made.to(to)]

    settings = {"centred": centred, "to": 0 if to is None else KINDS[to]}
    return Case(LAYER_NORM, [x, *(v.to(dtype) for v in vectors)], settings, by_torch)


def layer_norm_gradient(
    rows: int, width: int, dtype: torch.dtype, centred: int, kind: torch.dtype | None = None
) -> Case:
    """With the addition of a residual's gradient; dy of type `kind`."""
    x, dy, addend = (torch.randn(rows, width, device="cuda").to(dtype) for _ in range(3))
    dy, scale = dy.to(kind or dtype), torch.randn(width, device="cuda").to(dtype)
    wide = x.float()
    mean = wide.mean(1, keepdim=True) if centred else torch.zeros(rows, 1, device="cuda")
    inverse = torch.rsqrt((wide - mean).square().mean(1, keepdim=True) + 1e-5)
    statistics_ = torch.cat([mean, inverse], 1) if centred else inverse

    def by_torch(t: torch.dtype) -> Sequence[torch.Tensor]:
        leaves = [a.to(t).requires_grad_() for a in (x, scale)]
        bias = [torch.zeros(width, device="cuda", dtype=t, requires_grad=True)] if centred else []
        norm = F.layer_norm if centred else F.rms_norm
        found = torch.autograd.grad(norm(leaves[0], (width,), leaves[1], *bias, eps=1e-5), [*leaves, *bias], dy.to(t))
        return [found[0] + addend.to(t), *found[1:]]

    return Case(LAYER_NORM_GRADIENT, [dy, x, scale, statistics_, addend], {"centred": centred}, by_torch)


def group_norm(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> Case:
    x = torch.randn(*shape, device="cuda").to(dtype) * 2 + 1
    scale, bias = (torch.randn(shape[1], device="cuda").to(dtype) for _ in range(2))
    return Case(
        GROUP_NORM,
        [x, scale, bias],
        {"groups": groups},
        lambda t: [F.group_norm(x.to(t), groups, scale.to(t), bias.to(t))],
    )


def group_norm_gradient(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> Case:
    x, dy = (torch.randn(*shape, device="cuda").to(dtype) for _ in range(2))
    scale = torch.randn(shape[1], device="cuda").to(dtype)
    rows = x.float().reshape(shape[0] * groups, -1)
    mean, variance = rows.mean(1), rows.var(1, correction=0)
    statistics_ = torch.stack([mean, torch.rsqrt(variance + 1e-5)], 1)

    def by_torch(t: torch.dtype) -> Sequence[torch.Tensor]:
        bias = torch.zeros(shape[1], device="cuda", dtype=t, requires_grad=True)
        leaves = [x.to(t).requires_grad_(), scale.to(t).requires_grad_(), bias]
        return torch.autograd.grad(F.group_norm(leaves[0], groups, *leaves[1:]), leaves, dy.to(t))

    return Case(GROUP_NORM_GRADIENT, [dy, x, scale, statistics_], {"groups": groups}, by_torch)


def embedding_gradient(ids: int, count: int, width: int, dtype: torch.dtype, same: bool = False) -> Case:
    """Numbers drawn at random, or all the same: the longest sums there are."""
    numbers = (
        torch.zeros(ids, dtype=torch.int64, device="cuda") if same else torch.randint(count, (ids,), device="cuda")
    )
    dy = torch.randn(ids, width, device="cuda").to(dtype)

    def by_torch(t: torch.dtype) -> Sequence[torch.Tensor]:
        return [torch.ops.aten.embedding_dense_backward(dy.to(t), numbers, count, -1, False)]

    return Case(EMBEDDING_GRADIENT, [numbers, dy], {"count": count}, by_torch)


def rotary(tokens: int, heads: int, size: int, dtype: torch.dtype, inverse: int) -> Case:
    """Queries or keys [1, tokens, heads, size], or their gradients, with float32 angles of every token."""
    x = torch.randn(1, tokens, heads, size, device="cuda").to(dtype)
    angles = torch.rand(1, tokens, 1, size, device="cuda") * 6.28
    cosine, sine = angles.cos(), angles.sin()

    def by_torch(t: torch.dtype) -> Sequence[torch.Tensor]:
        leaf, wide = x.to(t).requires_grad_(), torch.promote_types(t, torch.float32)
        low, high = leaf.chunk(2, -1)
        y = (leaf * cosine.to(wide) + torch.cat([-high, low], -1) * sine.to(wide)).to(t)
        return [torch.autograd.grad(y, leaf, x.to(t))[0] if inverse else y.detach()]

    return Case(ROTARY, [x, cosine, sine], {"inverse": inverse}, by_torch)


def projection(rows: int, width: int, classes: int, dtype: torch.dtype, chunks: int) -> Case:
    x, weight = (torch.randn(n, width, device="cuda").to(dtype) / width**0.5 for n in (rows, classes))
    _, labels = _logits(rows, 2, dtype)
    share = torch.tensor(1 / rows, device="cuda")

    def by_torch(t: torch.dtype) -> Sequence[torch.Tensor]:
        leaves = [a.to(t).requires_grad_() for a in (x, weight)]
        loss = F.cross_entropy(
            F.linear(*leaves).to(max(t, torch.float32, key=lambda d: d.itemsize)), labels, reduction="none"
        )
        loss.backward(share.to(loss.dtype).expand(rows))
        return [loss.detach(), *(leaf.grad for leaf in leaves)]

    def only(call: Call) -> Variants | None:
        kernel = LINEAR_CROSS_ENTROPY.cuda(call) if LINEAR_CROSS_ENTROPY.cuda else None
        return (
            Variants({f"chunks_{chunks}": kernel.kernels[f"chunks_{chunks}"]}) if isinstance(kernel, Variants) else None
        )

    OPERATORS[LINEAR_CROSS_ENTROPY.name] = replace(LINEAR_CROSS_ENTROPY, cuda=only)
    return Case(LINEAR_CROSS_ENTROPY, [x, weight, labels, share], {}, by_torch)


BRAIN, FLOAT = torch.bfloat16, torch.float32
CASES: dict[str, Callable[[], Case]] = {
    "cross-entropy 8192 x 50257 bf16": lambda: cross_entropy(8192, 50257, BRAIN),
    "cross-entropy 4096 x 50257 fp32": lambda: cross_entropy(4096, 50257, FLOAT),
    "cross-entropy 32 x 1000 fp32": lambda: cross_entropy(32, 1000, FLOAT),
    "gradient 8192 x 50257 bf16": lambda: cross_entropy_gradient(8192, 50257, BRAIN),
    "gradient 4096 x 50257 fp32": lambda: cross_entropy_gradient(4096, 50257, FLOAT),
    "row-sum 8192 x 3072 bf16": lambda: row_sum(8192, 3072, BRAIN),
    "row-sum 8192 x 768 bf16": lambda: row_sum(8192, 768, BRAIN),
    "row-sum 8192 x 768 fp32": lambda: row_sum(8192, 768, FLOAT),
    "row-sum 8192 x 1 fp32": lambda: row_sum(8192, 1, FLOAT),
    "dropout 8192 x 3072 bf16": lambda: dropout(8192 * 3072, BRAIN),
    "dropout 8192 x 3072 fp32": lambda: dropout(8192 * 3072, FLOAT),
    "projection 8192 x 768 x 50257 bf16, 1": lambda: projection(8192, 768, 50257, BRAIN, 1),
    "projection 8192 x 768 x 50257 bf16, 4": lambda: projection(8192, 768, 50257, BRAIN, 4),
    "projection 8192 x 768 x 50257 bf16, 16": lambda: projection(8192, 768, 50257, BRAIN, 16),
    "projection 8192 x 768 x 50257 fp32, 4": lambda: projection(8192, 768, 50257, FLOAT, 4),
    "projection 8192 x 1024 x 32000 bf16, 4": lambda: projection(8192, 1024, 32000, BRAIN, 4),
    "layer-norm 8192 x 768 fp32": lambda: layer_norm(8192, 768, FLOAT, 1),
    "layer-norm 8192 x 768 fp32 to bf16": lambda: layer_norm(8192, 768, FLOAT, 1, BRAIN),
    "layer-norm 8192 x 768 bf16": lambda: layer_norm(8192, 768, BRAIN, 1),
    "layer-norm 6304 x 768 fp32": lambda: layer_norm(6304, 768, FLOAT, 1),
    "layer-norm 100352 x 96 fp32": lambda: layer_norm(100352, 96, FLOAT, 1),
    "rms-norm 8192 x 1024 fp32 to bf16": lambda: layer_norm(8192, 1024, FLOAT, 0, BRAIN),
    "rms-norm 8192 x 4096 bf16": lambda: layer_norm(8192, 4096, BRAIN, 0),
    "layer-norm' 8192 x 768 fp32": lambda: layer_norm_gradient(8192, 768, FLOAT, 1),
    "layer-norm' 8192 x 768 fp32, dy bf16": lambda: layer_norm_gradient(8192, 768, FLOAT, 1, BRAIN),
    "layer-norm' 8192 x 768 bf16": lambda: layer_norm_gradient(8192, 768, BRAIN, 1),
    "layer-norm' 100352 x 96 fp32": lambda: layer_norm_gradient(100352, 96, FLOAT, 1),
    "rms-norm' 8192 x 1024 fp32, dy bf16": lambda: layer_norm_gradient(8192, 1024, FLOAT, 0, BRAIN),
    "rms-norm' 8192 x 4096 bf16": lambda: layer_norm_gradient(8192, 4096, BRAIN, 0),
    "embedding' 8192 of 50257 x 768 fp32": lambda: embedding_gradient(8192, 50257, 768, FLOAT),
    "embedding' 8192 of 32000 x 1024 bf16": lambda: embedding_gradient(8192, 32000, 1024, BRAIN),
    "embedding' 32768 of 50257 x 768 bf16": lambda: embedding_gradient(32768, 50257, 768, BRAIN),
    "embedding' 8192 the same x 768 fp32": lambda: embedding_gradient(8192, 50257, 768, FLOAT, True),
    "group-norm 8 x 320 x 64 x 64, 32 groups, fp32": lambda: group_norm((8, 320, 64, 64), 32, FLOAT),
    "group-norm 8 x 320 x 64 x 64, 32 groups, bf16": lambda: group_norm((8, 320, 64, 64), 32, BRAIN),
    "instance-norm 8 x 64 x 128 x 128 fp32": lambda: group_norm((8, 64, 128, 128), 64, FLOAT),
    "group-norm' 8 x 320 x 64 x 64, 32 groups, fp32": lambda: group_norm_gradient((8, 320, 64, 64), 32, FLOAT),
    "group-norm' 8 x 320 x 64 x 64, 32 groups, bf16": lambda: group_norm_gradient((8, 320, 64, 64), 32, BRAIN),
    "instance-norm' 8 x 64 x 128 x 128 fp32": lambda: group_norm_gradient((8, 64, 128, 128), 64, FLOAT),
    "rotary 8192 x 16 x 64 bf16": lambda: rotary(8192, 16, 64, BRAIN, 0),
    "rotary' 8192 x 16 x 64 bf16": lambda: rotary(8192, 16, 64, BRAIN, 1),
    "rotary 8192 x 4 x 64 fp32": lambda: rotary(8192, 4, 64, FLOAT, 0),
    "squares 150000 x 256 fp32": lambda: row_sum(150_000, 256, FLOAT, 1),
}


class Running:
    """A call in a session on the card, its operands and results bound."""

    def __init__(self, case: Case) -> None:
        types = [TensorType(KINDS[t.dtype], tuple(t.shape)) for t in case.inputs]
        call: Call = case.operator.call(types, **case.settings)
        names, ends = [f"i{k}" for k in range(len(types))], [f"o{k}" for k in range(len(call.outputs))]
        infos = [helper.make_tensor_value_info(n, *t) for n, t in zip(names, types, strict=True)]
        results = [helper.make_tensor_value_info(n, *t) for n, t in zip(ends, call.outputs, strict=True)]
        graph = helper.make_graph([node_of(call, names, ends)], "call", infos, results)
        opsets = [helper.make_opsetid("", 18), opset_id()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, functions=[function_of(call)])
        self.stream = torch.cuda.Stream()
        self.session = cuda_session(model.SerializeToString(), 0, self.stream.cuda_stream)
        self.outputs = [torch.full(t.shape, 77, dtype=TYPES[t.dtype], device="cuda") for t in call.outputs]
        self.binding, self.held = self.session.io_binding(), [t.contiguous() for t in case.inputs]
        for name, tensor in zip(names, self.held, strict=True):
            self.binding.bind_input(name, "cuda", 0, KINDS[tensor.dtype], list(tensor.shape), tensor.data_ptr())
        for name, tensor in zip(ends, self.outputs, strict=True):
            self.binding.bind_output(name, "cuda", 0, KINDS[tensor.dtype], list(tensor.shape), tensor.data_ptr())
        build = OPERATORS[call.operator.name].cuda  # a case may have put another in its place
        kernel = build(call) if build else None
        kernel = next(iter(kernel.kernels.values())) if isinstance(kernel, Variants) else kernel
        self.workspace = kernel.workspace if isinstance(kernel, SourceKernel) else 0
        self.options = run_options()
        self.bytes = sum(t.numel() * t.element_size() for t in (*self.held, *self.outputs))

    def run(self) -> list[torch.Tensor]:
        torch.cuda.synchronize()
        self.session.run_with_iobinding(self.binding, self.options)
        torch.cuda.synchronize()
        return [t.clone() for t in self.outputs]

    def microseconds(self) -> float:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            graph.capture_begin(capture_error_mode="relaxed")
            for _ in range(REPEATS):
                self.session.run_with_iobinding(self.binding, self.options)
            graph.capture_end()
        return _timed(graph.replay) / REPEATS


def _timed(run: Callable[[], object]) -> float:
    """Median microseconds of seven runs."""
    run()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(float(start.elapsed_time(end)) * 1e3)
    return statistics.median(times)


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(found.double() - exact) / torch.linalg.vector_norm(exact))


def measured(case: Case) -> dict[str, Any]:
    """Errors, repeated bits and times of one case."""
    running = Running(case)
    first = running.run()
    repeats = all(all(map(torch.equal, running.run(), first)) for _ in range(REPEATS))
    facts: dict[str, Any] = {"repeats": repeats, "us": round(running.microseconds(), 1)}
    facts["workspace_MiB"] = round(running.workspace / 2**20)
    facts["floor"] = round(facts["us"] / (running.bytes / BANDWIDTH * 1e6), 2)
    by_torch = case.by_torch
    if by_torch is not None:
        exact = by_torch(torch.float64)
        facts["error"] = [_error(a, e) for a, e in zip(first, exact, strict=False)]
        kind = next(t.dtype for t in case.inputs if t.is_floating_point())
        facts["torch_error"] = [_error(a, e) for a, e in zip(by_torch(kind), exact, strict=True)]
        del exact
        facts["torch_us"] = round(_timed(lambda: by_torch(kind)), 1)
    return facts


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", action="store_true", help="without torch beside it")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    found = {}
    for name, make in CASES.items():
        if options.names and not any(wanted in name for wanted in options.names):
            continue
        try:
            case = make()
            found[name] = measured(replace(case, by_torch=None) if options.alone else case)
        except Exception as error:
            found[name] = {"FAILED": f"{type(error).__name__}: {str(error)[:300]}"}
        print(f"{name:<34}", json.dumps(found[name]), flush=True)
        torch.cuda.empty_cache()
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
