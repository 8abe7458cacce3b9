"""A linear layer whose weights are packed once for the processor it runs on.

On a CPU, oneDNN's packed weights multiply a few rows at memory bandwidth, where torch's own product of a small batch
does not: for the 135 M weights of the default decoder and eight rows, 14 ms against 62 ms on two AVX-512 cores.

The bits of a row do not depend on how many rows share the product, as long as there are two or more: a single row
takes another kernel. Callers therefore pad what they multiply.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 8  # what weights are packed for
FEW = 64  # up to so many rows one more costs its share; beyond, whole eights keep the number of compiled kernels small


def pad(rows: Tensor) -> Tensor:
    """(n, d) to an even number of rows, or to whole eights where there are many, with zeros."""
    missing = -len(rows) % (2 if len(rows) <= FEW else ROWS)
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


class Linear:
    """y = x Wᵀ + b, for inference only.

    Args:
        weight: (out, in), float32 or bfloat16.
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias = None if bias is None else bias.detach().contiguous()
        self._packs = weight.device.type == "cpu" and torch._C._has_mkldnn
        weight = weight.detach().contiguous()
        # The operators that torch's own compiler uses for frozen weights; torch is pinned for their sake.
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS) if self._packs else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(n, in) to (n, out)."""
        if not self._packs:
            return torch.nn.functional.linear(x, self._weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return out

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual (n, out) + the layer's output at x (n, in)."""
        if not self._packs:
            return residual + torch.nn.functional.linear(x, self._weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self.bias, "add")
        return out
