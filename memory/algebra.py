"""The least-squares algebra of one page, in float64 on any device.

    κ(a, b) = exp(β(⟨a, b⟩ − 1))        Gaussian kernel of unit vectors, since ‖a − b‖² = 2 − 2⟨a, b⟩
    G = κ(A, A) + λI,  M = G⁻¹ Z        kernel ridge regression: the posterior mean of a Bayesian linear memory
                                        (Larimar, arXiv 2403.11901, appendix E, with Gaussian addressing)
    C = WᵀW + C₀,     M = C⁻¹ Wᵀ Z      the same in the coordinates of addresses W: the paper's own form
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SEED = 2403_11901 % 2**31  # of all that is random and must be the same everywhere: reference memories, directions of words


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
    """The terms for bordering G by a row k and a diagonal element: u = G⁻¹k (N,) and s = diagonal − kᵀu > 0.

    [G k; kᵀ d]⁻¹ = [G⁻¹ + uuᵀ/s, −u/s; −uᵀ/s, 1/s]
    """
    u = torch.mv(inverse, k)
    return u, diagonal - float(torch.dot(k, u))


def downdate(inverse: Tensor, matrix: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Remove facts from G⁻¹ (N, N) and M (N, W) by the Schur complement: new ones of N − |rows| rows.

    With G⁻¹ = [P Q; Qᵀ R] and M' the removed rows of M:  P − Q R⁻¹ Qᵀ  and  M − Q R⁻¹ M'.
    """
    gone = torch.zeros(len(inverse), dtype=torch.bool, device=inverse.device)
    gone[list(rows)] = True
    q, r = inverse[~gone][:, gone], inverse[gone][:, gone]
    both = torch.linalg.solve(r, torch.cat([q.T, matrix[gone]], 1))  # R⁻¹ [Qᵀ, M']
    return inverse[~gone][:, ~gone] - q @ both[:, : len(q)], matrix[~gone] - q @ both[:, len(q) :]


def recur(inverse: Tensor, matrix: Tensor, w: Tensor, z: Tensor, alpha: float) -> None:
    """One step of the paper's recursion, in place on C⁻¹ (K, K) and M (K, W): α = +1 writes, −1 forgets z (W,) at w (K,).

    C ← C + α wᵀw  and  M ← M + α C⁻¹ wᵀ(z − w M), C⁻¹ by Sherman and Morrison.
    """
    u = torch.mv(inverse, w)
    s = 1.0 + alpha * float(torch.dot(w, u))
    s = max(s, 1e-15)  # α = −1 of a fact that was never written has no solution
    matrix.addr_(u, z - torch.mv(matrix.T, w), alpha=alpha / s)
    inverse.addr_(u, u, alpha=-alpha / s)


def relative(got: Tensor, wanted: Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖ (Frobenius); 0 for empty or equal tensors."""
    distance = float(torch.linalg.norm(got - wanted))
    return distance / max(float(torch.linalg.norm(wanted)), 1e-300) if distance else 0.0
