"""The result of reading a page."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Readout:
    """The posterior at one query key.

    Attributes:
        code: (W,) float64, the normalised posterior mean ẑ = k M / (k G⁻¹ 1).
        weights: (N,) float64, the weight of each fact's code; they sum to one.
        variance: posterior variance 1 − k G⁻¹ kᵀ, in [0, 1].
    """

    code: Tensor
    weights: Tensor
    variance: float
