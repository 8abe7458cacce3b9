"""A fact: what a user taught, and how the memory holds it."""

from __future__ import annotations

import unicodedata
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
    """

    id: str
    prompt: str
    target: str
    key: Tensor
    code: Tensor
    created_at: float
    metadata: Mapping[str, Scalar]
    version: int = 0


def normalise(prompt: str) -> str:
    """The form under which two prompts are the same: NFKC, one space, no outer space, case folded."""
    return " ".join(unicodedata.normalize("NFKC", prompt).split()).casefold()
