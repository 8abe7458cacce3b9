"""What the sentence encoder's parts are trained with: the public sets, the written wordings, the frozen encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.serve import settings_or_exit
from app.cli.train import console

if TYPE_CHECKING:
    from models.training.corpus import Corpus
    from models.training.wordings import Kind


@dataclass(frozen=True, eq=False)
class Lesson:
    """Attributes: taught, held_out: kinds that are trained on, and those that tell how well."""

    corpus: Corpus
    taught: Sequence[Kind]
    held_out: Sequence[Kind]
    trunk: Any
    tokenizer: Any
    fingerprint: str
    started: float

    @classmethod
    def prepare(cls, data: Path) -> Lesson:
        """Raises ModelError."""
        from models import weights
        from models.encoder import read
        from models.model import hush
        from models.model_files import ENCODER
        from models.training.corpus import Corpus
        from models.training.wordings import HELD_OUT, kinds

        corpus, known = Corpus.read(data), kinds()
        found = weights.locate(ENCODER, settings_or_exit().weights_dir, console.print)
        hush()
        return cls(corpus, known[:-HELD_OUT], known[-HELD_OUT:], *read(found.folder), found.fingerprint, time.perf_counter())

    def about(self, schedule: Any, **figures: Any) -> dict[str, Any]:
        """What the trained file says of itself."""
        from models.model_files import ENCODER
        from models.training.wordings import digest

        return {
            "encoder": ENCODER,
            "encoder_fingerprint": self.fingerprint,
            "data": self.corpus.hashes | {"wordings.jsonl": digest()},
            "schedule": asdict(schedule),
            "train_seconds": round(time.perf_counter() - self.started),
            **figures,
        }
