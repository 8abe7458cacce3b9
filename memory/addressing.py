"""Addressing: how a page turns address keys into rows of its memory matrix. Two ways, one interface.

    kernel          the address of a key is its likeness to each fact, κ(q, A): M has a row for each of the N facts
    pseudo-inverse  the address of a key is its coordinates w = q M_ref† in a fixed random M_ref (K, D), as in Larimar
                    (arXiv 2403.11901) and Generative Pseudo-Inverse Memory (Pham et al., ICLR 2022):
                    M always has K rows

Either memory is the least-squares solution of a system S M = Y, kept as S⁻¹ and M, and written and forgotten in one shot.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from memory import algebra
from memory.readout import Readout

AddressingName = Literal["kernel", "pseudo-inverse"]


class Addressing(Protocol):
    """For N facts with keys A (N, D) float64 and codes Z (N, W) float32: S⁻¹ (R, R) and M (R, W), float64."""

    @property
    def identity(self) -> str:
        """Name and constants; equal identities give the same S⁻¹ and M for the same facts."""

    def rows(self, facts: int) -> int:
        """R, the rows of the matrix, for a number of facts."""

    def system(self, keys: Tensor, codes: Tensor, /) -> tuple[Tensor, Tensor]:
        """S (R, R) and Y (R, W)."""

    def write(self, inverse: Tensor, matrix: Tensor, keys: Tensor, key: Tensor, code: Tensor, /) -> None:
        """Add a fact in place: key (D,) and code (W,) float64, keys (N, D) of the earlier facts.

        `inverse` and `matrix` have the rows of N + 1 facts; a new row is not set yet.
        """

    def forget(
        self, inverse: Tensor, matrix: Tensor, rows: Sequence[int], keys: Tensor, codes: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        """New S⁻¹ and M without the facts in these rows of A and Z."""

    def read(self, inverse: Tensor, matrix: Tensor, keys: Tensor, codes: Tensor, query: Tensor, /) -> Readout:
        """The posterior at a key (D,) float64."""


@dataclass(frozen=True)
class KernelAddressing:
    """S = G = κ(A, A) + λI and Y = Z, with κ(a, b) = exp(β(⟨a, b⟩ − 1)): kernel ridge regression.

    The readout k M / (k G⁻¹ 1) is normalised, so its weights sum to one. At a fact's own key it differs from the code by
    O(λ), and forgetting another fact changes it by O(λ). λ = 1e-6 keeps both below 1e-9 for facts as far apart as
    CounterFact's (512 of them: 1.2e-10; 1.2e-7 for λ = 1e-3), while facts with equal keys still solve to 1e-9.
    """

    beta: float = 30.0
    ridge: float = 1e-6

    @property
    def identity(self) -> str:
        return f"kernel beta={self.beta} ridge={self.ridge}"

    def rows(self, facts: int) -> int:
        return facts

    def system(self, keys: Tensor, codes: Tensor, /) -> tuple[Tensor, Tensor]:
        return algebra.gram(keys, self.beta, self.ridge), codes.double()

    def write(self, inverse: Tensor, matrix: Tensor, keys: Tensor, key: Tensor, code: Tensor, /) -> None:
        """Border G⁻¹. With u = G⁻¹k, s the Schur complement and e = (z − kᵀM)/s the innovation:  M ← [M − u eᵀ; eᵀ]."""
        n = len(keys)
        diagonal = float(torch.exp(self.beta * (torch.dot(key, key) - 1.0))) + self.ridge
        if n:
            k = algebra.kernel(keys, key, self.beta)
            u, s = algebra.border(inverse[:n, :n], k, diagonal)
            e = (code - torch.mv(matrix[:n].T, k)) / s
            inverse[:n, :n].addr_(u, u, alpha=1.0 / s)
            matrix[:n].addr_(u, e, alpha=-1.0)
            inverse[n, :n] = inverse[:n, n] = u / -s
        else:
            s, e = diagonal, code / diagonal
        inverse[n, n] = 1.0 / s
        matrix[n] = e

    def forget(
        self, inverse: Tensor, matrix: Tensor, rows: Sequence[int], _keys: Tensor, _codes: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        return algebra.downdate(inverse, matrix, rows)

    def read(self, inverse: Tensor, matrix: Tensor, keys: Tensor, codes: Tensor, query: Tensor, /) -> Readout:
        """Variance is 1 − k G⁻¹ kᵀ."""
        k = algebra.kernel(keys, query, self.beta)
        raw = torch.mv(inverse, k)
        total = float(raw.sum())
        if abs(total) < 1e-290:  # too far from every key: the nearest fact gets all the weight
            weights = torch.zeros_like(raw)
            weights[int(k.argmax())] = 1.0
            return Readout(torch.mv(codes.T.double(), weights), weights, 1.0)
        variance = 1.0 - float(torch.dot(k, raw))
        return Readout(torch.mv(matrix.T, k) / total, raw / total, min(1.0, max(0.0, variance)))


@dataclass(frozen=True)
class PseudoInverseAddressing:
    """S = C = Σ wᵢᵀwᵢ + C₀ and Y = Wᵀ Z, with wᵢ = aᵢ M_ref† and C₀ = λI: ridge regression in K coordinates.

    The readout w M is the paper's, not normalised: code = weights · Z, but the weights need not sum to one, and far from a fact's key
    its readout shrinks.

    It holds min(K, D) facts. Up to that number a fact is read back at its key with an error of O(λ / σ²), σ the least singular value
    of the addresses (K = 512, λ = 1e-4, keys of CounterFact: relative error 2e-4 for 64 facts, 8e-3 for 448, 0.1 for 512). More facts
    than rows make every readout a compromise (768 facts in 512 rows: error 0.58), for any λ.

    λ = 1e-4 is the smallest power of ten for which forgetting by α = −1 agrees with solving afresh within the page's
    1e-8 (3.5e-9 at N = 64; 3.6e-7 for λ = 1e-5): α = −1 divides by 1 − w C⁻¹ wᵀ, which has the size of λ.
    """

    slots: int
    ridge: float = 1e-4

    @property
    def identity(self) -> str:
        return f"pseudo-inverse slots={self.slots} ridge={self.ridge} seed={algebra.SEED}"

    def rows(self, facts: int) -> int:  # noqa: ARG002  (the paper's M always has K rows)
        return self.slots

    def address(self, keys: Tensor) -> Tensor:
        """Addresses w (…, K) of keys (…, D)."""
        return keys @ self._reference(keys)

    def system(self, keys: Tensor, codes: Tensor, /) -> tuple[Tensor, Tensor]:
        w = self.address(keys)
        matrix = w.T @ w
        matrix.diagonal().add_(self.ridge)
        return matrix, w.T @ codes.double()

    def write(self, inverse: Tensor, matrix: Tensor, _keys: Tensor, key: Tensor, code: Tensor, /) -> None:
        algebra.recur(inverse, matrix, self.address(key), code, alpha=1.0)

    def forget(
        self, inverse: Tensor, matrix: Tensor, rows: Sequence[int], keys: Tensor, codes: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        inverse, matrix = inverse.clone(), matrix.clone()
        for row in rows:
            algebra.recur(inverse, matrix, self.address(keys[row]), codes[row].double(), alpha=-1.0)
        return inverse, matrix

    def read(self, inverse: Tensor, matrix: Tensor, keys: Tensor, _codes: Tensor, query: Tensor, /) -> Readout:
        """Variance is the remaining share of the prior's, λ w C⁻¹ wᵀ / ‖w‖²."""
        w = self.address(query)
        u = torch.mv(inverse, w)
        weights = torch.mv(keys, torch.mv(self._reference(query), u))  # W C⁻¹ wᵀ without the addresses W
        variance = self.ridge * float(torch.dot(w, u)) / max(float(torch.dot(w, w)), 1e-300)
        return Readout(torch.mv(matrix.T, w), weights, min(1.0, max(0.0, variance)))

    def _reference(self, keys: Tensor) -> Tensor:
        return _pseudo_inverse(self.slots, keys.shape[-1], keys.device)


@functools.lru_cache(maxsize=8)
def _pseudo_inverse(slots: int, dim: int, device: torch.device) -> Tensor:
    """M_ref† (D, K) of the fixed M_ref (K, D) ~ N(0, 1/D). NumPy freezes `RandomState`'s streams, so it is the same everywhere."""
    drawn = np.random.RandomState([algebra.SEED, slots, dim]).standard_normal((slots, dim)) / dim**0.5
    inverse: Tensor = torch.linalg.pinv(torch.from_numpy(drawn))
    return inverse.to(device)
