"""Moving a tenant: its facts as JSON lines, and back."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from app.errors import describe
from app.exchange import note
from app.fact_schemas import Exported, ExportHead, FactImport, ImportIn, ImportOutcome
from app.lines import line_of
from app.service import Service
from memory.errors import BadKey
from memory.fact import Fact
from memory.record import tensor
from memory.recovery import Salvaged
from memory.view import View, rest

PART = 32  # facts of an export that are written at once: a millisecond or two


def exported(view: View, tenant: str, fingerprint: str, *, codes: bool) -> Iterator[str]:
    """Lines of JSON, some at a time: a head, then the facts in the order of their versions."""
    head = ExportHead(tenant=tenant, version=view.version, fingerprint=fingerprint, facts=view.current)
    yield line_of(head) + "\n"
    facts = iter(sorted(view.facts(at=view.version), key=lambda fact: fact.version))
    while True:
        began = time.thread_time()
        if not (part := "".join(line_of(_line(fact, codes)) + "\n" for fact in islice(facts, PART))):
            return
        rest(began)
        yield part


def saved(salvaged: Salvaged) -> Iterator[str]:
    """What could be saved of a damaged memory, as lines of an export: `larimar facts import` teaches them again."""
    for fact in sorted(salvaged.facts, key=lambda fact: fact.version):
        yield line_of(_line(fact, codes=False))


def _line(fact: Fact, codes: bool) -> Exported:
    line = Exported(
        id=fact.id,
        prompt=fact.prompt,
        target=fact.target,
        metadata=dict(fact.metadata),
        created_at=fact.created_at,
        version=fact.version,
        expires_at=fact.expires_at,
    )
    return line.model_copy(update={"key": _encoded(fact.key), "code": _encoded(fact.code)}) if codes else line


async def imported(service: Service, tenant: str, body: ImportIn) -> list[ImportOutcome]:
    """Write the facts of an export; those without codes of this model are encoded first. Raises QueueFull, StoreUnavailable."""
    takes_codes = body.fingerprint == service.model.fingerprint
    facts: list[Fact] = []
    outcomes: dict[int, ImportOutcome] = {}
    places: list[int] = []
    for place, line in enumerate(body.facts):
        try:
            facts.append(await _fact(service, line, takes_codes))
            places.append(place)
        except Exception as error:
            outcomes[place] = _refused(line.id, error)
    committed = await service.tenants.write_many(tenant, facts)
    for place, fact, outcome in zip(places, facts, committed, strict=True):
        if isinstance(outcome, Exception):
            outcomes[place] = _refused(fact.id, outcome)
        else:
            note("wrote", [fact.id])
            note("superseded", outcome.change.replaced)
            outcomes[place] = ImportOutcome(id=fact.id, version=outcome.change.version)
    return [outcomes[place] for place in sorted(outcomes)]


async def _fact(service: Service, line: FactImport, takes_codes: bool) -> Fact:
    if takes_codes and line.key is not None and line.code is not None:
        key, code = _decoded(line.key), _decoded(line.code)
    else:
        key, code = await service.encode(line.prompt, line.target)
    created_at = time.time() if line.created_at is None else line.created_at
    return Fact(line.id, line.prompt, line.target, key, code, created_at, dict(line.metadata), expires_at=line.expires_at)


def _refused(fact_id: str, error: Exception) -> ImportOutcome:
    """Raises what is not the fact's own fault."""
    problem = describe(error)
    if (problem.status >= 500 and problem.status != 507) or problem.status == 429:
        raise error
    return ImportOutcome(id=fact_id, error=f"{problem.code}: {problem.detail or error}")


def _encoded(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _decoded(text: str) -> Tensor:
    try:
        return tensor(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise BadKey("a key or code is no base64 of float32 values") from error
