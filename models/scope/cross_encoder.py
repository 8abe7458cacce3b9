"""A reader of somebody else's: any folder with a cross-encoder of sentence-transformers (Reimers and Gurevych 2019, arXiv 1908.10084).

Its first logit, for (question, fact), is taken for the log-odds that the fact answers; `larimar calibrate` says what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.errors import WeightsMissing
from models.scope.reader import Judgement, Pair
from models.weights import fingerprint

MAX_PIECES = 256  # of a pair; longer ones are cut


class CrossEncoder:
    """
    Args:
        model: transformers' sequence classifier, in eval mode.
        tokenizer: its tokenizer.
        fingerprint: SHA-256 of its weights.
    """

    def __init__(self, model: Any, tokenizer: Any, fingerprint: str) -> None:
        self.model, self.tokenizer, self.fingerprint = model.requires_grad_(False), tokenizer, fingerprint

    @staticmethod
    def checked(folder: Path) -> str:
        """The fingerprint of a folder's weights. Raises WeightsMissing where there are none."""
        if not list(folder.glob("*.safetensors")):
            raise WeightsMissing(f"LARIMAR_READER={folder} is no registered reader and no folder with a cross-encoder's safetensors")
        return fingerprint(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> CrossEncoder:
        """Raises WeightsMissing where there is no folder, or no such model in it."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        of = cls.checked(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        return cls(model.eval().to(device), AutoTokenizer.from_pretrained(folder, local_files_only=True), of)

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """One pair after the other, so that a pair's bits do not depend on its company."""
        found = []
        for pair in pairs:
            question = f"{pair.before} {pair.question}".strip()
            read = self.tokenizer(question, pair.fact, truncation=True, max_length=MAX_PIECES, return_tensors="pt")
            found.append(Judgement(float(self.model(**read.to(self.model.device)).logits[0, 0])))
        return found
