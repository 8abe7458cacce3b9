"""The names of a tenant's keys.

    larimar:{tenant}:log          stream; the change of version v is the entry v-0 (change.py). It keeps its last id when
                                  its entries are trimmed, even all of them: no version is given twice.
    larimar:{tenant}:pages        hash; page:<n> -> the manifest of a page's snapshot, old:<n> -> the one before it,
                                  floor -> the version that the snapshot covers, reach -> the one the log is trimmed to
    larimar:{tenant}:parts        hash; <n>:<token>:<i> -> a part of a page's bytes, under 1 MiB
    larimar:{tenant}:data-keys    hash; version -> data key of the fact written by it; unused where keys lie in files
    larimar:{tenant}:answers      hash; digest of an Idempotency-Key -> the sealed answer
    larimar:{tenant}:spent        sorted set; digest of an Idempotency-Key whose fact was replaced or forgotten, by when it was used;
                                  at most answer.MOST_SPENT, with an expiry
    larimar:{tenant}:lease        string; the token of who may write a snapshot, with an expiry
    larimar:{tenant}:fence        string; the last token given. Tokens only rise: it stays when the tenant is erased (lua.py)
    larimar:{tenant}:turn         string; the writer whose commit comes next, with an expiry

The braces are Redis Cluster's hash tag: all of a tenant is on one node, where a script can change it in one
step. A tenant's name has neither brace nor colon, so no two tenants share a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PAGE = re.compile(rb"(page|old):(0|[1-9][0-9]*)")

FLOOR, REACH = b"floor", b"reach"
EARLIER_EXPIRIES = "larimar:expiries"  # sorted set over all tenants, <tenant>, of an earlier version: its next fact expires then
EXPIRIES = f"larimar:{{{EARLIER_EXPIRIES}}}:2"  # as that, and on the same node, but <tenant>:<time>: earlier versions must not read it


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
        """Log, pages, data keys and fence first."""
        return [self.log, self.pages, self.data_keys, self.fence, self.parts, self.answers, self.spent, self.lease, self.turn]


LOGS = "larimar:{*}:log"  # pattern of every tenant's log


def tenant_of(log: bytes) -> str:
    """The tenant whose log has this name."""
    return log.removeprefix(b"larimar:{").removesuffix(b"}:log").decode()


def page_of(field: bytes) -> tuple[str, int] | None:
    """`page` or `old` and the page's number, of a field of the pages' hash; None for anything else."""
    match = _PAGE.fullmatch(field)
    return None if match is None else (match[1].decode(), int(match[2]))


def entry_id(version: int) -> str:
    return f"{version}-0"
