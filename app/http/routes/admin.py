"""Administration: keys and the audit log. It needs a key with the scope `admin`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import limits
from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from app.access.api_keys import ApiKey, Scope
from app.access.request_context import Action
from app.http.dependencies import Admin, Guarding
from app.http.routes.facts import REFUSED
from app.http.schemas import TTL, Body, Problem

router = APIRouter(prefix="/admin", tags=["admin"], responses=REFUSED)
GONE: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


def _limit(text: str) -> str:
    if text:
        limits.parse(text)
    return text


Limit = Annotated[str, StringConstraints(max_length=64), AfterValidator(_limit)]


class KeyIn(Body):
    tenant: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    scopes: list[Scope] = Field(["read", "write"], min_length=1, max_length=3)
    name: str = Field("", max_length=200, description="for people")
    expires_in_s: TTL | None = None
    requests: Limit = Field("", examples=["600/minute"])
    tokens: Limit = Field("", examples=["20000/minute"])
    facts: Limit = Field("", examples=["1000/day"])


class KeyOut(BaseModel):
    """A key's record; the key itself is told once, when it is made."""

    id: str
    tenant: str
    scopes: list[Scope]
    name: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    requests: str
    tokens: str
    facts: str


class NewKey(KeyOut):
    key: str = Field(description="shown this once")


class KeyList(BaseModel):
    keys: list[KeyOut]


class RotateIn(Body):
    overlap_s: float = Field(3600.0, ge=0, le=31_536_000, description="how long the old key still works")


class AuditEntry(BaseModel):
    id: str
    at: float
    key: str
    tenant: str
    action: Action
    fact: str
    request_id: str


class AuditPage(BaseModel):
    entries: list[AuditEntry]
    next_cursor: str | None


def _out(key: ApiKey) -> KeyOut:
    return KeyOut.model_validate(key, from_attributes=True)


def _new(secret: str, key: ApiKey) -> NewKey:
    return NewKey(key=secret, **_out(key).model_dump())


@router.post("/keys", status_code=201)
async def create_key(body: KeyIn, access: Guarding, _: Admin) -> NewKey:
    """Make a key. This answer is the only one that holds it."""
    expires_at = None if body.expires_in_s is None else time.time() + body.expires_in_s
    granted = {"requests": body.requests, "tokens": body.tokens, "facts": body.facts}
    made = await access.keys.create(body.tenant, body.scopes, name=body.name, expires_at=expires_at, **granted)
    return _new(*made)


@router.get("/keys")
async def list_keys(access: Guarding, _: Admin) -> KeyList:
    """Every key's record, oldest first."""
    return KeyList(keys=[_out(key) for key in await access.keys.list()])


@router.delete("/keys/{key_id}", responses=GONE)
async def revoke_key(key_id: str, access: Guarding, _: Admin) -> KeyOut:
    """Refuse a key from now on, on every replica."""
    return _out(await access.keys.revoke(key_id))


@router.post("/keys/{key_id}/rotate", status_code=201, responses=GONE)
async def rotate_key(key_id: str, body: RotateIn, access: Guarding, _: Admin) -> NewKey:
    """Make a key with the same grants; the old one ends after the overlap."""
    return _new(*await access.keys.rotate(key_id, body.overlap_s))


@router.get("/audit")
async def audit(
    access: Guarding,
    _: Admin,
    cursor: Annotated[str, Query(pattern=r"^([0-9]{1,20}-[0-9]{1,20})?$")] = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> AuditPage:
    """Who wrote, forgot or read which fact and when, oldest first. No text."""
    found = await access.audit.export(cursor, limit)
    entries = [AuditEntry.model_validate({"id": entry_id, **vars(entry)}) for entry_id, entry in found]
    return AuditPage(entries=entries, next_cursor=entries[-1].id if len(entries) == limit else None)
