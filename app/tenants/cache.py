"""The memories that are held: loaded from the store, followed in it, evicted when they are idle."""

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
FOLLOW_S = 0.25  # how long a read waits for what others wrote, before it goes on with what it has
LOST_S = 1.0  # for how long reads do not ask a store that did not answer
log = structlog.get_logger()


class TenantCache:
    """Holds the loaded memories, and keeps up with what others write.

    `worker` changes and reads them; `lookups` does what looks through all facts of one, on its view.

    With a shared store a read first asks it, in one round trip (0.2 ms), whether others wrote, and makes their changes. (A
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
        """The tenant, loaded from the store if it is not here yet. A load goes on if who asked for it goes away."""
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
        """The tenant, under its lock and not evicted while we waited for that."""
        while True:
            tenant = await self.get(name)
            async with tenant.lock:
                if self._tenants.get(name) is tenant:
                    yield tenant
                    return

    @asynccontextmanager
    async def _locked_unread(self, name: str) -> AsyncIterator[Tenant]:
        """As `_locked`, for what needs nothing of the tenant: it is not loaded for this, and may be one that cannot be. Whoever
        asks for it meanwhile waits, and then loads it if it is still `broken`."""
        while True:
            if (loading := self._loading.get(name)) is not None:
                await asyncio.wait([loading])  # or what it read before would be put in place after
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

        on_cpu = self.model.device.type == "cpu"  # it solves nothing yet, and much is to be read: not on the inference thread
        tenant.memory = await (asyncio.to_thread(restore) if on_cpu else self.worker.run(restore))
        tenant.changes_since_snapshot = len(found.changes) + len(found.repaired)
        tenant.changed_at, tenant.stale, tenant.broken = time.time(), False, False

    def _weigh(self, tenant: Tenant) -> None:
        """Notes what the tenant takes now, and evicts idle ones beyond the budget. They come back from the store."""
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
        """Returns when the memory is at `version` or later. Raises VersionNotReached."""
        tenant, deadline = await self.get(name), time.monotonic() + self.holding.read_wait_s
        while tenant.memory.version < version:
            await self._await_others(tenant, max(0.0, deadline - time.monotonic()))
            if tenant.memory.version < version:
                if time.monotonic() >= deadline:
                    raise VersionNotReached(tenant.memory.version, version)
                await asyncio.sleep(0.02)

    async def fresh(self, name: str) -> EpisodicMemory:
        """The tenant's memory with what others wrote, as far as the store can be asked in time.

        Raises:
            StoreUnavailable: there is nothing whole to go on with.
        """
        tenant = await self.get(name)
        under_way = tenant.catching_up or tenant.following is not None
        asks = (self.store.shared or tenant.stale) and (under_way or not tenant.lock.locked())
        if asks and (tenant.catching_up or time.monotonic() - self._lost_at > LOST_S):
            await self._await_others(tenant, FOLLOW_S)
        return await self.newest(name) if tenant.broken else tenant.memory

    async def newest(self, name: str) -> EpisodicMemory:
        """The tenant's memory with all that is committed, however long that takes. Raises as the store's `follow` and `load`."""
        tenant = await self.get(name)
        if tenant.following is not None:
            await asyncio.wait([tenant.following])  # it may have asked before the last commit
        await asyncio.shield(self._following(tenant))
        return tenant.memory

    async def _await_others(self, tenant: Tenant, wait_s: float) -> None:
        """Waits a while for what others committed."""
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
        """Makes what others committed, once for all who wait and to the end, however long they do."""
        if tenant.following is None:
            tenant.following = apart(self._keep_up(tenant))
            tenant.following.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody waits any more
        return tenant.following

    async def _keep_up(self, tenant: Tenant) -> None:
        try:
            async with tenant.lock:
                await self._follow(tenant)
        finally:
            tenant.following = None

    async def _follow(self, tenant: Tenant) -> None:
        """Makes the changes that others committed."""
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
        """What is committed is made, however busy the worker is."""
        while True:
            try:
                return await self.worker.run(make)
            except QueueFull:
                await asyncio.sleep(0.01)
            except BaseException as error:
                tenant.stale = True  # if it was not made, or is being made yet
                tenant.broken = tenant.broken or not isinstance(error, NotReady | asyncio.CancelledError)
                raise

    def _count(self, tenant: Tenant, changes: int) -> None:
        if not tenant.changes_since_snapshot:
            tenant.changed_at = time.time()
        tenant.changes_since_snapshot += changes
        if tenant.changes_since_snapshot >= self.holding.snapshot_every:
            self._wake.set()
