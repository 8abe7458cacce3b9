"""The judge: reads a question and a fact's prompt side by side and says whether they want the same answer.

A cross-encoder (Nogueira and Cho 2019, arXiv 1901.04085; the pooled pair as in Sentence-BERT, Reimers and Gurevych 2019): MiniLM with
an update of its own reads both texts as one pair, u and v are the means over each one's pieces, and a small head turns
(u · v, |u − v|) into log-odds. Keys compare two texts that were read apart; the judge sees which word stands in the place of
which. It costs a pass of the encoder for each pair, so scope asks it only where the keys leave doubt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import archive
from models.bert import BertTrunk
from models.encoder import read, unknown_words
from models.errors import AdapterCorrupt, AdapterMismatch
from models.lora import LowRank

FORMAT = "larimar-judge/1"
MAX_PIECES = 96  # of a pair; longer texts are cut
HIDDEN = 128
BATCH = 32
APART = -6.0  # log-odds, at most, of texts with unknown words of their own: to the trunk they are all one


@dataclass(frozen=True)
class JudgeUpdate:
    """What was trained for the judge.

    Attributes:
        low_rank: of the encoder's linear layers.
        own: parameter name to tensor: norms and the embeddings of first and second text, in place of the encoder's.
        head: the head's state.
        about: encoder fingerprint, training data hashes, schedule, figures.
    """

    low_rank: LowRank
    own: dict[str, Tensor]
    head: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        tensors = {f"own.{name}": tensor for name, tensor in self.own.items()} | {f"head.{n}": t for n, t in self.head.items()}
        for name, (a, b) in self.low_rank.factors.items():
            tensors |= {f"low.{name}.a": a, f"low.{name}.b": b}
        about = json.dumps(self.about)
        archive.write(path, tensors, {"format": FORMAT, "about": about, "sha256": archive.digest(tensors, about)})

    @classmethod
    def load(cls, path: Path) -> JudgeUpdate:
        """Read a file. Raises AdapterCorrupt."""
        tensors, header = archive.read(path, FORMAT)
        if header.get("sha256") != archive.digest(tensors, header.get("about", "")):
            raise AdapterCorrupt(f"{path} is damaged: its checksum differs")
        parts: dict[str, dict[str, Tensor]] = {"own": {}, "head": {}, "low": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        names = sorted({name.rpartition(".")[0] for name in parts["low"]})
        factors = {name: (parts["low"][f"{name}.a"], parts["low"][f"{name}.b"]) for name in names}
        return cls(LowRank(factors), parts["own"], parts["head"], json.loads(header["about"]))

    def check(self, encoder_fingerprint: str) -> None:
        """Raises AdapterMismatch if it was trained for another encoder."""
        if (got := self.about.get("encoder_fingerprint", "")) != encoder_fingerprint:
            raise AdapterMismatch("encoder", got[:12], encoder_fingerprint[:12], "larimar train-judge --data DIR")


def head_of(width: int) -> nn.Sequential:
    """(…, 2 d) to (…, 1) log-odds, untrained."""
    return nn.Sequential(nn.Linear(2 * width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))


def compared(first: Tensor, second: Tensor) -> Tensor:
    """Means of the two texts (n, d) each to what the head sees, (n, 2 d)."""
    return torch.cat([first * second, (first - second).abs()], 1)


class Judge:
    """Pairs of texts to log-odds.

    Args:
        trunk: a transformers encoder of its own, in eval mode; the update is merged into it.
        tokenizer: its tokenizer.
        update: what was trained.
    """

    def __init__(self, trunk: Any, tokenizer: Any, update: JudgeUpdate) -> None:
        update.low_rank.merge(trunk)
        trunk.load_state_dict(update.own, strict=False)
        self.trunk, self.tokenizer = trunk.requires_grad_(False), tokenizer
        self.head = head_of(int(trunk.config.hidden_size))
        self.head.load_state_dict(update.head)
        self.head.requires_grad_(False).to(trunk.device)
        self._max_pieces = min(MAX_PIECES, int(trunk.config.max_position_embeddings))
        self._packed = BertTrunk(trunk) if BertTrunk.fits(trunk) else None

    @classmethod
    def load(cls, folder: Path, device: torch.device, update: JudgeUpdate) -> Judge:
        """
        Args:
            folder: of the frozen encoder's safetensors and tokenizer files.
        """
        trunk, tokenizer = read(folder)
        return cls(trunk.to(device), tokenizer, update)

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The log-odds of each (fact's prompt, question) that both want the same answer."""
        return [odds for at in range(0, len(pairs), BATCH) for odds in self._odds(pairs[at : at + BATCH])]

    def _are_apart(self, pair: tuple[str, str], ids: Sequence[int]) -> bool:
        """Whether each text has a word, of those that the tokenizer has no pieces for, that the other has not; `ids`: of the pair."""
        if self.tokenizer.unk_token_id not in ids:
            return False
        ours, theirs = (unknown_words(self.tokenizer, text, self.tokenizer(text)["input_ids"]) for text in pair)
        return bool(ours - theirs and theirs - ours)

    def _odds(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        rows = self.tokenizer([one for one, _ in pairs], [other for _, other in pairs], truncation=True, max_length=self._max_pieces)
        ids, kinds = rows["input_ids"], rows["token_type_ids"]
        if self._packed is not None:
            outputs = self._packed.outputs(ids, kinds)
        else:
            padded = self.tokenizer.pad(rows, return_tensors="pt").to(self.trunk.device)
            outputs = [out[: len(row)] for out, row in zip(self.trunk(**padded).last_hidden_state, ids, strict=True)]
        seconds = [torch.tensor(kind, dtype=torch.bool, device=self.trunk.device) for kind in kinds]
        means = [(out[~second].mean(0), out[second].mean(0)) for out, second in zip(outputs, seconds, strict=True)]
        # One pair after the other: a row's bits must not depend on its company.
        found = [float(self.head(compared(first[None], second[None]))) for first, second in means]
        return [min(odds, APART) if self._are_apart(*row) else odds for odds, *row in zip(found, pairs, ids, strict=True)]
