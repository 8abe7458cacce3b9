"""Moving a tenant: its facts as JSON lines, and back."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from app.access.request_context import note
from app.http.fact_schemas import Exported, ExportHead, FactImport, ImportIn, ImportOutcome
from app.http.ndjson import line_of
from app.http.problems import explained
from app.service import Service, fact_of
from app.tenants.tenant import Committed
from memory.errors import BadKey
from memory.fact import Fact
from memory.packed_fact import tensor
from memory.store.recovery import Salvaged
from memory.view import View, rest
from models.model import EncodedFact

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
    if not codes:
        return line
    tensors = {"key": fact.key, "code": fact.code} | ({} if fact.statement is None else {"statement": fact.statement})
    return line.model_copy(update={name: _encoded(values) for name, values in tensors.items()})


async def imported(service: Service, tenant: str, body: ImportIn) -> list[ImportOutcome]:
    """Write the facts of an export; those without codes of this model are encoded first. Raises QueueFull, StoreUnavailable."""
    takes_codes = body.fingerprint == service.model.fingerprint
    coded: list[EncodedFact | Exception | None] = [_decoded(line) if takes_codes else None for line in body.facts]
    bare = [place for place, code in enumerate(coded) if code is None]
    encoded = await service.encode_many([(body.facts[place].prompt, body.facts[place].target) for place in bare])
    for place, code in zip(bare, encoded, strict=True):
        coded[place] = code
    rows = [_fact(line, code) for line, code in zip(body.facts, coded, strict=True)]
    results = iter(await service.tenants.write_many(tenant, [row for row in rows if isinstance(row, Fact)]))
    outcomes = [next(results) if isinstance(row, Fact) else row for row in rows]
    for outcome in outcomes:
        if isinstance(outcome, Committed) and outcome.change.fact is not None:
            note("wrote", [outcome.change.fact.id])
            note("superseded", outcome.change.replaced)
    return [_outcome(line.id, outcome) for line, outcome in zip(body.facts, outcomes, strict=True)]


def _fact(line: FactImport, code: EncodedFact | Exception | None) -> Fact | Exception:
    if not isinstance(code, EncodedFact):
        assert code is not None
        return code
    created_at = time.time() if line.created_at is None else line.created_at
    return fact_of(code, line.id, line.prompt, line.target, created_at, line.metadata, line.expires_at)


def _outcome(fact_id: str, outcome: Committed | Exception) -> ImportOutcome:
    """Raises what is not the fact's own fault."""
    if isinstance(outcome, Committed):
        return ImportOutcome(id=fact_id, version=outcome.change.version)
    problem, detail = explained(outcome)
    if problem.status in (429, 503):
        raise outcome
    return ImportOutcome(id=fact_id, error=f"{problem.code}: {detail}")


def _encoded(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _decoded(line: FactImport) -> EncodedFact | BadKey | None:
    """Its keys and code; None if it has none."""
    if line.key is None or line.code is None:
        return None
    try:
        key, code = (tensor(base64.b64decode(values, validate=True)) for values in (line.key, line.code))
        return EncodedFact(key, code, None if line.statement is None else tensor(base64.b64decode(line.statement, validate=True)))
    except (binascii.Error, ValueError):
        return BadKey("a key or code is no base64 of float32 values")
