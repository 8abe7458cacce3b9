"""The cache of loaded memories: loads from the store, follows other writers, evicts idle tenants."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from app.inference.errors import NotReady, QueueFull
from app.inference.fair_queue import apart
from app.inference.worker import InferenceWorker
from app.server.metrics import Metrics
from app.tenants.errors import VersionNotReached
from app.tenants.tenant import Tenant, TenantLimits
from memory.episodic import EpisodicMemory
from memory.errors import StoreUnavailable
from memory.page import PageSettings
from memory.query import Detector
from memory.store.redis_store import RedisStore
from models.model import Model

T = TypeVar("T")
FOLLOW_S = 0.25  # how long a read waits for other servers' changes before it reads without them
LOST_S = 1.0  # how long reads leave a store alone that did not answer
log = structlog.get_logger()


class TenantCache:
    """Holds the loaded memories and applies the changes of other servers.

    `worker` changes and reads memories; `lookups` goes through all facts of a memory, on its view.

    With a shared store each read first asks the store for new changes, in one round trip (0.2 ms), and applies them. (A
    blocking XREAD for every loaded tenant would keep a connection for each node and wake all servers on each write.)
    """

    def __init__(
        self,
        store: RedisStore,
        worker: InferenceWorker,
        model: Model,
        metrics: Metrics,
        *,
        lookups: InferenceWorker,
        pages: PageSettings,
        scope: Detector,
        holding: TenantLimits,
    ) -> None:
        self.store, self.worker, self.lookups, self.model, self.metrics = store, worker, lookups, model, metrics
        self.pages, self.scope, self.holding = pages, scope, holding
        self.snapshot_failure = ""
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()  # least recently used first
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._bytes = 0
        self._lost_at = -LOST_S
        self._wake = asyncio.Event()

    @property
    def loaded(self) -> Sequence[Tenant]:
        """The tenants that are in memory."""
        return tuple(self._tenants.values())

    async def get(self, name: str) -> Tenant:
        """The tenant, loaded from the store if it is not here yet. Cancelling the caller does not cancel the load."""
        while (tenant := self._tenants.get(name)) is None:
            if name not in self._loading:
                self._loading[name] = apart(self._load_first(name))
            await asyncio.shield(self._loading[name])
        self._tenants.move_to_end(name)
        return tenant

    async def _load_first(self, name: str) -> None:
        try:
            tenant = Tenant(name, self._empty())
            await self._load(tenant)
            self._tenants[name] = tenant
        finally:
            del self._loading[name]
        self._weigh(tenant)

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[Tenant]:
        """The tenant under its lock; loaded again if it was evicted during the wait for the lock."""
        while True:
            tenant = await self.get(name)
            async with tenant.lock:
                if self._tenants.get(name) is tenant:
                    yield tenant
                    return

    @asynccontextmanager
    async def _locked_unread(self, name: str) -> AsyncIterator[Tenant]:
        """As `_locked`, without loading the tenant, which may be damaged. Other callers wait meanwhile, and load it afterwards if it
        is still `broken`."""
        while True:
            if (loading := self._loading.get(name)) is not None:
                await asyncio.wait([loading])  # or it would install an outdated memory afterwards
                continue
            tenant = self._tenants.setdefault(name, Tenant(name, self._empty(), stale=True, broken=True))
            async with tenant.lock:
                if self._tenants.get(name) is tenant:
                    yield tenant
                    return

    def _empty(self) -> EpisodicMemory:
        return EpisodicMemory(self.model.key_dim, self.pages, self.scope, self.model.device)

    async def _load(self, tenant: Tenant) -> None:
        found = await self.store.load(tenant.name, self.model.fingerprint)
        for page, reason in found.repaired.items():
            log.warning("page_rebuilt", page=page, reason=reason)

        def restore() -> EpisodicMemory:
            return EpisodicMemory.restore(
                self.model.key_dim,
                self.pages,
                self.scope,
                pages=found.pages,
                changes=found.changes,
                version=found.version,
                repaired=tuple(found.repaired),
                device=self.model.device,
            )

        on_cpu = self.model.device.type == "cpu"  # restoring reads much and solves nothing: it need not hold the inference thread
        tenant.memory = await (asyncio.to_thread(restore) if on_cpu else self.worker.run(restore))
        tenant.changes_since_snapshot = len(found.changes) + len(found.repaired)
        tenant.changed_at, tenant.stale, tenant.broken = time.time(), False, False

    def _weigh(self, tenant: Tenant) -> None:
        """Record the tenant's size, and evict idle tenants above the budget. They are loaded again when asked."""
        if self._tenants.get(tenant.name) is not tenant:
            return
        size = tenant.memory.size_bytes
        self._bytes += size - tenant.size_bytes
        tenant.size_bytes = size
        if not 0 < self.holding.budget_bytes < self._bytes:
            return
        for idle in list(self._tenants.values()):
            if self._bytes <= self.holding.budget_bytes:
                break
            if idle is not tenant and not idle.lock.locked():
                self._release(idle)

    def _release(self, tenant: Tenant) -> None:
        del self._tenants[tenant.name]
        self._bytes -= tenant.size_bytes

    async def reach(self, name: str, version: int) -> None:
        """Wait until the memory is at `version` or later. Raises VersionNotReached."""
        tenant, deadline = await self.get(name), time.monotonic() + self.holding.read_wait_s
        while tenant.memory.version < version:
            await self._await_others(tenant, max(0.0, deadline - time.monotonic()))
            if tenant.memory.version < version:
                if time.monotonic() >= deadline:
                    raise VersionNotReached(tenant.memory.version, version)
                await asyncio.sleep(0.02)

    async def fresh(self, name: str) -> EpisodicMemory:
        """The tenant's memory with the changes of other servers, if the store answers within FOLLOW_S; else as it was.

        Raises:
            StoreUnavailable: the memory is `broken` and cannot be loaded.
        """
        tenant = await self.get(name)
        under_way = tenant.catching_up or tenant.following is not None
        asks = (self.store.shared or tenant.stale) and (under_way or not tenant.lock.locked())
        if asks and (tenant.catching_up or time.monotonic() - self._lost_at > LOST_S):
            await self._await_others(tenant, FOLLOW_S)
        return await self.newest(name) if tenant.broken else tenant.memory

    async def newest(self, name: str) -> EpisodicMemory:
        """The tenant's memory with every committed change, without a time limit. Raises as the store's `follow` and `load`."""
        tenant = await self.get(name)
        if tenant.following is not None:
            await asyncio.wait([tenant.following])  # it may have asked before the last commit
        await asyncio.shield(self._following(tenant))
        return tenant.memory

    async def _await_others(self, tenant: Tenant, wait_s: float) -> None:
        """Wait up to `wait_s` seconds for the changes of other servers."""
        following = self._following(tenant)
        await asyncio.wait([following], timeout=wait_s)
        try:
            if following.done():
                following.result()
            elif tenant.asking:
                self._lost_at = time.monotonic()
        except StoreUnavailable:
            self._lost_at = time.monotonic()

    def _following(self, tenant: Tenant) -> asyncio.Task[None]:
        """The task that applies other servers' changes: one for all callers, and not cancelled with them."""
        if tenant.following is None:
            tenant.following = apart(self._keep_up(tenant))
            tenant.following.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be waiting any more
        return tenant.following

    async def _keep_up(self, tenant: Tenant) -> None:
        try:
            async with tenant.lock:
                await self._follow(tenant)
        finally:
            tenant.following = None

    async def _follow(self, tenant: Tenant) -> None:
        """Apply the changes that other servers committed."""
        changes = None
        if not tenant.broken:
            tenant.asking = True
            try:
                changes = await self.store.follow(tenant.name, tenant.memory.version, self.model.fingerprint)
            finally:
                tenant.asking = False
        tenant.catching_up = True
        try:
            if changes is None:
                await self._load(tenant)
            elif changes:
                await self._surely(tenant, lambda: tenant.memory.replay(changes))
                self._count(tenant, len(changes))
        finally:
            tenant.catching_up = False
        tenant.stale = False
        self._weigh(tenant)

    async def _surely(self, tenant: Tenant, make: Callable[[], T]) -> T:
        """Run `make`, which applies committed changes, on the inference thread; a full queue is tried again."""
        while True:
            try:
                return await self.worker.run(make)
            except QueueFull:
                await asyncio.sleep(0.01)
            except BaseException as error:
                tenant.stale = True  # the change may be missing, or still under way
                tenant.broken = tenant.broken or not isinstance(error, NotReady | asyncio.CancelledError)
                raise

    def _count(self, tenant: Tenant, changes: int) -> None:
        if not tenant.changes_since_snapshot:
            tenant.changed_at = time.time()
        tenant.changes_since_snapshot += changes
        if tenant.changes_since_snapshot >= self.holding.snapshot_every:
            self._wake.set()
