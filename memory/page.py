"""A page: one Larimar memory of at most K facts. Its addressing turns keys into rows of its matrix.

Writing and forgetting are exact and one shot. All buffers are allocated for K rows (untouched rows cost no memory), so a
restored page has the strides of the saved one, and the same operations give the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from memory import algebra
from memory.addressing import Addressing, AddressingName, KernelAddressing, PseudoInverseAddressing
from memory.errors import BadKey
from memory.fact import Fact
from memory.readout import Readout

CHECK_EVERY = 128  # writes between two checks of the drift
DRIFT = 1e-8  # a page whose residual is greater is solved again


@dataclass(frozen=True)
class PageSettings:
    """Settings of every page of a memory.

    Attributes:
        slots: K, the most facts of a page.
        beta: kernel sharpness β.
        ridge: λ; None for the addressing's default.
        addressing: the kernel, or the paper's for comparison.

    Raises:
        ValueError: a value out of range.
    """

    slots: int = 512
    beta: float = 30.0
    ridge: float | None = None
    addressing: AddressingName = "kernel"

    def __post_init__(self) -> None:
        if self.slots < 1 or self.beta <= 0 or (self.ridge is not None and self.ridge <= 0):
            raise ValueError(f"slots, beta and ridge must be above zero, got {self}")
        if self.addressing not in get_args(AddressingName):
            raise ValueError(f"addressing is {self.addressing!r}, it must be one of {', '.join(get_args(AddressingName))}")

    def row_bytes(self, dim: int, width: int) -> int:
        """Bytes of a fact's row in a solved page: key, code, and rows of S⁻¹ and M."""
        return 8 * dim + 4 * width + 8 * (self.slots + width)

    def make_addressing(self) -> Addressing:
        if self.addressing == "kernel":
            return KernelAddressing(self.beta, self.ridge or KernelAddressing.ridge)
        return PseudoInverseAddressing(self.slots, self.ridge or PseudoInverseAddressing.ridge)


