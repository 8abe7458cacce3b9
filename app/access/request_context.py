"""The request that is being served, for code that has no request at hand: what is audited and what is spent."""

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
    """One request and its answer. It never holds a text or a key."""

    request_id: str
    key: ApiKey | None = None  # None until it is authenticated
    tokens: int = 0
    wrote: int = 0  # facts
    events: deque[tuple[Action, str]] = field(default_factory=deque)  # what was done to which fact, until it is recorded
    headers: dict[str, str] = field(default_factory=dict)  # for the answer

    def enter(self) -> None:
        """Be the current request of this task and the tasks it starts."""
        _current.set(self)


def current() -> RequestContext | None:
    """The request being served; None outside one."""
    return _current.get()


def note(action: Action, fact_ids: Iterable[str]) -> None:
    """Have it audited that the request did something to facts."""
    if exchange := _current.get():
        found = [(action, fact_id) for fact_id in fact_ids]
        exchange.events += found
        exchange.wrote += len(found) if action == "wrote" else 0


def spend(tokens: int) -> None:
    """Count tokens against the budget of the request's key."""
    if exchange := _current.get():
        exchange.tokens += tokens
