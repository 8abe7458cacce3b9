"""The names of a tenant's keys.

    larimar:{tenant}:log          stream; the change of version v is the entry v-0 (change.py). Trimming, even of all
                                  entries, keeps the last id: no version is given twice.
    larimar:{tenant}:pages        hash; page:<n> -> the manifest of a page's snapshot, old:<n> -> the one before it,
                                  floor -> the version that the snapshot covers, reach -> the version up to which the log is trimmed
    larimar:{tenant}:parts        hash; <n>:<token>:<i> -> a part of a page's bytes, under 1 MiB
    larimar:{tenant}:data-keys    hash; version -> data key of the fact written by it; unused with a vault
    larimar:{tenant}:answers      hash; digest of an Idempotency-Key -> the sealed answer
    larimar:{tenant}:spent        sorted set; digest of an Idempotency-Key whose fact was replaced or forgotten, by when it was used;
                                  at most idempotency_keys.MOST_SPENT, with an expiry
    larimar:{tenant}:lease        string; the token of the server that may write a snapshot, with an expiry
    larimar:{tenant}:fence        string; the last token given. Tokens only rise, so it outlives an erasure of the tenant (lua.py)
    larimar:{tenant}:turn         string; the writer that has claimed the next commit, with an expiry

The braces are Redis Cluster's hash tag: all keys of a tenant are on one node, where one script can change them in one
step. A tenant's name has neither brace nor colon, so no two tenants share a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PAGE = re.compile(rb"(page|old):(0|[1-9][0-9]*)")

FLOOR, REACH = b"floor", b"reach"
EARLIER_EXPIRIES = "larimar:expiries"  # sorted set of an earlier version, over all tenants: <tenant>, by when its next fact expires
EXPIRIES = f"larimar:{{{EARLIER_EXPIRIES}}}:2"  # <tenant>:<time>, by time; the name keeps earlier versions from reading it


@dataclass(frozen=True)
class Keys:
    """
    Raises:
        ValueError: the tenant's name is not 1 to 64 of A-Z a-z 0-9 _ . -
    """

    tenant: str

    def __post_init__(self) -> None:
        if _TENANT.fullmatch(self.tenant) is None:
            raise ValueError(f"tenant {self.tenant[:80]!r}: wanted 1 to 64 of A-Z a-z 0-9 _ . -")

    def _named(self, what: str) -> str:
        return f"larimar:{{{self.tenant}}}:{what}"

    @property
    def log(self) -> str:
        return self._named("log")

    @property
    def pages(self) -> str:
        return self._named("pages")

    @property
    def parts(self) -> str:
        return self._named("parts")

    @property
    def data_keys(self) -> str:
        return self._named("data-keys")

    @property
    def answers(self) -> str:
        return self._named("answers")

    @property
    def spent(self) -> str:
        return self._named("spent")

    @property
    def lease(self) -> str:
        return self._named("lease")

    @property
    def fence(self) -> str:
        return self._named("fence")

    @property
    def turn(self) -> str:
        return self._named("turn")

    @property
    def all(self) -> list[str]:
        """All keys of the tenant; log, pages, data keys and fence first."""
        return [self.log, self.pages, self.data_keys, self.fence, self.parts, self.answers, self.spent, self.lease, self.turn]


LOGS = "larimar:{*}:log"  # pattern of every tenant's log


def tenant_of(log: bytes) -> str:
    """The tenant whose log has this name."""
    return log.removeprefix(b"larimar:{").removesuffix(b"}:log").decode()


def page_of(field: bytes) -> tuple[str, int] | None:
    """`page` or `old`, and the page's number, from a field of the pages' hash; None for another field."""
    match = _PAGE.fullmatch(field)
    return None if match is None else (match[1].decode(), int(match[2]))


def entry_id(version: int) -> str:
    return f"{version}-0"
