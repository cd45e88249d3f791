"""Matrix products; operands are read transposed in place where ONNX's Gemm can."""

from typing import Any

from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.emit.builder import Var


@lower(aten.mm.default, raw=("self", "mat2"))
def mm(c: TorchLowering, self: Any, mat2: Any) -> Var:
    """[M, K] x [K, N]."""
    (a, trans_a), (b, trans_b) = c.factor(self), c.factor(mat2)
    return c.b.gemm(a, b, trans_a=trans_a, trans_b=trans_b)


@lower(aten.addmm.default, raw=("mat1", "mat2"))
def addmm(c: TorchLowering, self: Var, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Var:
    """beta self + alpha mat1 mat2."""
    if not mat1.shape[1]:  # a sum of nothing
        return c.b.expand(c.b.mul(self, float(beta)), c.specs[0][0])
    (a, trans_a), (b, trans_b) = c.factor(mat1), c.factor(mat2)
    flags: dict[str, Any] = {k: 1 for k, on in (("transA", trans_a), ("transB", trans_b)) if on}
    flags |= {k: float(v) for k, v in (("alpha", alpha), ("beta", beta)) if v != 1}
    return c.b.op("Gemm", [a, b, self], c.specs[0][0], a.dtype, **flags)


@lower(aten.bmm.default)
def bmm(c: TorchLowering, self: Var, mat2: Var) -> Var:
    """A product per batch element."""
    return c.b.matmul(self, mat2)


@lower(aten.addbmm.default)
def addbmm(c: TorchLowering, self: Var, batch1: Var, batch2: Var, beta: float = 1, alpha: float = 1) -> Var:
    """beta self + alpha times the sum of the products of all batch elements."""
    product = c.b.mul(c.b.sum(c.b.matmul(batch1, batch2), [0], keepdims=False), float(alpha))
    return c.b.add(product, c.b.mul(self, float(beta))) if beta else product


@lower(aten.baddbmm.default)
def baddbmm(c: TorchLowering, self: Var, batch1: Var, batch2: Var, beta: float = 1, alpha: float = 1) -> Var:
    """beta self + alpha batch1 batch2."""
    product = c.b.mul(c.b.matmul(batch1, batch2), float(alpha))
    return c.b.add(product, c.b.mul(self, float(beta))) if beta else product
