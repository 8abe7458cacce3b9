"""A text as facts: each sentence is one, found by what it says and answering by being said."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from ulid import ULID

from app.http.schemas import GROUP, FactIn, TextIn
from memory.fact import Scalar
from memory.spelling import normalise
from models.scope.sentences import standing_alone


def facts_of(body: TextIn) -> list[FactIn | ValidationError]:
    """The facts of a text, one for each sentence, with ids `ID.1`, `ID.2`, … where the text has one; why a sentence cannot be one."""
    metadata: dict[str, Scalar] = {GROUP: body.id or str(ULID()), **body.metadata}
    shared = {"metadata": metadata, "ttl_s": body.ttl_s, "on_conflict": body.on_conflict}
    return [
        _fact(shared | {"prompt": prompt, "target": sentence, "id": f"{body.id}.{number}" if body.id else None})
        for number, (prompt, sentence) in enumerate(_distinct(standing_alone(body.text)), 1)
    ]


def _fact(fields: dict[str, object]) -> FactIn | ValidationError:
    try:
        return FactIn.model_validate(fields)
    except ValidationError as error:  # the sentence is too long
        return error


def _distinct(sentences: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each prompt once: a second one would take the first one's place."""
    return list({normalise(prompt): (prompt, sentence) for prompt, sentence in sentences}.values())
