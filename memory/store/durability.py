"""Durability: the failures that an acknowledged write survives, as the store's server is configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from memory.errors import PromiseBroken

Level = Literal["memory", "disk", "replica"]
LEVELS: tuple[Level, ...] = ("memory", "disk", "replica")  # in ascending order


@dataclass(frozen=True)
class Durability:
    """
    level: `memory`: a write is answered when the server has it, and is lost if the server dies before its next fsync.
        `disk`: a write is answered after the fsync of the append-only file; it survives kill -9 and loss of power.
        `replica`: a write is answered when other servers have it too; it survives the loss of this one.
    wait: the command that each write needs after it for this level; None for none.
    reason: an explanation for people.
    """

    level: Level
    wait: Literal["WAITAOF", "WAIT"] | None
    reason: str


async def probe(client: Redis, wanted: Level | None, replicas: int) -> Durability:
    """Find the durability of the server's configuration.

    Args:
        wanted: the level to keep; None for the strongest level without replicas.
        replicas: how many level `replica` needs.

    Raises:
        PromiseBroken: the server cannot keep the wanted level.
        redis.RedisError: the server does not answer.
    """
    if wanted == "memory":
        return Durability("memory", None, "answered when the server has it, as configured")
    if wanted == "replica":
        known = (await client.info("replication")).values()
        connected = sum(isinstance(one, dict) and one.get("state") == "online" for one in known)
        if connected < replicas:
            raise PromiseBroken(wanted, f"{connected} of {replicas} replicas are connected")
        return Durability("replica", "WAIT", f"WAIT {replicas} after each write ({connected} replicas connected)")
    found = await _on_disk(client)
    if found.level != "disk" and wanted == "disk":
        raise PromiseBroken(wanted, found.reason)
    return found


async def _on_disk(client: Redis) -> Durability:
    persistence = await client.info("persistence")
    if not persistence.get("aof_enabled"):
        return Durability("memory", None, "the server has no append-only file (appendonly no)")
    try:
        appendfsync = (await client.config_get("appendfsync")).get("appendfsync")
    except ResponseError:  # managed servers refuse CONFIG
        appendfsync = "unknown"
    if _text(appendfsync) == "always":
        return Durability("disk", None, "the server fsyncs before it answers (appendfsync always)")
    try:
        # Waits for nothing, so it answers at once: it shows whether the server knows the command.
        await client.execute_command("WAITAOF", 0, 0, 0)  # type: ignore[no-untyped-call]  # redis-py's
    except ResponseError:
        return Durability("memory", None, f"appendfsync {_text(appendfsync)}, and no WAITAOF on this server")
    return Durability("disk", "WAITAOF", f"WAITAOF after each write (appendfsync {_text(appendfsync)})")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
