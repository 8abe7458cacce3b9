"""The least-squares algebra of one page, in float64 on any device.

    κ(a, b) = exp(β(⟨a, b⟩ − 1))        Gaussian kernel of unit vectors, since ‖a − b‖² = 2 − 2⟨a, b⟩
    G = κ(A, A) + λI,  M = G⁻¹ Z        kernel ridge regression: the posterior mean of a Bayesian linear memory
                                        (Larimar, arXiv 2403.11901, appendix E, with Gaussian addressing)
"""

from __future__ import annotations

import torch
from torch import Tensor


def kernel(a: Tensor, b: Tensor, beta: float) -> Tensor:
    """κ of every row of `a` (N, D) with every row of `b` (B, D), or with one vector `b` (D,): (N, B) or (N,)."""
    return torch.exp(beta * (a @ b.T - 1.0)) if b.dim() == 2 else torch.exp(beta * (torch.mv(a, b) - 1.0))


def gram(keys: Tensor, beta: float, ridge: float) -> Tensor:
    """G = κ(A, A) + λI, (N, N)."""
    matrix = kernel(keys, keys, beta)
    matrix.diagonal().add_(ridge)
    return matrix


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of a symmetric positive definite matrix (N, N) by Cholesky."""
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))


def border(inverse: Tensor, k: Tensor, diagonal: float) -> tuple[Tensor, float]:
    """What bordering G by a row k and a diagonal element needs: u = G⁻¹k (N,) and s = diagonal − kᵀu > 0.

    [G k; kᵀ d]⁻¹ = [G⁻¹ + uuᵀ/s, −u/s; −uᵀ/s, 1/s]
    """
    u = torch.mv(inverse, k)
    return u, diagonal - float(torch.dot(k, u))


def downdate(inverse: Tensor, matrix: Tensor, row: int) -> tuple[Tensor, Tensor]:
    """Remove one fact from G⁻¹ (N, N) and M (N, W) by the Schur complement: new ones of N − 1 rows.

    With G⁻¹ = [P q; qᵀ r] and m the removed row of M:  P − qqᵀ/r  and  M − q mᵀ/r.
    """
    keep = torch.arange(len(inverse), device=inverse.device) != row
    q, r = inverse[keep, row], inverse[row, row]
    return torch.addr(inverse[keep][:, keep], q, q, alpha=-1.0 / float(r)), torch.addr(
        matrix[keep], q, matrix[row], alpha=-1.0 / float(r)
    )


def relative(got: Tensor, wanted: Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖ (Frobenius); 0 for empty or equal tensors."""
    distance = float(torch.linalg.norm(got - wanted))
    return distance / max(float(torch.linalg.norm(wanted)), 1e-300) if distance else 0.0
