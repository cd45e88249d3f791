"""Factorizations, solutions and functions of small matrices, written out in operators that graphs have.

Tracing puts these forms in the operators' place below autograd, so gradients are torch's own formulas. They check nothing:
where torch raises, as for a singular matrix, the result holds infinities or no numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from planc.errors import ModelError

aten = torch.ops.aten

LARGEST = 32
"""Rows and columns of a matrix that is written out: there are some ten operators for each."""

_TERMS = 16
"""Of the exponential's series: at a norm of one half the first one left out is below 1e-19."""

_SQUARINGS = 20
"""Matrices of a norm of up to 2 ** 19 are halved until the series is exact."""


def _require_small(a: Tensor, what: str) -> None:
    if max(a.shape[-2:]) > LARGEST:
        raise ModelError(
            f"{what} of a matrix of {list(a.shape[-2:])}: planc writes such operators out, up to {LARGEST} rows and "
            "columns; use smaller blocks, or compute it outside of the step"
        )


def _swapped(at: Tensor, k: int, rows: int) -> Tensor:
    """[..., rows]: the positions 0, 1, ... with k and `at` exchanged; `at` is [..., 1]."""
    index = torch.arange(rows, device=at.device)
    return torch.where(index == k, at, torch.where(index == at, k, index))


def _taken(a: Tensor, order: Tensor) -> Tensor:
    """The rows of a [..., M, N] in the order [..., M]."""
    return a.gather(-2, order.unsqueeze(-1).expand(a.shape))


def lu_factor_ex(a: Tensor, pivot: bool = True, check_errors: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(L and U in one [..., M, N], exchanged rows counted from 1, zeros), by columns with the largest as pivot."""
    del check_errors
    _require_small(a, "an LU factorization")
    rows, steps = a.shape[-2], min(a.shape[-2:])
    pivots = [torch.zeros((*a.shape[:-2], 0), dtype=torch.int64, device=a.device)]
    for k in range(steps):
        at = torch.full((*a.shape[:-2], 1), k, device=a.device)
        if pivot:
            at = a[..., k:, k].abs().argmax(-1, keepdim=True) + k
            a = _taken(a, _swapped(at, k, rows))
        pivots.append(at + 1)
        first = a[..., k : k + 1, k : k + 1]
        share = a[..., k + 1 :, k : k + 1] / torch.where(first == 0, 1.0, first)
        rest = a[..., k + 1 :, k + 1 :] - share * a[..., k : k + 1, k + 1 :]
        a = torch.cat([a[..., : k + 1, :], torch.cat([a[..., k + 1 :, :k], share, rest], -1)], -2)
    return a, torch.cat(pivots, -1).to(torch.int32), _no_errors(a)


def _no_errors(a: Tensor) -> Tensor:
    return torch.zeros(a.shape[:-2], dtype=torch.int32, device=a.device)


def _order(pivots: Tensor, rows: int, back: bool = False) -> Tensor:
    """[..., rows]: where each row of a factorization was in the matrix; `back`, where each of the matrix went."""
    steps = list(range(pivots.shape[-1]))
    order = torch.arange(rows, device=pivots.device).expand(*pivots.shape[:-1], rows)
    for k in reversed(steps) if back else steps:
        order = order.gather(-1, _swapped(pivots[..., k : k + 1].to(torch.int64) - 1, k, rows))
    return order


def lu_solve(lu: Tensor, pivots: Tensor, b: Tensor, left: bool = True, adjoint: bool = False) -> Tensor:
    """X of A X = B, or of X A = B; with the transpose of A where `adjoint`."""
    if not left:
        return lu_solve(lu, pivots, b.mT, adjoint=not adjoint).mT
    batch = torch.broadcast_shapes(lu.shape[:-2], b.shape[:-2])
    b, pivots = b.expand(*batch, *b.shape[-2:]), pivots.expand(*batch, pivots.shape[-1])
    rows = lu.shape[-1]
    if adjoint:
        made = solve_triangular(lu.mT, solve_triangular(lu.mT, b, upper=False), upper=True, unitriangular=True)
        return _taken(made, _order(pivots, rows, back=True))
    made = solve_triangular(lu, _taken(b, _order(pivots, rows)), upper=False, unitriangular=True)
    return solve_triangular(lu, made, upper=True)


def lu_unpack(
    lu: Tensor, pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """(P, L, U) of a factorization, A = P L U; empty where not asked for."""
    rows, columns = lu.shape[-2:]
    k, none = min(rows, columns), lu.new_empty(0)
    permutation = none
    if unpack_pivots:
        one = torch.eye(rows, dtype=lu.dtype, device=lu.device).expand(*lu.shape[:-2], rows, rows)
        permutation = _taken(one, _order(pivots, rows, back=True))
    if not unpack_data:
        return permutation, none, none
    lower = lu[..., :, :k].tril(-1) + torch.eye(rows, k, dtype=lu.dtype, device=lu.device)
    return permutation, lower, lu[..., :k, :].triu()


def lu(a: Tensor, pivot: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """(P, L, U) with A = P L U."""
    factors, pivots, _ = lu_factor_ex(a, pivot)
    return lu_unpack(factors, pivots, unpack_pivots=pivot)


def solve_triangular(a: Tensor, b: Tensor, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """X of A X = B, or of X A = B, of which A's other triangle is not read, row by row."""
    if not left:
        return solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    _require_small(a, "the solution of a triangular system")
    rows = a.shape[-1]
    b = b.expand(*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:])
    found = [] if rows else [b]
    for k in reversed(range(rows)) if upper else range(rows):
        row = b[..., k : k + 1, :]
        if found:
            known = torch.cat(found, -2)
            row = row - (a[..., k : k + 1, k + 1 :] if upper else a[..., k : k + 1, :k]) @ known
        row = row if unitriangular else row / a[..., k : k + 1, k : k + 1]
        found = [row, *found] if upper else [*found, row]
    return torch.cat(found, -2)


