"""The one-shot update of a page alone: no encoder, no log, no queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from app.bench.statistic import summary, timed
from app.bench.update_times import time_updates
from memory import algebra
from memory.page import Page, PageSettings

SIZES = (64, 128, 256, 512)
BLOCKS = (1, 8, 64, 512)
KEY_DIM, CODE_WIDTH = 896, 260  # of the default encoder, and of a target of four tokens


def update(
    *, device: str = "cpu", repeats: int = 50, slots: int = 512, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Writes and forgets by the page's size, blocks by theirs, what a re-solve costs, and float32 beside float64."""
    figures: dict[str, Any] = {"key_dim": KEY_DIM, "code_width": CODE_WIDTH, "device": device}
    for n in (size for size in SIZES if size <= slots):
        times = time_updates(PageSettings(slots=n), dim=KEY_DIM, width=CODE_WIDTH, repeats=min(repeats, n - 1), device=device)
        figures[f"N = {n}"] = {
            "write": summary(times.write_s),
            "write, caches cold": summary(times.cold_write_s),
            "forget": summary(times.forget_s),
            "re-solve": summary(timed(_filled(n, device).resolve, max(3, repeats // 5))),
        } | {f"rank one, {name}": summary(_rank_one(n, dtype, device, repeats)) for name, dtype in _DTYPES.items()}
        tick()
    for block in (size for size in BLOCKS if size <= slots):
        figures[f"block of {block} into an empty page"] = summary(timed(lambda block=block: _filled(block, device), 5))  # type: ignore[misc]  # defaults bind
        tick()
    return figures


_DTYPES = {"float64": torch.float64, "float32": torch.float32}


def _drawn(n: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(n, KEY_DIM, generator=generator))
    return keys, list(torch.randn(n, CODE_WIDTH, generator=generator))


def _filled(n: int, device: str) -> Page:
    page = Page(PageSettings(slots=max(n, 1)), KEY_DIM, CODE_WIDTH, device)
    page.write_block(*_drawn(n))
    return page


def _rank_one(n: int, dtype: torch.dtype, device: str, repeats: int) -> list[float]:
    """The products of one write, without its bookkeeping. Pages are float64 always; float32 shows what that costs."""
    keys, codes = _drawn(n)
    a, z = keys.to(device, dtype), torch.stack(codes).to(device, dtype)
    inverse = algebra.inverse(algebra.gram(a, 25.0, 1e-3))
    matrix = inverse @ z

    def write() -> None:
        k = algebra.kernel(a, a[0], 25.0)
        u, s = algebra.border(inverse, k, 2.0)
        e = (z[0] - torch.mv(matrix.T, k)) / s
        inverse.addr_(u, u, alpha=1e-12)  # as large as a write's, and leaves the page as it is
        matrix.addr_(u, e, alpha=-1e-12)

    return timed(write, repeats)


def steps(slots: int = 512) -> int:
    """How often `update` ticks."""
    return sum(1 for _ in _sizes(slots))


def _sizes(slots: int) -> Iterator[int]:
    yield from (size for size in (*SIZES, *BLOCKS) if size <= slots)
