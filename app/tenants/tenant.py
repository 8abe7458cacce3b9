"""One tenant's memory as the server holds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from memory.change import Change
from memory.episodic import EpisodicMemory

OnConflict = Literal["supersede", "error", "version"]


@dataclass
class Tenant:
    """One tenant's memory and the lock under which it changes. Reads need no lock: changes and reads are jobs of one thread.

    (What looks up a single fact or asks for a number is no read in this sense, and any thread may do it.)
    """

    name: str
    memory: EpisodicMemory
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changes_since_snapshot: int = 0
    changed_at: float = 0.0  # Unix time of the oldest change since the snapshot
    stale: bool = False  # the store may be ahead: follow it before the next change
    broken: bool = False  # a change failed half-way: load it anew before it is used again
    following: asyncio.Task[None] | None = None  # asks the store, and makes what others committed
    asking: bool = False  # the store has not said yet whether there is something to make
    catching_up: bool = False  # it has, and it is being made
    size_bytes: int = 0


@dataclass(frozen=True)
class Committed:
    """A change that is durable and made.

    Attributes:
        commit_at, solve_at: Unix times when each began; those of the block that the change was part of.
    """

    change: Change
    residual: float
    solve_s: float
    commit_s: float
    commit_at: float
    solve_at: float


@dataclass(frozen=True)
class TenantLimits:
    """What the server holds and allows; 0 for no limit.

    Attributes:
        budget_bytes: of all memories together, before idle ones are evicted.
        max_facts, max_bytes: of one tenant, its history included.
        read_wait_s: how long a read waits for a version that it must see.
        snapshot_every, snapshot_s: changes or seconds after which a changed memory is snapshotted.
    """

    budget_bytes: int = 0
    max_facts: int = 0
    max_bytes: int = 0
    read_wait_s: float = 2.0
    snapshot_every: int = 256
    snapshot_s: float = 30.0
