"""Puts questions to the decoder and scores the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from models.engine.decoder import Forced, Sampling
from models.evaluation.systems import Ask
from models.model import Model

T = TypeVar("T")
BATCH = 32


class Examiner:
    """Forces and generates in batches of similar length. The decoder is a function of what it is given, so what it was
    asked before is not asked again.

    Args:
        model: whose decoder answers.
        capacity: how many answers are remembered at most.
    """

    def __init__(self, model: Model, capacity: int = 20_000) -> None:
        self.model, self.capacity = model, capacity
        self._forced: dict[tuple[str, bytes, str], Forced] = {}
        self._said: dict[tuple[str, bytes, int], str] = {}

    def force(self, asks: Sequence[Ask], targets: Sequence[str]) -> list[Forced]:
        """Each target forced after its ask."""
        keys = [(ask.prompt, _bytes(ask), target) for ask, target in zip(asks, targets, strict=True)]
        todo = {key: (ask, target) for key, ask, target in zip(keys, asks, targets, strict=True) if key not in self._forced}
        for chunk in _chunks(list(todo.items()), lambda item: len(item[0][0])):
            asked, wanted = [ask for _, (ask, _) in chunk], [target for _, (_, target) in chunk]
            found = self.model.force_batch([a.prompt for a in asked], wanted, [a.readouts for a in asked])
            self._forced.update({key: f for (key, _), f in zip(chunk, found, strict=True)})
        answers = [self._forced[key] for key in keys]
        self._trim()
        return answers

    def say(self, asks: Sequence[Ask], max_new_tokens: int = 16) -> list[str]:
        """The greedy continuation of each ask."""
        keys = [(ask.prompt, _bytes(ask), max_new_tokens) for ask in asks]
        todo = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in self._said}
        for chunk in _chunks(list(todo.items()), lambda item: len(item[0][0])):
            sampling = Sampling(max_new_tokens=max_new_tokens)
            found = self.model.generate_batch([a.prompt for _, a in chunk], [a.readouts for _, a in chunk], sampling)
            self._said.update({key: g.text for (key, _), g in zip(chunk, found, strict=True)})
        answers = [self._said[key] for key in keys]
        self._trim()
        return answers

    def _trim(self) -> None:
        for memo in (self._forced, self._said):
            if len(memo) > self.capacity:
                memo.clear()


def _bytes(ask: Ask) -> bytes:
    return b"".join(readout.numpy().tobytes() for readout in ask.readouts)


def _chunks(items: list[T], length: Callable[[T], int]) -> list[list[T]]:
    """Items of similar length together, so that batches carry little padding."""
    ordered = sorted(items, key=length)
    return [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
