"""Why a tenant's memory refuses: errors of the domain, which app/http/problems.py maps to answers."""

from __future__ import annotations


class PromptTaken(Exception):
    """There is a fact with this prompt, and the request said not to supersede it."""

    def __init__(self, fact_id: str) -> None:
        super().__init__(f"fact {fact_id!r} has this prompt; leave out on_conflict to supersede it")


class TenantFull(Exception):
    """The tenant holds as much as it may."""

    def __init__(self, what: str, got: int, limit: int) -> None:
        super().__init__(f"the tenant has {got} {what}, the limit is {limit}: forget some first")


class VersionNotReached(Exception):
    """The memory did not get as new as the request's Larimar-Version in time."""

    def __init__(self, got: int, wanted: int) -> None:
        super().__init__(f"the memory is at version {got}, the request asks for {wanted} or later")


class TenantNotFound(Exception):
    """A path names a tenant that is not the caller's."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"no tenant {tenant!r}")


class KeyReused(Exception):
    """An Idempotency-Key came again with another body."""
