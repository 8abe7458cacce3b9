"""Whose turn it is: a queue in which tenants take turns, however much each of them has waiting."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")
TENANT: ContextVar[str] = ContextVar("tenant", default="")  # for whom the current task works; "" is the server itself


def apart(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start work that is done for whoever waits for it: in the caller's line of the queue, and under no request's id, trace or audit."""
    context = Context()
    context.run(TENANT.set, TENANT.get())
    return asyncio.create_task(work, context=context)


class FairQueue(Generic[T]):
    """First in, first out for each tenant, round robin between tenants. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting(self, tenant: str) -> int:
        """How many items a tenant has waiting."""
        return len(self._lines.get(tenant, ()))

    def put(self, tenant: str, item: T) -> None:
        self._lines.setdefault(tenant, deque()).append(item)
        self._count += 1

    def peek(self) -> T:
        """What `take` would give. Raises StopIteration if nothing waits."""
        return next(iter(self._lines.values()))[0]

    def take(self) -> T:
        """The next item; its tenant goes to the end of the round."""
        tenant, line = self._lines.popitem(last=False)
        item = line.popleft()
        self._count -= 1
        if line:
            self._lines[tenant] = line
        return item

    def drop(self, unwanted: Callable[[T], bool]) -> None:
        """Take out the items that no one waits for any more."""
        for tenant, line in list(self._lines.items()):
            kept = deque(item for item in line if not unwanted(item))
            self._count -= len(line) - len(kept)
            if kept:
                self._lines[tenant] = kept
            else:
                del self._lines[tenant]

    def take_if(self, wanted: Callable[[T], bool], limit: int) -> list[T]:
        """Up to `limit` items that stand first in their line and are wanted, one a tenant in each round."""
        taken: list[T] = []
        while len(taken) < limit:
            tenants = [tenant for tenant, line in self._lines.items() if wanted(line[0])][: limit - len(taken)]
            if not tenants:
                break
            for tenant in tenants:
                self._lines.move_to_end(tenant, last=False)
                taken.append(self.take())
        return taken
