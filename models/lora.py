"""Low-rank updates of a frozen encoder (LoRA, arXiv 2106.09685): W + B A for each linear layer, merged before use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import archive
from models.errors import AdapterCorrupt, AdapterMismatch

FORMAT = "larimar-lora/1"


@dataclass(frozen=True)
class LowRank:
    """The update of an encoder.

    Attributes:
        factors: layer name to A (r, in) and B (out, r), float32.
        about: encoder fingerprint, training data hashes, schedule, figures.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    about: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def merge(self, trunk: nn.Module) -> None:
        """Add the update to a trunk's weights, in place."""
        for name, (a, b) in self.factors.items():
            weight = trunk.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight += (b @ a).to(weight)

    def check(self, encoder_fingerprint: str) -> None:
        """Raises AdapterMismatch if it was trained for another encoder."""
        if (got := self.about.get("encoder_fingerprint", "")) != encoder_fingerprint:
            raise AdapterMismatch("encoder", got[:12], encoder_fingerprint[:12], "larimar train-encoder --data DIR")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the factors."""
        digest = hashlib.sha256()
        for name, pair in sorted(self.factors.items()):
            digest.update(name.encode())
            for factor in pair:
                digest.update(f"{tuple(factor.shape)}".encode() + factor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        tensors = {f"{name}.{part}": factor for name, pair in self.factors.items() for part, factor in zip("ab", pair, strict=True)}
        archive.write(path, tensors, {"format": FORMAT, "about": json.dumps(self.about), "sha256": self.fingerprint})

    @classmethod
    def load(cls, path: Path) -> LowRank:
        """Read an update. Raises AdapterCorrupt."""
        tensors, metadata = archive.read(path, FORMAT)
        names = sorted({name.rpartition(".")[0] for name in tensors})
        try:
            update = cls({name: (tensors[f"{name}.a"], tensors[f"{name}.b"]) for name in names}, json.loads(metadata["about"]))
        except (KeyError, ValueError) as error:
            raise AdapterCorrupt(f"{path} lacks a part of an update: {error}") from error
        if metadata.get("sha256") != update.fingerprint:
            raise AdapterCorrupt(f"{path} is damaged: its checksum differs")
        return update


class LowRankLinear(nn.Module):
    """A frozen linear layer with a trainable update; it starts at zero.

    Args:
        rank: r.
        generator: draws A.
    """

    def __init__(self, frozen: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.frozen, self.off = frozen, False
        self.a = nn.Parameter(torch.randn(rank, frozen.in_features, generator=generator) / frozen.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        out: Tensor = self.frozen(x)
        return out if self.off else out + functional.linear(functional.linear(x, self.a), self.b)


def attach(trunk: nn.Module, rank: int, seed: int) -> dict[str, LowRankLinear]:
    """Put an update beside every linear layer of a trunk's blocks; what is trained, by layer name."""
    generator = torch.Generator().manual_seed(seed)
    added: dict[str, LowRankLinear] = {}
    for name, module in [*trunk.named_modules()]:
        if isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            added[name] = LowRankLinear(module, rank, generator)
            setattr(trunk.get_submodule(parent), child, added[name])
    return added


@contextmanager
def switched_off(added: Mapping[str, LowRankLinear]) -> Iterator[None]:
    """The trunk as it was."""
    for layer in added.values():
        layer.off = True
    try:
        yield
    finally:
        for layer in added.values():
            layer.off = False