class Page:
    """N ≤ K facts as keys A (N, D) and codes Z (N, W), and their memory: S⁻¹ (R, R) and M (R, W), see Addressing.

    A code wider than W widens the page with zero columns; a narrower one is padded with zeros. A zero slot means "empty"
    (models.code), so neither changes a readout.
    """

    def __init__(self, settings: PageSettings, dim: int, width: int = 0, device: torch.device | str = "cpu") -> None:
        self.settings, self.dim, self.width = settings, dim, width
        self.addressing = settings.make_addressing()
        self.device = torch.device(device)
        self.widths: list[int] = []  # of each fact's own code
        self.unchecked = 0  # writes since the last check
        self.solved = False  # whether inverse and matrix are those of keys and codes
        k = settings.slots
        self._keys = self._buffer(k, dim)
        self._inverse = self._buffer(k, k)
        self._codes = self._buffer(k, width, torch.float32)
        self._matrix = self._buffer(k, width)

    def _buffer(self, rows: int, columns: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Zeros, which take no memory in NumPy until they are written. (`torch.empty` could expose forgotten facts.)"""
        if self.device.type != "cpu":
            return torch.zeros(rows, columns, dtype=dtype, device=self.device)
        return torch.from_numpy(np.zeros((rows, columns), np.float32 if dtype == torch.float32 else np.float64))

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def full(self) -> bool:
        return len(self) >= self.settings.slots

    @property
    def keys(self) -> Tensor:
        """A, (N, D) float64 (exact: keys arrive as float32)."""
        return self._keys[: len(self)]

    @property
    def codes(self) -> Tensor:
        """Z, (N, W) float32."""
        return self._codes[: len(self)]

    @property
    def rows(self) -> int:
        """R, rows of the matrix in use."""
        return self.addressing.rows(len(self))

    @property
    def inverse(self) -> Tensor:
        """S⁻¹, (R, R) float64."""
        self._solve()
        return self._inverse[: self.rows, : self.rows]

    @property
    def matrix(self) -> Tensor:
        """M, (R, W) float64."""
        self._solve()
        return self._matrix[: self.rows]

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows in use."""
        solved = 8 * self.rows * (self.settings.slots + self.width) if self.solved else 0
        return len(self) * (8 * self.dim + 4 * self.width) + solved

    def write(self, key: Tensor, code: Tensor) -> None:
        """Write one fact in one shot, O(R² + RW).

        Raises:
            BadKey: wrong shapes or values that are not finite; the page is unchanged.
        """
        self._check(key, code)
        if self.full:
            raise AssertionError(f"the page holds {len(self)} of {self.settings.slots} facts")
        self._solve()
        n, rows = len(self), self.addressing.rows(len(self) + 1)
        self._widen(len(code))
        self._keys[n] = key.to(self._keys)
        self._codes[n] = 0
        self._codes[n, : len(code)] = code.to(self._codes)
        self.addressing.write(
            self._inverse[:rows, :rows], self._matrix[:rows], self.keys, self._keys[n], self._codes[n].double()
        )
        self.widths.append(len(code))
        self.unchecked += 1
        if self.unchecked >= CHECK_EVERY:
            if self.residual() > DRIFT:
                self.resolve()
            self.unchecked = 0

    def write_block(self, keys: Tensor, codes: Sequence[Tensor]) -> None:
        """Write a block of facts, keys (B, D), with one solve at the next read or write: cheaper than single writes for many facts.

        Raises:
            BadKey: as `write`.
        """
        for key, code in zip(keys, codes, strict=True):
            self._check(key, code)
        n, total = len(self), len(self) + len(codes)
        if total > self.settings.slots:
            raise AssertionError(f"{total} facts do not fit {self.settings.slots} slots")
        self.settle()
        self._widen(max((len(c) for c in codes), default=0))
        self._keys[n:total] = keys.to(self._keys)
        self._codes[n:total] = 0
        for row, code in enumerate(codes, n):
            self._codes[row, : len(code)] = code.to(self._codes)
        self.widths += [len(c) for c in codes]

    def without(self, rows: Sequence[int]) -> Page:
        """A new page without these rows, solved from the remaining facts at its first use. Its bits depend on those alone, so nothing
        of a forgotten fact is left, not even in the rounding."""
        gone = set(rows)
        kept = [row for row in range(len(self)) if row not in gone]
        width = max((self.widths[row] for row in kept), default=0)
        fresh = Page(self.settings, self.dim, width, self.device)
        fresh._keys[: len(kept)] = self.keys[kept]
        fresh._codes[: len(kept)] = self.codes[kept][:, :width]
        fresh.widths = [self.widths[row] for row in kept]
        return fresh

    def distance(self, rows: Sequence[int], fresh: Page) -> float:
        """The residual of forgetting: the relative distance of this page's matrix, after these rows are removed in one shot, from
        the matrix of `fresh`, the page `without` them. Solves both pages if they are not solved."""
        if not len(fresh):
            return 0.0
        matrix = self.matrix
        if rows:
            _, matrix = self.addressing.forget(self.inverse, matrix, rows, self.keys, self.codes)
        return algebra.relative(matrix[:, : fresh.width], fresh.matrix)

    def read(self, key: Tensor) -> Readout:
        """The posterior at a query key (D,).

        Raises:
            BadKey: wrong shape or values that are not finite.
        """
        self._check(key)
        if not len(self):
            raise AssertionError("an empty page has nothing to read")
        return self.addressing.read(self.inverse, self.matrix, self.keys, self.codes, key.to(self._keys))

    @classmethod
    def of(cls, settings: PageSettings, dim: int, keys: Sequence[Tensor], codes: Sequence[Tensor], device: torch.device | str) -> Page:
        """The page of these rows, solved at its first use."""
        page = cls(settings, dim, max((len(code) for code in codes), default=0), device)
        page.widths = [len(code) for code in codes]
        if codes:
            page._keys[: len(codes)] = torch.stack(list(keys)).to(page._keys)
            page._codes[: len(codes)] = torch.nn.utils.rnn.pad_sequence(list(codes), batch_first=True).to(page._codes)
        return page

    def settle(self) -> None:
        """Solve the page again at its next use, so that its bits depend on its rows alone."""
        self.solved, self.unchecked = False, 0

    def _solve(self) -> None:
        if not self.solved:
            self.resolve()

    def resolve(self) -> None:
        """Solve the page from its keys and codes."""
        self.solved = True
        if self.rows:
            system, right = self.addressing.system(self.keys, self.codes)
            self.inverse.copy_(algebra.inverse(system))
            self.matrix.copy_(self.inverse @ right)
        self.unchecked = 0

    def residual(self) -> float:
        """‖S M − Y‖ / ‖Y‖: how far the matrix is from the least-squares solution."""
        if not len(self):
            return 0.0
        system, right = self.addressing.system(self.keys, self.codes)
        return algebra.relative(system @ self.matrix, right)

    def checksum(self) -> str:
        """SHA-256 of the page's tensors."""
        digest = hashlib.sha256()
        for tensor in (self.keys, self.codes, self.inverse, self.matrix):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _widen(self, width: int) -> None:
        if width <= self.width:
            return
        codes, matrix = self.codes, self._matrix[: self.rows]
        self._codes = self._buffer(self.settings.slots, width, torch.float32)
        self._matrix = self._buffer(self.settings.slots, width)
        for new, old in ((self._codes, codes), (self._matrix, matrix)):
            new[: len(old), : self.width] = old
            new[: len(old), self.width :] = 0
        self.width = width

    def _check(self, key: Tensor, code: Tensor | None = None) -> None:
        if key.shape != (self.dim,):
            raise BadKey(f"an address key has shape {tuple(key.shape)}, this memory needs ({self.dim},)")
        if code is not None and (code.dim() != 1 or not len(code)):
            raise BadKey(f"a value code has shape {tuple(code.shape)}, it must be a vector")
        if not bool(torch.isfinite(key).all()) or (code is not None and not bool(torch.isfinite(code).all())):
            raise BadKey("an address key or value code has values that are not finite")


@dataclass(frozen=True)
class StoredPage:
    """A page of a snapshot: the facts whose data keys still exist, in row order, and the version that it covers."""

    covered: int
    facts: tuple[Fact, ...]
