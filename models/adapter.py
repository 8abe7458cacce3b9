"""The adapter: everything that was trained or fitted for one decoder, in one safetensors file with a metadata header."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from models import archive
from models.errors import AdapterCorrupt, AdapterMismatch, AdapterMissing
from models.prefix import Prefix

FORMAT = "larimar-adapter/1"
SHIPPED = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class Adapter:
    """Prefix, slot projection, inverse document frequencies, and where they come from.

    Attributes:
        mean (d,), projection (d, S − 1): of the slot code.
        idf: (V,) of the encoder's word pieces.
        about: decoder name and fingerprint, encoder fingerprint, training data hashes, schedule, figures.
    """

    prefix: Prefix
    mean: Tensor
    projection: Tensor
    idf: Tensor
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        tensors = {f"prefix.{k}": v for k, v in self.prefix.state_dict().items()}
        tensors |= {"code.mean": self.mean, "code.projection": self.projection, "encoder.idf": self.idf}
        about = json.dumps(self.about)
        archive.write(path, tensors, {"format": FORMAT, "about": about, "sha256": archive.digest(tensors, about)})

    @classmethod
    def load(cls, path: Path, decoder: str) -> Adapter:
        """Read an adapter.

        Raises:
            AdapterMissing, AdapterCorrupt
        """
        if not path.is_file():
            raise AdapterMissing(decoder, train_command(decoder))
        tensors, metadata = archive.read(path, FORMAT)
        about = metadata.get("about", "")
        if metadata.get("sha256", wanted := archive.digest(tensors, about)) != wanted:  # the first adapters carry no checksum
            raise AdapterCorrupt(f"{path} is damaged: its checksum differs")
        state = {k.removeprefix("prefix."): v for k, v in tensors.items() if k.startswith("prefix.")}
        try:
            prefix = Prefix(state["opening"], state["closing"], max_slots=len(state["position"]), hidden=len(state["rise.bias"]))
            prefix.load_state_dict(state)
            return cls(prefix.eval(), tensors["code.mean"], tensors["code.projection"], tensors["encoder.idf"], json.loads(about))
        except (KeyError, RuntimeError, ValueError) as error:
            raise AdapterCorrupt(f"{path} lacks a part of an adapter: {error}") from error

    def check(self, *, decoder: str, decoder_fingerprint: str, encoder_fingerprint: str) -> None:
        """Raises AdapterMismatch if it was trained for other weights."""
        for what, wanted in (("decoder", decoder_fingerprint), ("encoder", encoder_fingerprint)):
            if (got := self.about.get(f"{what}_fingerprint", "")) != wanted:
                raise AdapterMismatch(what, got[:12], wanted[:12], train_command(decoder))

    @property
    def fingerprint_parts(self) -> list[Tensor]:
        return [self.mean, self.projection, self.idf, *(v for _, v in sorted(self.prefix.state_dict().items()))]


def shipped(decoder: str) -> Path:
    """Where the adapter of a decoder lies in the package."""
    return SHIPPED / f"{Path(decoder).name.lower()}.safetensors"


def train_command(decoder: str) -> str:
    return f"larimar train --decoder {decoder} --data DIR --minutes 45"
