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

    (Any thread may look up a single fact or a count.)
    """

    name: str
    memory: EpisodicMemory
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changes_since_snapshot: int = 0
    changed_at: float = 0.0  # Unix time of the oldest change since the snapshot
    stale: bool = False  # the store may have newer changes: follow it before the next change
    broken: bool = False  # a change failed half-way: load the memory again before it is used
    following: asyncio.Task[None] | None = None  # asks the store and applies other servers' changes
    asking: bool = False  # `following` waits for the store's answer
    catching_up: bool = False  # `following` has the answer and applies it
    size_bytes: int = 0


@dataclass(frozen=True)
class Committed:
    """A change that is durable and applied.

    Attributes:
        commit_at, solve_at: Unix times when commit and solve of the change's block began.
    """

    change: Change
    residual: float
    solve_s: float
    commit_s: float
    commit_at: float
    solve_at: float


@dataclass(frozen=True)
class TenantLimits:
    """Limits of the memories; 0 for no limit.

    Attributes:
        budget_bytes: of all memories together; above it idle ones are evicted.
        max_facts, max_bytes: of one tenant, its history included.
        read_wait_s: how long a read waits for the version of its Larimar-Version.
        snapshot_every, snapshot_s: changes, or seconds, after which a changed memory is snapshotted.
    """

    budget_bytes: int = 0
    max_facts: int = 0
    max_bytes: int = 0
    read_wait_s: float = 2.0
    snapshot_every: int = 256
    snapshot_s: float = 30.0
