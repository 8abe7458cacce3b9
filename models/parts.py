"""The files that a model is made of, found and checked against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models import adapter as adapters
from models import weights
from models.adapter import Adapter
from models.lora import LowRank
from models.weights import Weights

ENCODER = "minilm-l6"


@dataclass(frozen=True)
class Parts:
    """Attributes: update: of the encoder."""

    decoder: Weights
    encoder: Weights
    adapter: Adapter
    update: LowRank

    @classmethod
    def find(cls, decoder: str, adapter: Path | None, update: Path | None, cache: Path, say: Callable[[str], None]) -> Parts:
        """Locate all parts.

        Args:
            decoder: registered name, folder or hub name.
            adapter, update: files; None is the shipped one.
            cache: folder of converted weights.
            say: told about long steps.

        Raises:
            WeightsMissing, AdapterMissing, AdapterCorrupt, AdapterMismatch
        """
        fitted = Adapter.load(adapter or adapters.shipped(decoder), decoder)
        encoder_weights, decoder_weights = (weights.locate(name, cache, say) for name in (ENCODER, decoder))
        fitted.check(
            decoder=decoder,
            decoder_fingerprint=decoder_weights.fingerprint,
            encoder_fingerprint=encoder_weights.fingerprint,
        )
        refined = LowRank.load(update or adapters.shipped(ENCODER))
        refined.check(encoder_weights.fingerprint)
        return cls(decoder_weights, encoder_weights, fitted, refined)