def solve_ex(a: Tensor, b: Tensor, left: bool = True, check_errors: bool = False) -> tuple[Tensor, ...]:
    """(X, LU, pivots, zeros) of A X = B or X A = B; B may be a vector."""
    del check_errors
    vector = b.dim() == 1 or (a.dim() - 1 == b.dim() and b.shape == a.shape[:-1])
    factors, pivots, none = lu_factor_ex(a)
    found = lu_solve(factors, pivots, b.unsqueeze(-1) if vector else b, left)
    return found.squeeze(-1) if vector else found, factors, pivots, none


def inverse_ex(a: Tensor, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    """(The inverse, zeros)."""
    del check_errors
    factors, pivots, none = lu_factor_ex(a)
    return lu_solve(factors, pivots, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)), none


def _exchanges(pivots: Tensor, dtype: torch.dtype) -> Tensor:
    """1 or -1: the sign of the order of rows."""
    moved = pivots != torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)
    return 1.0 - 2.0 * (moved.sum(-1) % 2).to(dtype)


def _as_torch(a: Tensor) -> Tensor:
    """What torch factors for a determinant, and its gradient's formula takes to be factored."""
    return a.mT if a.is_contiguous() else a


def determinant(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(The determinant, LU, pivots)."""
    factors, pivots, _ = lu_factor_ex(_as_torch(a))
    return factors.diagonal(0, -2, -1).prod(-1) * _exchanges(pivots, a.dtype), factors, pivots


def log_determinant(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(The determinant's sign, the logarithm of its absolute value, LU, pivots)."""
    factors, pivots, _ = lu_factor_ex(_as_torch(a))
    diagonal = factors.diagonal(0, -2, -1)
    return diagonal.sign().prod(-1) * _exchanges(pivots, a.dtype), diagonal.abs().log().sum(-1), factors, pivots


def cholesky_ex(a: Tensor, upper: bool = False, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    """(L with A = L L^T, zeros), or its transpose; of A only that triangle is read."""
    del check_errors
    _require_small(a, "a Cholesky factorization")
    none, rest = _no_errors(a), a.mT if upper else a
    columns = [] if a.shape[-1] else [a]
    for k in range(a.shape[-1]):
        column = rest[..., :1] / rest[..., :1, :1].sqrt()
        columns.append(torch.nn.functional.pad(column, (0, 0, k, 0)))
        below = column[..., 1:, :]
        rest = rest[..., 1:, 1:] - below @ below.mT
    found = torch.cat(columns, -1)
    return found.mT if upper else found, none


def cholesky(a: Tensor, upper: bool = False) -> Tensor:
    """L with A = L L^T, or its transpose."""
    return cholesky_ex(a, upper)[0]


def cholesky_solve(b: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    """X of L L^T X = B."""
    lower = factor.mT if upper else factor
    return solve_triangular(lower.mT, solve_triangular(lower, b, upper=False), upper=True)


def cholesky_inverse(factor: Tensor, upper: bool = False) -> Tensor:
    """The inverse of L L^T."""
    one = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return cholesky_solve(one.expand(factor.shape), factor, upper)


def triangular_solve(
    b: Tensor, a: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Tensor, Tensor]:
    """(X of A X = B, A), A transposed if asked for."""
    matrix = a.mT if transpose else a
    found = solve_triangular(matrix, b, upper=upper != transpose, unitriangular=unitriangular)
    batch = found.shape[:-2]
    return found, a.expand(*batch, *a.shape[-2:]).clone()


def householder_product(a: Tensor, tau: Tensor) -> Tensor:
    """The first columns of H_1 H_2 ..., H_k = I - tau_k v_k v_k^T; v_k is 1 on the diagonal of a, and a's column below."""
    _require_small(a, "a product of reflections")
    rows, columns = a.shape[-2:]
    made = torch.eye(rows, columns, dtype=a.dtype, device=a.device).expand(a.shape)
    vectors = a.tril(-1) + torch.eye(rows, columns, dtype=a.dtype, device=a.device)
    for k in reversed(range(tau.shape[-1])):
        v = vectors[..., k : k + 1]
        made = made - tau[..., k : k + 1, None] * v * (v.mT @ made)
    return made


def qr(a: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """(Q, R) by Householder's reflections with LAPACK's signs; Q is empty in the mode `r`."""
    _require_small(a, "a QR factorization")
    rows, columns = a.shape[-2:]
    steps = min(rows, columns)
    vectors, scales, rest = [a[..., :0]], [a[..., 0, :0] if rows else a[..., :0].sum(-2)], a
    for k in range(steps):
        v, tau = _reflection(rest[..., k:, k : k + 1])
        v = torch.nn.functional.pad(v, (0, 0, k, 0))
        rest = rest - tau * v * (v.mT @ rest)
        vectors.append(v)
        scales.append(tau[..., 0])
    r = (rest if mode == "complete" else rest[..., :steps, :]).triu()
    if mode == "r":
        return a.new_empty(0), r
    kept = torch.cat(vectors, -1)
    if mode == "complete":
        kept = torch.nn.functional.pad(kept, (0, rows - steps))
    return householder_product(kept, torch.cat(scales, -1)), r


def _reflection(x: Tensor) -> tuple[Tensor, Tensor]:
    """(v with 1 on top, tau), which take the column x [..., M, 1] to a multiple of the first axis."""
    alpha, below = x[..., :1, :], x[..., 1:, :]
    tail = below.square().sum(-2, keepdim=True)
    norm = (alpha.square() + tail).sqrt()
    beta = torch.where(alpha > 0, -norm, norm)
    there = tail > 0
    beta = torch.where(there, beta, 1.0)
    tau = torch.where(there, (beta - alpha) / beta, 0.0)
    scale = torch.where(there, alpha - beta, 1.0)
    return torch.cat([torch.ones_like(alpha), below / scale], -2), tau


def matrix_exp(a: Tensor) -> Tensor:
    """exp(A): A is halved until its norm is at most one half, the series is summed, and its sum squared as often."""
    if a.dtype in (torch.float16, torch.bfloat16):
        return matrix_exp(a.float()).to(a.dtype)
    norm = a.abs().sum(-2).amax(-1)[..., None, None]
    halvings = torch.ceil(torch.log2(norm.clamp(min=0.5) * 2))
    small = a / torch.exp2(halvings)
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    made = one
    for k in range(_TERMS, 0, -1):
        made = one + small @ made / k
    for k in range(_SQUARINGS):
        made = torch.where(halvings > k, made @ made, made)
    return torch.where(halvings <= _SQUARINGS, made, torch.nan)


def unchecked(info: Tensor, api_name: str, *, is_matrix: bool) -> None:
    """In place of torch's look at what a factorization says of its success: the values are not there yet."""
    del info, api_name, is_matrix


FORMS: dict[Any, Callable[..., Any]] = {
    aten.linalg_lu_factor_ex.default: lu_factor_ex,
    aten.linalg_lu_solve.default: lu_solve,
    aten.lu_unpack.default: lu_unpack,
    aten.linalg_lu.default: lu,
    aten.linalg_solve_triangular.default: solve_triangular,
    aten.triangular_solve.default: triangular_solve,
    aten._linalg_solve_ex.default: solve_ex,
    aten.linalg_inv_ex.default: inverse_ex,
    aten._linalg_det.default: determinant,
    aten._linalg_slogdet.default: log_determinant,
    aten.linalg_cholesky_ex.default: cholesky_ex,
    aten.cholesky_solve.default: cholesky_solve,
    aten.cholesky_inverse.default: cholesky_inverse,
    aten.linalg_householder_product.default: householder_product,
    aten.linalg_qr.default: qr,
    aten.linalg_matrix_exp.default: matrix_exp,
}
"""Forms by operator."""

if hasattr(aten, "cholesky"):  # PyTorch 2.14 has only torch.linalg's
    FORMS[aten.cholesky.default] = cholesky
