"""A real Redis Cluster of three primaries and their replicas: all of a tenant lies on one node, and another may take it over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from app.access.api_keys import TABLE, ApiKey, KeyRing
from app.access.audit_log import STREAM, AuditLog
from app.access.limits import Limits, RateLimited
from app.access.request_context import RequestContext
from app.bench.free_port import free_port
from app.chaos.processes import Cluster, Missing
from app.server.metrics import Metrics
from memory.errors import PromiseBroken, StoreUnavailable, VersionConflict
from memory.store.byte_search import Needle, keys_with
from memory.store.cluster import Client, close, near, ready, servers
from memory.store.connection import connect
from memory.store.key_names import Keys
from memory.store.redis_store import Dropped, RedisStore
from tests.memory.changes import MODEL, fact, fill, forget, write

pytestmark = [pytest.mark.service, pytest.mark.anyio]
TENANTS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        started = Cluster(tmp_path_factory.mktemp("c"))
    except Missing as missing:
        pytest.skip(str(missing))
    try:
        started.start()
        yield started
    finally:
        started.end()


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    client = connect(cluster.url)
    await ready(client)
    for server in servers(client):
        await server.flushall()
    yield client
    await close(client)


@pytest.fixture
async def store(cluster: Cluster, client: Client) -> AsyncIterator[RedisStore]:  # noqa: ARG001  (it empties the cluster)
    store = RedisStore(connect(cluster.url), level="replica")
    yield store
    await store.close()


async def test_tenants_are_spread_and_each_lies_on_one_node(cluster: Cluster, client: Client, store: RedisStore) -> None:
    homes = {tenant: {cluster.primary_of(key).port for key in Keys(tenant).all} for tenant in TENANTS}
    assert all(len(ports) == 1 for ports in homes.values()) and len(set.union(*homes.values())) == 3
    for tenant in TENANTS:
        changes = await fill(store, tenant, 3)
        assert await store.snapshot(tenant, {0: [fact(1), fact(2), fact(3)]}, 3, MODEL)
        await store.commit(tenant, forget(4, 2), fingerprint=MODEL, answer=None)
        recovered = await store.load(tenant, MODEL)
        assert recovered.version == 4 and sorted(f.id for f in recovered.pages[0].facts) == ["fact-1", "fact-3"]
        followed = await store.follow(tenant, 3, MODEL)
        assert followed is not None and [change.version for change in followed] == [4]
        assert await store.size_bytes(tenant) > 0
        with pytest.raises(VersionConflict):
            await store.commit(tenant, write(4), fingerprint=MODEL)
        await store.expect_expiry(tenant, 5.0)
        assert len(changes) == 3
    assert sorted([tenant async for tenant in store.tenants()]) == sorted(TENANTS)
    assert {name for name, _ in await store.due(6.0)} == set(TENANTS)
    await store.expired("alpha", [5.0], None)
    assert {name for name, _ in await store.due(6.0)} == set(TENANTS) - {"alpha"}
    assert [hit async for hit in keys_with(client, [Needle("word", b"rocket")])] == []
    assert [hit async for hit in keys_with(client, [Needle("name", b"{beta}")])]
    assert await store.drop("beta") == Dropped(version=5, facts=2) and (await store.load("beta", MODEL)).pages == {}
    left = [name for name in Keys("beta").all if await near(client, name).exists(name)]
    assert sorted(left) == sorted([Keys("beta").log, Keys("beta").pages, Keys("beta").fence])
    await store.commit("beta", write(6), fingerprint=MODEL)
    assert await store.snapshot("beta", {0: [fact(6)]}, 6, MODEL)
    assert await near(client, Keys("beta").fence).get(Keys("beta").fence) == b"2"


async def test_one_node_s_failover_loses_nothing_and_leaves_the_other_nodes_alone(cluster: Cluster, store: RedisStore) -> None:
    homes = {tenant: cluster.primary_of(Keys(tenant).log) for tenant in TENANTS}
    for tenant in TENANTS:
        await fill(store, tenant, 2)
    lost = homes["alpha"]
    lost.end(signal.SIGKILL)
    try:
        for tenant in (name for name, home in homes.items() if home is not lost):
            await store.commit(tenant, write(3), fingerprint=MODEL)
        while True:
            try:
                await store.commit("alpha", write(3), fingerprint=MODEL)
                raise AssertionError("the new primary has no replica that could have the write")
            except PromiseBroken:
                break
            except StoreUnavailable:  # nobody holds the slots yet
                await asyncio.sleep(0.1)
        for tenant, home in homes.items():
            assert (await store.load(tenant, MODEL)).version == (2 if home is lost else 3)
    finally:
        lost.start()
    cluster.settle()
    assert cluster.primary_of(Keys("alpha").log) is not lost
    await store.ping()
    for tenant, home in homes.items():
        await store.commit(tenant, write(3 if home is lost else 4), fingerprint=MODEL)


async def test_keys_counts_and_audit_log_find_their_nodes(client: Client) -> None:
    secret, key = await KeyRing(client).create("alpha", ["read"], requests="2/hour")
    assert await KeyRing(client).find(secret) == key
    await KeyRing(client).revoke(key.id)
    assert await KeyRing(client).find(secret) is None and await near(client, TABLE).hlen(TABLE) == 1
    here, there = Limits(client, requests="3/hour"), Limits(client, requests="3/hour")
    limited = ApiKey("some-key", "alpha", ("read",))
    for limits in (here, there, here):
        await limits.admit(limited, RequestContext("r"), writes=False)
    with pytest.raises(RateLimited):
        await there.admit(limited, RequestContext("r"), writes=False)
    audit, exchange = AuditLog(client, Metrics(), keep=10), RequestContext("request-1")
    exchange.key = key
    exchange.events.append(("wrote", "fact-1"))
    await audit.record(exchange)
    await audit.flush()
    assert [entry.request_id for _, entry in await audit.export()] == ["request-1"]
    assert await near(client, STREAM).xlen(STREAM) == 1


async def test_a_cluster_that_is_not_there_is_told(tmp_path: object) -> None:  # noqa: ARG001
    store = RedisStore(connect(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"), timeout_s=1.0)
    for what in (store.ping(), store.load("alpha", MODEL), store.commit("alpha", write(1), fingerprint=MODEL)):
        with pytest.raises(StoreUnavailable):
            await what
    await store.close()
