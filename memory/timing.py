"""How long the one-shot update of a page takes, alone: no encoder, no log, no queue."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from memory.page import Page, PageSettings


@dataclass(frozen=True)
class UpdateTimes:
    """Seconds of each repeat: writing fact N into a page that holds N − 1, and forgetting one of those N."""

    write_s: tuple[float, ...]
    forget_s: tuple[float, ...]


def time_updates(
    settings: PageSettings, *, dim: int, width: int, repeats: int = 50, device: torch.device | str = "cpu", seed: int = 0
) -> UpdateTimes:
    """Fill a page with random facts up to its last slot; write and forget the last one again and again.

    Args:
        settings: N is its number of slots.
        dim: D of the keys; width: W of the codes.
    """
    n, generator = settings.slots, torch.Generator().manual_seed(seed)
    keys = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator))
    codes = torch.randn(n, width, generator=generator)
    page = Page(settings, dim, width, device)
    page.write_block(keys[:-1], list(codes[:-1]))
    write_s, forget_s = [], []
    for _ in range(repeats):
        _settle(page.device)
        started = time.perf_counter()
        page.write(keys[-1], codes[-1])
        _settle(page.device)
        written = time.perf_counter()
        page, _ = page.without([n - 1])
        _settle(page.device)
        write_s.append(written - started)
        forget_s.append(time.perf_counter() - written)
    return UpdateTimes(tuple(write_s), tuple(forget_s))


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
