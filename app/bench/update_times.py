"""How long the one-shot update of a page takes, alone: no encoder, no log, no queue."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from memory.page import Page, PageSettings


@dataclass(frozen=True)
class UpdateTimes:
    """Seconds of each repeat.

    Attributes:
        write_s: the last writes of a page of N facts, one after another.
        forget_s: forgetting one of N facts, check and fresh solution included.
        cold_write_s: writing fact N just after such a solution, which leaves little of the page in the processor's caches,
            as an encoder's forward pass does.
    """

    write_s: tuple[float, ...]
    forget_s: tuple[float, ...]
    cold_write_s: tuple[float, ...]


def time_updates(
    settings: PageSettings, *, dim: int, width: int, repeats: int = 50, device: torch.device | str = "cpu", seed: int = 0
) -> UpdateTimes:
    """Fill a page with random facts to its last slot; then forget the last one and write it again and again.

    Args:
        settings: N is its number of slots.
        dim: D of the keys.
        width: W of the codes.
        repeats: at most N.
    """
    n, generator = settings.slots, torch.Generator().manual_seed(seed)
    keys = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator))
    codes = torch.randn(n, width, generator=generator)
    page = Page(settings, dim, width, device)
    page.write_block(keys[: n - repeats], list(codes[: n - repeats]))
    page.resolve()
    write_s, forget_s, cold_write_s = [], [], []
    for row in range(n - repeats, n):
        started = _now(page.device)
        page.write(keys[row], codes[row])
        write_s.append(_now(page.device) - started)
    for _ in range(repeats):
        started = _now(page.device)
        left = page.without([n - 1])
        page.distance([n - 1], left)  # solves it
        page, forgotten = left, _now(page.device)
        page.write(keys[-1], codes[-1])
        cold_write_s.append(_now(page.device) - forgotten)
        forget_s.append(forgotten - started)
    return UpdateTimes(tuple(write_s), tuple(forget_s), tuple(cold_write_s))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
