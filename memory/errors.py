"""Errors of a memory and its store; each message has the value found and the value wanted."""

from __future__ import annotations


class MemoryError_(Exception):
    """Base of all errors of this package (the builtin MemoryError is another thing)."""


class FactNotFound(MemoryError_):
    def __init__(self, fact_id: str) -> None:
        super().__init__(f"no fact {fact_id!r}")
        self.fact_id = fact_id


class DuplicateId(MemoryError_):
    def __init__(self, fact_id: str) -> None:
        super().__init__(f"a fact {fact_id!r} exists already")
        self.fact_id = fact_id


class BadKey(MemoryError_):
    """An address key or code has the wrong shape or values that are not finite."""


class CorruptRecord(MemoryError_):
    """A sealed fact is torn, altered, or belongs elsewhere."""


class CorruptPage(MemoryError_):
    """A page's bytes are torn, altered or of another format."""


class CorruptChange(MemoryError_):
    """A log entry's bytes are torn or altered."""


class VersionConflict(MemoryError_):
    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"expected version {expected}, found {found}")
        self.expected, self.found = expected, found


class AnswerExists(MemoryError_):
    """A concurrent request with this Idempotency-Key has been answered; nothing was written."""


class AnswerSpent(MemoryError_):
    """The fact taught with this Idempotency-Key has been replaced or forgotten since."""

    def __init__(self) -> None:
        super().__init__("the fact that was taught with this Idempotency-Key has been replaced or forgotten; nothing was written")


class StoreUnavailable(MemoryError_):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PromiseBroken(MemoryError_):
    def __init__(self, wanted: str, reason: str) -> None:
        super().__init__(f"durability {wanted!r} cannot be kept: {reason}; nothing is written")
        self.wanted, self.reason = wanted, reason


class StoreCorrupt(MemoryError_):
    def __init__(self, tenant: str, reason: str) -> None:
        super().__init__(f"the stored memory of tenant {tenant!r} is damaged: {reason}")
        self.tenant, self.reason = tenant, reason


class FingerprintMismatch(MemoryError_):
    def __init__(self, got: str, wanted: str) -> None:
        super().__init__(f"the stored memory was written by model {got}, this is model {wanted}")
        self.got, self.wanted = got, wanted
