"""What an acknowledged write survives, as the server at hand is configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

Level = Literal["disk", "memory"]


@dataclass(frozen=True)
class Durability:
    """
    level: `disk`: a write is answered when its append-only file is fsynced; it survives kill -9 and loss of
        power. `memory`: it is answered when the server has it, and is lost if the server dies before its next
        fsync.
    waits: each write must be followed by WAITAOF for the level to hold.
    reason: why, for people.
    """

    level: Level
    waits: bool
    reason: str


async def probe(client: Redis) -> Durability:
    """Asks the server how it is configured.

    Raises:
        redis.RedisError: it does not answer.
    """
    persistence = await client.info("persistence")
    if not persistence.get("aof_enabled"):
        return Durability("memory", False, "the server has no append-only file (appendonly no)")
    try:
        appendfsync = (await client.config_get("appendfsync")).get("appendfsync")
    except ResponseError:  # managed servers refuse CONFIG
        appendfsync = "unknown"
    if _text(appendfsync) == "always":
        return Durability("disk", False, "the server fsyncs before it answers (appendfsync always)")
    try:
        # For no file and no replica: it answers at once.
        await client.execute_command("WAITAOF", 0, 0, 0)  # type: ignore[no-untyped-call]  # redis-py's
    except ResponseError:
        return Durability("memory", False, f"appendfsync {_text(appendfsync)}, and no WAITAOF on this server")
    return Durability("disk", True, f"WAITAOF after each write (appendfsync {_text(appendfsync)})")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
