"""Why a tenant's memory refuses: errors of the domain, which app/http/problems.py maps to answers."""

from __future__ import annotations


class PromptTaken(Exception):
    """A fact has this prompt already, and the request has `on_conflict: "error"`."""

    def __init__(self, fact_id: str) -> None:
        super().__init__(f"fact {fact_id!r} has this prompt; leave out on_conflict to supersede it")


class TenantFull(Exception):
    """The tenant has reached its limit of facts or bytes."""

    def __init__(self, what: str, got: int, limit: int) -> None:
        super().__init__(f"the tenant has {got} {what}, the limit is {limit}: forget some first")


class VersionNotReached(Exception):
    """The memory did not reach the request's Larimar-Version in time."""

    def __init__(self, got: int, wanted: int) -> None:
        super().__init__(f"the memory is at version {got}, the request asks for {wanted} or later")


class TenantNotFound(Exception):
    """The path names a tenant other than the key's."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"no tenant {tenant!r}")


class KeyReused(Exception):
    """An Idempotency-Key came again with another body."""
