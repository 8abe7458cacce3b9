"""One commit, sent until its outcome is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from memory.errors import AnswerExists, StoreCorrupt, StoreUnavailable, VersionConflict
from memory.store import lua
from memory.store.link import Link, as_list

HINDSIGHT_S = 60.0  # after this time a commit in doubt has succeeded or never will


class CommitUnknown(StoreUnavailable):
    """A commit was sent, and its outcome is unknown: the reply never came, or a later step failed. It may still succeed.

    The log decides. If it succeeded, the next writer gets a VersionConflict and catches up.
    """


class _NotDurable(Exception):
    """The server has the commit in memory; it was not fsynced or replicated in time."""


class Commit:
    """A commit with a nonce, stored in the entry: by it the server recognises a repeated attempt.

    So attempts may be repeated, and may reach the server late, twice or out of order; at most one writes.

    Args:
        keys: its KEYS.
        version: of the first change; the others follow.
        entries: the fields of each change's entry, name and value in turn.
        writer: this server's id, which may have claimed the turn.
        lists: data keys to set, to delete; answers to set, to delete (name and version); the result of `idempotency_keys.spent`.
    """

    def __init__(
        self,
        link: Link,
        keys: Sequence[str],
        version: int,
        entries: Sequence[Sequence[bytes]],
        lists: Sequence[Sequence[str | bytes]],
        writer: bytes,
    ) -> None:
        self._link, self._keys, self._version = link, list(keys), version
        self._args: list[Any] = [version, os.urandom(16), len(entries)]
        for items in (*entries, *lists):
            self._args += [len(items), *items]
        self._args.append(writer)
        self._in_doubt = False  # whether an attempt was sent whose reply never came

    async def run(self, tenant: str) -> None:
        """Wait until the change is in the log at the store's durability. Raises as `RedisStore.commit`."""
        try:
            reply = await self._link.call(self._attempt, tenant=tenant, hurry=True)
        except _NotDurable as error:
            raise CommitUnknown(f"version {self._version} of {tenant} is written but {error}") from error
        except StoreUnavailable as error:
            if self._in_doubt:
                raise CommitUnknown(
                    f"{error}; whether version {self._version} of {tenant} is written is unknown"
                ) from error
            raise
        if reply[0] == lua.LOST:
            raise StoreCorrupt(tenant, "there are pages but no log: changes are lost")
        if reply[0] == lua.ANSWERED:
            raise AnswerExists
        if reply[0] == lua.CONFLICT:
            self._refuse(tenant, found=int(reply[1]), taken=bool(reply[2]))

    def _refuse(self, tenant: str, *, found: int, taken: bool) -> None:
        expected = self._version - 1
        if found < expected:
            raise StoreCorrupt(
                tenant, f"the store is at version {found}, the memory at {expected}: the store lost data"
            )
        if self._in_doubt and not taken:  # the entry was there and is erased or trimmed; it was ours or another's
            raise CommitUnknown(
                f"version {self._version} of {tenant} was written, and erased since, by this or another"
            )
        raise VersionConflict(expected, found)

    async def _attempt(self) -> list[Any]:
        durability = await self._link.durability_of(self._link.near(self._keys[0]))
        await self._link.reach(self._keys[0])
        doubt, self._in_doubt = self._in_doubt, True
        try:
            reply = await (self._send() if durability.wait is None else self._send_and_wait(durability.wait))
        except ResponseError:  # this attempt is refused; earlier ones stay in doubt
            self._in_doubt = doubt
            raise
        self._in_doubt = doubt
        return reply

    async def _send(self) -> list[Any]:
        return await self._link.run(lua.COMMIT, self._keys, self._args)

    async def _send_and_wait(self, wait: str) -> list[Any]:
        """WAIT and WAITAOF wait for writes of their own connection, so script and wait share one."""
        patience_ms = int(self._link.timeout_s * 800)
        replicas = self._link.replicas
        client = self._link.near(self._keys[0])
        async with client.pipeline(transaction=False) as pipe:
            await client.register_script(lua.COMMIT)(keys=self._keys, args=self._args, client=pipe)
            pipe.execute_command(*(("WAIT", replicas) if wait == "WAIT" else ("WAITAOF", 1, 0)), patience_ms)
            reply, waited = await pipe.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        if reply[0] in (lua.COMMITTED, lua.REPEATED) and (failure := _shortfall(wait, waited, replicas)):
            self._link.doubt()
            raise _NotDurable(failure)
        return as_list(reply)


def _shortfall(wait: str, reply: Any, replicas: int) -> str:
    """The failure that a WAIT or WAITAOF reports; empty for none."""
    if wait == "WAIT":
        have = 0 if isinstance(reply, Exception) else int(reply)
        return "" if have >= replicas else f"only {have} of {replicas} replicas had it in time"
    return "" if not isinstance(reply, Exception) and reply[0] >= 1 else "was not fsynced in time"
