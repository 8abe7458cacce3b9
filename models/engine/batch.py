"""Continuous batching: sequences join a running batch at the next token and leave it when they end.

Prompts are read one by one, each alone; then every sequence takes one token a step. So what a sequence says depends on
its own prompt, prefix and sampling only, whoever shares its steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.engine.sequence import TextSequence
from models.engine.trunk import Trunk

CHUNK = 256  # prompt tokens read in one step: what the next token of the others waits for


class Batch:
    """Sequences that are decoded together.

    Args:
        trunk: the decoder's layers.
        embed: token ids to (n, d) embeddings.
    """

    def __init__(self, trunk: Trunk, embed: Callable[[Any], Tensor]) -> None:
        self._trunk, self._embed = trunk, embed
        self._reading: deque[TextSequence] = deque()
        self._speaking: list[TextSequence] = []

    def __len__(self) -> int:
        return len(self._reading) + len(self._speaking)

    @property
    def tokens(self) -> int:
        """Cache slots taken by all sequences, in tokens."""
        return sum(sequence.capacity for sequence in (*self._reading, *self._speaking))

    def add(self, sequence: TextSequence) -> None:
        """Join at the next step."""
        self._reading.append(sequence)

    def remove(self, sequence: TextSequence) -> None:
        """Leave before the next step; nothing happens if it has left already."""
        if sequence in self._speaking:
            self._speaking.remove(sequence)
        elif sequence in self._reading:
            self._reading.remove(sequence)
        sequence.cache = None

    @torch.inference_mode()
    def step(self) -> list[TextSequence]:
        """One token for every sequence whose prompt is read; those that got one, and those that failed. Finished ones have left.

        Where something fails that concerns one sequence alone, it leaves with its `error` and the others go on.
        """
        speaking = list(self._speaking)
        outputs = []
        if speaking:
            last = [sequence.ids[-1] for sequence in speaking]
            outputs.append(self._trunk.step(self._embed(last), [sequence.cache for sequence in speaking]))
        read, failed = self._read()
        for sequence, output in read:
            speaking.append(sequence)
            outputs.append(output)
        if not speaking:
            return failed
        logits = self._trunk.logits(torch.cat(outputs))  # (B, V)
        for sequence, row, greedy in zip(speaking, logits, logits.argmax(-1).tolist(), strict=True):
            try:
                sequence.extend(row, greedy)
            except Exception as error:
                sequence.error = error
            if sequence.finish or sequence.error:
                sequence.cache = None
        # A sequence whose memory has said all is read again without it.
        self._reading.extend(sequence for sequence in speaking if len(sequence.unread))
        speaking = [sequence for sequence in speaking if not len(sequence.unread)]
        self._speaking = [sequence for sequence in speaking if not (sequence.finish or sequence.error)]
        return [*speaking, *failed]

    def _read(self) -> tuple[list[tuple[TextSequence, Tensor]], list[TextSequence]]:
        """Read up to `CHUNK` prompt tokens; the sequences whose prompts are now read, with their outputs (1, d); and those that failed."""
        done: list[tuple[TextSequence, Tensor]] = []
        failed: list[TextSequence] = []
        room = CHUNK
        while self._reading and room > 0:
            sequence = self._reading[0]
            # Chunks always end at multiples of CHUNK: where they fall must not depend on the other prompts of this step.
            chunk, sequence.unread = sequence.unread[:CHUNK], sequence.unread[CHUNK:]
            room -= len(chunk)
            try:
                if sequence.cache is None:
                    sequence.cache = self._trunk.cache(sequence.capacity, sequence.ahead and sequence.ahead.cache)
                output = self._trunk.extend(chunk, sequence.cache)[-1:]
            except Exception as error:  # such as no memory for its cache
                sequence.error, sequence.cache = error, None
                failed.append(self._reading.popleft())
                continue
            if not len(sequence.unread):
                done.append((self._reading.popleft(), output))
        return done, failed
