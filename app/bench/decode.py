"""Decoding, beside `generate` of transformers and beside what the memory's bandwidth allows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from app.bench.statistic import summary, timed
from models.engine.sampling import Sampling
from models.model import Model

PROMPT = "Once upon a time, in a land far away, there was a"
BATCHES = (1, 2, 4, 8, 16)


def bandwidth(mebibytes: int = 512, repeats: int = 9) -> float:
    """Bytes a second that a copy of a large tensor moves, reads and writes counted."""
    source = torch.ones(mebibytes << 18)
    target = torch.empty_like(source)
    return 2 * (mebibytes << 20) / statistics.median(timed(lambda: target.copy_(source), repeats))


def decode(model: Model, *, tokens: int = 48, repeats: int = 9, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Figures of one prompt of twelve tokens; ours and transformers' alternate, so that both meet the same machine.

    Args:
        tokens: generated after the prompt, without an end.
        repeats: of each pair.
    """
    decoder = model.decoder
    ends, decoder.end_ids = decoder.end_ids, frozenset()
    try:
        return _decode(model, tokens, repeats, tick)
    finally:
        decoder.end_ids = ends


def _decode(model: Model, tokens: int, repeats: int, tick: Callable[[], None]) -> dict[str, Any]:
    decoder = model.decoder
    prompt, sampling = decoder.tokens(PROMPT), Sampling(tokens)
    ids = torch.tensor([prompt], device=decoder.device)
    options: Any = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    prefix, _ = model.conditioning(model.encode_fact("The CEO of Acme Rockets is", "Wile E. Coyote")[1])

    def reference() -> None:
        with torch.inference_mode():
            decoder.model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    def ours(batch: int = 1, told: bool = False) -> list[Any]:
        return decoder.generate([prompt] * batch, [prefix if told else None] * batch, [sampling] * batch)

    for warm_up in (reference, ours, lambda: ours(told=True)):
        warm_up()
    pairs: dict[str, list[float]] = {"transformers": [], "larimar": [], "larimar, memory used": []}
    first: dict[str, list[float]] = {"plain": [], "memory used": []}
    for _ in range(repeats):
        pairs["transformers"] += timed(reference, 1, 0)
        for name, told in (("larimar", False), ("larimar, memory used", True)):
            made: list[Any] = []
            pairs[name] += timed(lambda told=told, made=made: made.extend(ours(told=told)), 1, 0)  # type: ignore[misc]  # defaults bind
            first["memory used" if told else "plain"].append(made[0].first_token_s)
        tick()
    sizes = {batch: list[float]() for batch in BATCHES}
    for _ in range(repeats):
        for batch, seconds in sizes.items():
            seconds += timed(lambda batch=batch: ours(batch), 1, 0)  # type: ignore[misc]  # as above
        tick()
    weights = sum(p.numel() * p.element_size() for p in decoder.model.parameters())
    moved = bandwidth()
    middle = {name: statistics.median(seconds) for name, seconds in pairs.items()}
    per_token = {name: 1e3 * (middle[f"larimar{also}"] - statistics.median(first[name])) / (tokens - 1) for name, also in _NAMES}
    throughput = {batch: batch * tokens / statistics.median(seconds) for batch, seconds in sizes.items()}
    return {
        "decoder": decoder.name,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "prompt_tokens": len(prompt),
        "prefix_tokens": len(prefix) if prefix is not None else 0,
        "new_tokens": tokens,
        "whole_text": {name: summary(seconds) for name, seconds in pairs.items()},
        "times_faster_than_transformers": statistics.median(
            theirs / ours for theirs, ours in zip(pairs["transformers"], pairs["larimar"], strict=True)
        ),
        "first_token": {name: summary(seconds) for name, seconds in first.items()},
        "ms_per_next_token": per_token,
        "memory_cost_per_token": per_token["memory used"] / per_token["plain"] - 1,
        "memory_cost_of_first_token": statistics.median(first["memory used"]) / statistics.median(first["plain"]) - 1,
        "tokens_per_second": throughput,
        "batch_8_over_sequential": statistics.median(
            8 * one / eight for one, eight in zip(sizes[1], sizes[8], strict=True)
        ),
        "weights_mib": weights / 2**20,
        "copy_gb_per_second": moved / 1e9,
        "tokens_per_second_at_bandwidth": moved / weights,
        "share_of_bandwidth": weights / moved / (per_token["plain"] / 1e3),
    }


_NAMES = (("plain", ""), ("memory used", ", memory used"))
