"""The files that a model is made of, found and checked against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models import adapter as adapters
from models import weights
from models.adapter import Adapter
from models.lora import LowRank
from models.scope.judge import JudgeUpdate
from models.weights import Weights

ENCODER = "minilm-l6"


@dataclass(frozen=True)
class Parts:
    """Attributes: update: of the encoder; judge: what was trained for it."""

    decoder: Weights
    encoder: Weights
    adapter: Adapter
    update: LowRank
    judge: JudgeUpdate

    @classmethod
    def find(
        cls, decoder: str, adapter: Path | None, update: Path | None, judge: Path | None, cache: Path, say: Callable[[str], None]
    ) -> Parts:
        """Locate all parts.

        Args:
            decoder: registered name, folder or hub name.
            adapter, update, judge: files; None is the shipped one.
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
        judging = JudgeUpdate.load(judge or adapters.shipped(f"{ENCODER}-judge"))
        judging.check(encoder_weights.fingerprint)
        return cls(decoder_weights, encoder_weights, fitted, refined, judging)
