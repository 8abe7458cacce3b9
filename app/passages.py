"""A text as facts: each sentence is one, found by what it says and answering by being said."""

from __future__ import annotations

from collections.abc import Sequence

from ulid import ULID

from app.schemas import FactIn, TextIn
from memory.fact import normalise
from models.sentences import standing_alone

GROUP = "text"  # the metadata that tells which text a fact is of


def facts_of(body: TextIn) -> list[FactIn]:
    """The facts of a text, one for each sentence, with ids `ID.1`, `ID.2`, … where the text has one."""
    group = body.id or str(ULID())
    return [
        FactIn(
            prompt=prompt,
            target=sentence,
            id=f"{body.id}.{number}" if body.id else None,
            metadata={GROUP: group} | body.metadata,
            ttl_s=body.ttl_s,
            on_conflict=body.on_conflict,
        )
        for number, (prompt, sentence) in enumerate(_distinct(standing_alone(body.text)), 1)
    ]


def _distinct(sentences: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each prompt once: a second one would take the first one's place."""
    return list({normalise(prompt): (prompt, sentence) for prompt, sentence in sentences}.values())
