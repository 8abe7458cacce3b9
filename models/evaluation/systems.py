"""The systems that are compared: each turns a prompt into what the decoder is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from models.evaluation.records import Record


@dataclass(frozen=True, eq=False)
class Ask:
    """A prompt as the decoder gets it, with the memory's readouts (W,): none for the plain model."""

    prompt: str
    readouts: tuple[Tensor, ...] = ()


class System(Protocol):
    """One way to make a frozen decoder know a record's fact."""

    def ask(self, record: Record, prompts: Sequence[str]) -> list[Ask]:
        """What the decoder gets for each prompt after `record` was taught."""
        ...


class Plain:
    """The decoder as it is."""

    def ask(self, record: Record, prompts: Sequence[str]) -> list[Ask]:  # noqa: ARG002  (knows nothing of the record)
        return [Ask(prompt) for prompt in prompts]


class FactInPrompt:
    """The record's own fact before every prompt: retrieval that is always right and knows no scope."""

    def ask(self, record: Record, prompts: Sequence[str]) -> list[Ask]:
        return [Ask(in_prompt([(record.prompt, record.target)], prompt)) for prompt in prompts]


def in_prompt(facts: Sequence[tuple[str, str]], prompt: str) -> str:
    """Facts (prompt, target) before a prompt, in the form that serves a small decoder best: statements as sentences on lines
    of their own, questions as question and answer. Without facts the prompt stays as it is."""
    if facts and prompt.rstrip().endswith("?"):
        return "".join(f"Question: {asked}\nAnswer: {target}\n\n" for asked, target in facts) + f"Question: {prompt}\nAnswer:"
    return "\n".join([*(f"{asked} {target}." for asked, target in facts), prompt])
