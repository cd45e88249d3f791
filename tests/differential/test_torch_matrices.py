"""Factorizations and solutions of small matrices in a traced step, against eager torch in float64."""

from collections.abc import Callable

import numpy as np
import pytest
from support.training_steps import run_steps, state_pairs

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from planc.errors import ModelError
from planc.torch import export_training_step
from planc.torch.matrices import LARGEST


def _definite(a: Tensor) -> Tensor:
    return a @ a.mT + torch.eye(a.shape[-1], dtype=a.dtype)


def _fixed(*shape: int) -> Tensor:
    return torch.linspace(-1.0, 2.0, int(np.prod(shape))).reshape(shape)


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "determinant": torch.linalg.det,
    "sign and logarithm": lambda a: torch.linalg.slogdet(a)[1] * torch.linalg.slogdet(a)[0],
    "inverse": torch.linalg.inv,
    "solve a matrix": lambda a: torch.linalg.solve(a, _fixed(4, 3).to(a)),
    "solve a vector": lambda a: torch.linalg.solve(a, _fixed(4).to(a).expand(2, 4)),
    "solve from the right": lambda a: torch.linalg.solve(a, _fixed(3, 4).to(a), left=False),
    "solve by a factorization": lambda a: torch.linalg.lu_solve(*torch.linalg.lu_factor(a), _fixed(2, 4, 2).to(a)),
    "adjoint by a factorization": lambda a: torch.linalg.lu_solve(
        *torch.linalg.lu_factor(a), _fixed(2, 4, 2).to(a), adjoint=True
    ),
    "P L U": lambda a: torch.cat(torch.linalg.lu(a), -1),
    "Cholesky": lambda a: torch.linalg.cholesky(_definite(a)),
    "Cholesky above": lambda a: torch.linalg.cholesky(_definite(a), upper=True),
    "solve by Cholesky": lambda a: torch.cholesky_solve(_fixed(4, 2).to(a).expand(2, 4, 2), a.tril()),
    "inverse by Cholesky": lambda a: torch.cholesky_inverse(a.tril() + 3 * torch.eye(4).to(a)),
    "lower triangle": lambda a: torch.linalg.solve_triangular(a, _fixed(4, 2).to(a), upper=False),
    "upper triangle": lambda a: torch.linalg.solve_triangular(a, _fixed(3, 4).to(a), upper=True, left=False),
    "unit triangle": lambda a: torch.linalg.solve_triangular(a, _fixed(4, 2).to(a), upper=True, unitriangular=True),
    "Q R": lambda a: torch.cat(torch.linalg.qr(a[:, :, :3]), -2),
    "R": lambda a: torch.linalg.qr(a[:, :2], mode="complete")[1],
    "reflections": lambda a: torch.linalg.householder_product(a, a[:, 0] / 8),
    "exponential": lambda a: torch.linalg.matrix_exp(a / 4),
    "normal distribution": lambda a: torch.distributions.MultivariateNormal(
        torch.zeros(4).to(a), _definite(a), validate_args=False
    ).log_prob(_fixed(4).to(a)),
}


class Applied(nn.Module):
    """A function of two matrices that are parameters, rows of one in the order that pivoting does not keep."""

    def __init__(self, function: Callable[[Tensor], Tensor], flipped: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        matrices = torch.randn(2, 4, 4) + torch.eye(4).flip(0) * 2
        self.matrices, self.function, self.flipped = nn.Parameter(matrices), function, flipped

    def forward(self, scale: Tensor) -> Tensor:
        a = self.matrices.mT if self.flipped else self.matrices
        made = self.function(a)
        weights = torch.linspace(0.5, 1.5, made.numel(), dtype=made.dtype).reshape(made.shape)
        return (made * weights).sum() * scale


@pytest.mark.parametrize("flipped", [False, True], ids=["as stored", "transposed"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_torchs(name: str, flipped: bool) -> None:
    module, scale = Applied(CASES[name], flipped), torch.tensor(0.5)
    optimizer = torch.optim.SGD(module.parameters(), 0.0, momentum=0.9)
    model = export_training_step(module, lambda y: y, (scale, None), optimizer)
    (made,) = run_steps(model, {"scale": scale.numpy()})
    wide = module.double()
    loss = wide(scale.double())
    loss.backward()
    assert float(made["loss"]) == pytest.approx(loss.item(), rel=2e-5, abs=1e-5)
    gradient = wide.matrices.grad.numpy()
    found = made[state_pairs(model)["matrices.momentum"]]
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


def test_an_exponential_of_any_norm_is_torchs_or_no_number() -> None:
    """A rotation far around, a norm past what is halved away, and zero."""
    from planc.torch.matrices import matrix_exp

    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    for angle in (0.0, 1e-3, 3.0, 200.0):
        torch.testing.assert_close(
            matrix_exp(angle * turn), torch.linalg.matrix_exp(angle * turn), rtol=1e-9, atol=1e-9
        )
    assert matrix_exp(3e6 * turn).isnan().all()


def test_a_matrix_too_large_to_be_written_out_is_named() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.eye(LARGEST + 1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(self.w).sum() * x

    module = Large()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with pytest.raises(ModelError, match=rf"LU factorization of a matrix of \[{LARGEST + 1}, {LARGEST + 1}\].*up to"):
        export_training_step(module, lambda y: y, (torch.tensor(1.0), None), optimizer)
