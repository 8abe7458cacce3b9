"""Bodies of requests and responses about facts and tenants."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.http.schemas import TTL, Body, FactId, FactIn, FactOut, Metadata, Time

Tenant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class FactPatch(Body):
    """What is given replaces what there is; the prompt stays, since it is the fact's address."""

    target: str | None = Field(None, max_length=2000)
    metadata: Metadata | None = Field(None, max_length=32)
    ttl_s: TTL | None = Field(None, description="seconds until the fact is forgotten by itself; null takes a time to live off")


class Exported(FactOut):
    """A fact as it leaves the server; key and code (base64 of little-endian float32) spare the encoding elsewhere."""

    key: str | None = None
    code: str | None = None
    statement: str | None = None


class ExportHead(Body):
    """The first line of an export; a fact a line follows."""

    format: Literal["larimar-export/1"] = "larimar-export/1"
    tenant: str
    version: int
    fingerprint: str = Field(description="of the model that made the codes")
    facts: int


class FactImport(Body):
    """A line of an export. Its version and what it superseded are the old server's and not taken over."""

    id: FactId
    prompt: str = Field(max_length=4000)
    target: str = Field(max_length=2000)
    metadata: Metadata = Field(default_factory=dict, max_length=32)
    created_at: Time | None = None
    expires_at: Time | None = None
    version: int | None = None
    superseded_at: int | None = None
    key: str | None = Field(None, max_length=100_000)
    code: str | None = Field(None, max_length=100_000)
    statement: str | None = Field(None, max_length=100_000)


class FactLine(FactIn):
    """A fact of a file: a new one, or one of an export, which is taught anew and expires when it was to. What else an export says of it is
    the old server's and not taken over."""

    created_at: Time | None = None
    expires_at: Time | None = None
    version: int | None = None
    superseded_at: int | None = None
    key: str | None = None
    code: str | None = None
    statement: str | None = None

    @model_validator(mode="after")
    def _alive(self) -> FactLine:
        if self.expires_at is not None and self.expires_at <= time.time():
            raise PydanticCustomError("expired", "its time to live is over")
        return self

    def fact(self) -> FactIn:
        """It, as from now."""
        ttl_s = self.ttl_s if self.expires_at is None else max(self.expires_at - time.time(), 1e-3)
        return FactIn.model_construct(**{name: getattr(self, name) for name in FactIn.model_fields} | {"ttl_s": ttl_s})


class ImportIn(Body):
    fingerprint: str = Field("", description="of the export; where it is this server's, keys and codes are taken over")
    facts: list[FactImport] = Field(min_length=1, max_length=1000)


class ImportOutcome(Body):
    id: str
    version: int | None = None
    error: str | None = Field(None, description="why the fact was not taken")


class ImportOut(Body):
    imported: int
    outcomes: list[ImportOutcome]


class TenantStats(Body):
    tenant: str
    version: int
    facts: int
    history: int = Field(description="superseded facts that are kept")
    pages: int
    memory_bytes: int = Field(description="here, while it is loaded")
    store_bytes: int | None = Field(description="in the store; null where it cannot say")
    next_expiry: float | None
    max_facts: int | None
    max_bytes: int | None


class TenantErased(Body):
    tenant: str
    version: int = Field(description="versions go on from here; this and a count of snapshots are all that is left")
    facts: int = Field(description="whose data keys were destroyed, history included")
    erased_at: float


class ProbeIn(Body):
    """For a forgotten id, prompt and target must be given: the server does not know them any more."""

    prompt: Text | None = None
    target: Text | None = None
    paraphrases: list[Text] = Field(default_factory=list, max_length=16)
    max_new_tokens: int = Field(24, ge=1, le=128)


class Probed(Body):
    prompt: str
    with_memory: str
    without_memory: str
    comes_with_memory: bool
    comes_without_memory: bool


class ProbeOut(Body):
    id: str
    known: bool = Field(description="whether the memory holds the fact")
    target: str
    attack_success: float = Field(description="share of the prompts after which the target comes, with the memory")
    without_memory: float = Field(description="the same of the plain model")
    probes: list[Probed]
