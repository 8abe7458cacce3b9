"""The current request, for code without access to it: its audited actions and its spent tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from app.access.api_keys import ApiKey

Action = Literal["wrote", "superseded", "forgot", "read", "exported", "erased"]
ALL = "*"  # in place of a fact's id, which holds no star: the tenant as a whole
_current: ContextVar[RequestContext | None] = ContextVar("exchange", default=None)


@dataclass(eq=False)
class RequestContext:
    """One request: its key's record, its actions and its use. It never holds a text or a secret key."""

    request_id: str
    key: ApiKey | None = None  # None until it is authenticated
    tokens: int = 0
    wrote: int = 0  # facts
    events: deque[tuple[Action, str]] = field(default_factory=deque)  # actions and fact ids that are not recorded yet
    headers: dict[str, str] = field(default_factory=dict)  # for the answer

    def enter(self) -> None:
        """Make this the current request of the running task and of tasks that it starts."""
        _current.set(self)


def current() -> RequestContext | None:
    """The current request; None outside a request."""
    return _current.get()


def note(action: Action, fact_ids: Iterable[str]) -> None:
    """Add an action on facts to the current request, for the audit log."""
    if exchange := _current.get():
        found = [(action, fact_id) for fact_id in fact_ids]
        exchange.events += found
        exchange.wrote += len(found) if action == "wrote" else 0


def spend(tokens: int) -> None:
    """Count generated tokens against the limit of the current request's key."""
    if exchange := _current.get():
        exchange.tokens += tokens
