"""The files that a model is made of, found and checked against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from models import adapter as adapters
from models import weights
from models.adapter import Adapter
from models.encoder import Encoder
from models.lora import LowRank
from models.scope.cross_encoder import CrossEncoder
from models.scope.decision import Calibration
from models.scope.reader import PairReader, Reader, ReaderUpdate
from models.weights import Weights

ENCODER = "minilm-l6"
READER = "mpnet-base"
CALIBRATION = "larimar-calibration.json"  # in a folder with a cross-encoder


def calibration_file(reader: str) -> Path:
    """Where the calibration of a reader lies: beside its update, or in its folder."""
    return adapters.shipped(f"{READER}-reader").with_suffix(".json") if reader == READER else Path(reader) / CALIBRATION


def fetched(decoder: str, reader: str) -> list[str]:
    """Names of the weights that a server gets for itself; a folder with a cross-encoder is there already."""
    return [decoder, ENCODER, *([READER] if reader == READER else [])]


def is_calibrated(reader: str) -> bool:
    """Whether the calibration beside a reader is this reader's, by its files alone. Raises WeightsMissing, AdapterCorrupt, ValueError."""
    if reader == READER:
        return calibration_of(reader).fits(ReaderUpdate.load(adapters.shipped(f"{READER}-reader")).fingerprint)
    return calibration_of(reader).fits(CrossEncoder.checked(Path(reader)))


@dataclass(frozen=True)
class ScopeParts:
    """What decides whether a fact is asked for.

    Attributes:
        reader: reads a question beside a fact; calibration: what its log-odds mean.
        statements: the encoder of statement keys.
    """

    reader: PairReader
    calibration: Calibration
    statements: Encoder

    @property
    def calibrated(self) -> bool:
        return self.calibration.fits(self.reader.fingerprint)


@dataclass(frozen=True)
class Parts:
    """Attributes: update: of the encoder; reader: the weights, or a folder with a cross-encoder; None: there is none."""

    decoder: Weights
    encoder: Weights
    adapter: Adapter
    update: LowRank
    reader: Weights | Path | None

    @classmethod
    def find(cls, decoder: str, adapter: Path | None, update: Path | None, reader: str, cache: Path, say: Callable[[str], None]) -> Parts:
        """Locate all parts.

        Args:
            decoder: registered name, folder or hub name.
            adapter, update: files; None is the shipped one.
            reader: a registered name that a reader is shipped for, or a folder with a cross-encoder; empty for none.
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
        found: Weights | Path | None = None
        if reader:
            found = weights.locate(reader, cache, say) if reader == READER else Path(reader)
        return cls(decoder_weights, encoder_weights, fitted, refined, found)

    def scope(self, device: torch.device) -> ScopeParts | None:
        """Load what decides whether a fact is asked for. Raises AdapterCorrupt, AdapterMismatch, WeightsMissing."""
        if self.reader is None:
            return None
        update = LowRank.load(adapters.shipped(f"{ENCODER}-statements"))
        update.check(self.encoder.fingerprint)
        of = self.encoder
        statements = Encoder.load(of.folder, device, idf=self.adapter.idf, fingerprint=of.fingerprint, update=update)
        if isinstance(self.reader, Path):
            return ScopeParts(CrossEncoder.load(self.reader, device), calibration_of(str(self.reader)), statements)
        trained = ReaderUpdate.load(adapters.shipped(f"{READER}-reader"))
        trained.check(self.reader.fingerprint)
        return ScopeParts(Reader(self.reader.folder, trained), calibration_of(READER), statements)


def calibration_of(reader: str) -> Calibration:
    """As fitted, or none: then log-odds are taken as they are. Raises ValueError for another format."""
    path = calibration_file(reader)
    return Calibration.load(path) if path.is_file() else Calibration()
