"""The names of a tenant's keys.

    larimar:{tenant}:log     stream; the change of version v is the entry v-0. It keeps its last id when its
                             entries are erased or trimmed, even all of them: no version is given twice.
    larimar:{tenant}:pages   hash; page:<n> -> sealed bytes (envelope.py), floor -> version (lua.py)

The braces are Redis Cluster's hash tag: all of a tenant is on one node, where a script can change it in one
step. A tenant's name has neither brace nor colon, so no two tenants share a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PAGE = re.compile(rb"page:(0|[1-9][0-9]*)")

FLOOR = b"floor"
ERASURES = "larimar:erasures"  # the embedded server's count of erasures its files may still hold (scrub.py)


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

    @property
    def log(self) -> str:
        return f"larimar:{{{self.tenant}}}:log"

    @property
    def pages(self) -> str:
        return f"larimar:{{{self.tenant}}}:pages"


def page_field(page: int) -> bytes:
    return b"page:%d" % page


def page_of(field: bytes) -> int | None:
    """The inverse of `page_field`; None for anything else."""
    match = _PAGE.fullmatch(field)
    return None if match is None else int(match[1])


def entry_id(version: int) -> str:
    return f"{version}-0"
