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
from planc.kernels.linear_cross_entropy import LINEAR_CROSS_ENTROPY
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
        kind = case.inputs[0].dtype
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
