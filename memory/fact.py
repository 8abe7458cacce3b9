"""A fact: prompt and target as a user taught them, with key and code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

Scalar = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Fact:
    """One prompt and its target.

    Attributes:
        key: (D,) float32 unit address key of the prompt, on the CPU.
        code: (W,) float32 value code of the target, on the CPU.
        created_at: seconds since the epoch.
        version: log position that wrote it; 0 before it is written.
        expires_at: seconds since the epoch; None for never.
        until: log position at which a newer fact replaced it and it became history; 0 while it is current.
        answer: digest of the Idempotency-Key it was taught with; empty without one.
        statement: (S,) float32 unit key of the whole fact, prompt and target, on the CPU; None for a fact of an earlier version.
    """

    id: str
    prompt: str
    target: str
    key: Tensor
    code: Tensor
    created_at: float
    metadata: Mapping[str, Scalar]
    version: int = 0
    expires_at: float | None = None
    until: int = 0
    answer: str = ""
    statement: Tensor | None = None


def is_current(fact: Fact) -> bool:
    """Whether no newer fact has replaced it."""
    return not fact.until


def was_there(fact: Fact, version: int) -> bool:
    """Whether it was current at a version."""
    return fact.version <= version and (not fact.until or fact.until > version)


def held_bytes(fact: Fact) -> int:
    """About how many bytes a fact and its index entries take in memory, without its row of a page."""
    keys = len(fact.key) + (0 if fact.statement is None else len(fact.statement))
    return 9 * keys + 4 * len(fact.code) + len(fact.prompt) + len(fact.target) + 1500
