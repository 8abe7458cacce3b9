"""API keys, scopes, limits and the audit log, over HTTP and in the store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.access.api_keys import TABLE, ApiKey, KeyNotFound, KeyRing, digest
from app.access.audit_log import FLUSH_S, WAITING, AuditLog
from app.access.request_context import RequestContext
from app.http.problems import describe
from app.server.metrics import Metrics
from memory.errors import StoreUnavailable
from memory.store.connection import connect
from memory.store.embedded.valkey import EmbeddedValkey
from memory.store.key_names import Keys
from tests.app.hosting import hosted, make_key

pytestmark = pytest.mark.service
FACT = {"prompt": "the capital of zor is", "target": "kal"}


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    client = connect(valkey.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.mark.anyio
async def test_a_key_is_stored_as_its_hash_only(client: Redis) -> None:
    secret, key = await KeyRing(client).create("acme", ["write", "read"])
    assert secret.startswith("lk_") and len(secret) >= 46
    stored = await client.hgetall(TABLE)
    assert list(stored) == [digest(secret).encode()]
    assert secret not in str(stored) and secret.removeprefix("lk_") not in str(stored)
    assert (await KeyRing(client).find(secret)) == key
    assert key.scopes == ("read", "write") and key.id == digest(secret)[:12]


@pytest.mark.anyio
async def test_a_revoked_key_is_refused_at_once_on_every_replica(client: Redis) -> None:
    here, there = KeyRing(client), KeyRing(client)
    secret, key = await here.create("acme", ["read"])
    assert await there.find(secret) is not None
    await here.revoke(key.id)
    assert await there.find(secret) is None
    assert (await here.revoke(key.id)).revoked_at == (await here.list())[0].revoked_at


@pytest.mark.anyio
async def test_an_expired_key_is_refused(client: Redis) -> None:
    ring = KeyRing(client)
    secret, _ = await ring.create("acme", ["read"], expires_at=time.time() + 0.05)
    assert await ring.find(secret)
    await asyncio.sleep(0.06)
    assert await ring.find(secret) is None


@pytest.mark.anyio
async def test_rotation_overlaps_and_keeps_the_grants(client: Redis) -> None:
    ring = KeyRing(client)
    old, key = await ring.create("acme", ["read"], name="robot", requests="5/second")
    new, rotated = await ring.rotate(key.id, overlap_s=0.1)
    assert (await ring.find(old)) and (await ring.find(new))
    assert (rotated.tenant, rotated.scopes, rotated.requests) == ("acme", ("read",), "5/second")
    await asyncio.sleep(0.11)
    assert await ring.find(old) is None and await ring.find(new)
    with pytest.raises(KeyNotFound):
        await ring.rotate(key.id, overlap_s=60)


@pytest.mark.anyio
async def test_a_revocation_survives_changes_at_the_same_time(client: Redis) -> None:
    ring = KeyRing(client)
    for _ in range(10):
        secret, key = await ring.create("acme", ["read"])
        await asyncio.gather(ring.revoke(key.id), ring.rotate(key.id, 60), return_exceptions=True)
        assert await ring.find(secret) is None


@pytest.mark.anyio
@pytest.mark.parametrize("key_id", ["", "a", "*", "0" * 12, "0" * 64])
async def test_unknown_ids_are_not_found(client: Redis, key_id: str) -> None:
    await KeyRing(client).create("acme", ["read"])
    with pytest.raises(KeyNotFound):
        await KeyRing(client).revoke(key_id)


@pytest.mark.anyio
async def test_while_the_store_is_away_only_keys_seen_lately_are_known(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(client)
    secret, _ = await ring.create("acme", ["read"])
    other, _ = await ring.create("acme", ["read"])
    assert await ring.find(secret)

    async def away(*_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(client, "hget", away)
    assert await ring.find(secret)
    with pytest.raises(StoreUnavailable):
        await ring.find(other)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "do",
    [
        lambda away: KeyRing(away).create("acme", ["read"]),
        lambda away: KeyRing(away).list(),
        lambda away: KeyRing(away).revoke("0" * 12),
        lambda away: KeyRing(away).rotate("0" * 12, 60),
        lambda away: AuditLog(away, Metrics(), keep=1).export(),
    ],
    ids=["create", "list", "revoke", "rotate", "audit"],
)
async def test_administration_without_the_store_is_told_so(do: Any, tmp_path: Path) -> None:
    away = connect(f"unix://{tmp_path}/nothing.sock", timeout_s=0.2)
    with pytest.raises(StoreUnavailable) as told:
        await do(away)
    assert describe(told.value).status == 503
    await away.aclose()


def busy(events: int) -> RequestContext:
    exchange = RequestContext("r", ApiKey("k", "t", ("write",)))
    exchange.events.extend(("wrote", f"f{n}") for n in range(events))
    return exchange


@pytest.mark.anyio
async def test_the_audit_log_waits_for_a_store_that_is_well(client: Redis) -> None:
    """However much is done at once; and what a request does after its answer is recorded too."""
    metrics = Metrics()
    log, requests = AuditLog(client, metrics, keep=10**6), [busy(WAITING), busy(WAITING), busy(7)]
    running = asyncio.create_task(log.run())
    await asyncio.gather(*map(log.record, requests))
    requests[0].events.append(("wrote", "late"))
    await asyncio.sleep(3 * FLUSH_S)
    running.cancel()
    await log.close()
    entries = [entry.fact for _, entry in await log.export(limit=10**6)]
    assert len(entries) == 2 * WAITING + 8 and entries[-1] == "late" and entries.count("f3") == 3
    assert metrics.registry.get_sample_value("larimar_audit_lost_total") == 0


@pytest.mark.anyio
async def test_the_audit_log_keeps_what_it_can_for_a_store_that_is_away(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    log = AuditLog(client, metrics, keep=10**6)

    async def away(*_: Any, **__: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as lost:
        lost.setattr(Pipeline, "execute", away)
        await log.record(busy(WAITING + 5))
        assert metrics.registry.get_sample_value("larimar_audit_lost_total") == 5
    await log.flush()
    assert len(await log.export(limit=10**6)) == WAITING


@pytest.mark.anyio
async def test_a_request_that_is_cancelled_while_it_waits_for_room_is_recorded_once(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.access.audit_log.WAITING", 300)
    log, request, execute = AuditLog(client, Metrics(), keep=10**6), busy(600), Pipeline.execute
    sent = asyncio.Event()

    async def slow(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        replies = await execute(pipe, *args, **kwargs)
        sent.set()
        await asyncio.sleep(0.05)
        return replies

    with monkeypatch.context() as slowly:
        slowly.setattr(Pipeline, "execute", slow)
        waiting = asyncio.create_task(log.record(request))
        await sent.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await log.record(request)
        await log.flush()
    entries = [entry.fact for _, entry in await log.export(limit=10**6)]
    assert entries == [f"f{n}" for n in range(600)]


@pytest.mark.anyio
async def test_a_tenant_no_memory_can_have_gets_no_key(client: Redis) -> None:
    for tenant in ("", "a:b", "a{b}", "a/b", "a" * 65, "a\x00b"):
        with pytest.raises(ValueError):
            await KeyRing(client).create(tenant, ["read"])


def test_records_round_trip() -> None:
    key = ApiKey("0" * 12, "acme", ("read",), "name", 1.5, 2.5, None, "1/second", "")
    assert ApiKey.from_json(key.to_json()) == key


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def make(client: TestClient, tenant: str, *scopes: str, **more: Any) -> str:
    body = {"tenant": tenant, "scopes": scopes, **more}
    answer = client.post("/admin/keys", json=body, headers=bearer(client.app_state["admin"]))
    assert answer.status_code == 201
    return str(answer.json()["key"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with hosted(tmp_path_factory.mktemp("data"), audit_entries=1000) as client:
        client.app_state = {"admin": make_key(client, "root", "read", "write", "admin")}
        time.sleep(1.1)  # until the server no longer believes that there is no key
        yield client


def test_the_first_key_closes_the_server(server: TestClient) -> None:
    assert server.get("/facts").status_code == 401
    assert server.post("/admin/keys", json={"tenant": "x"}).status_code == 401
    assert server.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [(("read",), {"read"}), (("write",), {"write"}), (("admin",), {"admin"}), (("read", "write", "admin"), {"read", "write", "admin"})],
)
def test_scopes(server: TestClient, scopes: tuple[str, ...], allowed: set[str]) -> None:
    headers = bearer(make(server, "scoped", *scopes))
    statuses = {
        "read": server.get("/facts", headers=headers).status_code,
        "write": server.post("/facts", json=FACT, headers=headers).status_code,
        "admin": server.get("/admin/keys", headers=headers).status_code,
    }
    assert {name for name, status in statuses.items() if status != 403} == allowed
    assert all(status in (200, 201) for name, status in statuses.items() if name in allowed)


def test_both_headers_work_and_a_wrong_key_does_not(server: TestClient) -> None:
    key = make(server, "acme", "read")
    assert server.get("/facts", headers={"X-API-Key": key}).status_code == 200
    assert server.get("/facts", headers=bearer(key)).status_code == 200
    for wrong in (key[:-1], key + "x", key.lower(), digest(key), "lk_", "null"):
        answer = server.get("/facts", headers=bearer(wrong))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_a_key_is_listed_without_itself_and_can_be_revoked(server: TestClient) -> None:
    key, admin = make(server, "acme", "read", name="to go"), bearer(server.app_state["admin"])
    listed = server.get("/admin/keys", headers=admin)
    assert key not in listed.text and digest(key)[12:] not in listed.text
    (found,) = [k for k in listed.json()["keys"] if k["name"] == "to go"]
    assert server.delete(f"/admin/keys/{found['id']}", headers=admin).json()["revoked_at"]
    assert server.get("/facts", headers=bearer(key)).status_code == 401
    assert server.delete("/admin/keys/ffffffffffff", headers=admin).json()["code"] == "key_not_found"


def test_requests_over_the_limit_wait(server: TestClient) -> None:
    headers = bearer(make(server, "busy", "read", requests="3/minute"))
    answers = [server.get("/facts", headers=headers) for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert [a.headers["RateLimit"].split(";")[1] for a in answers] == ["r=2", "r=1", "r=0", "r=0"]
    assert answers[0].headers["RateLimit-Policy"] == '"requests";q=3;w=60'
    assert 1 <= int(answers[3].headers["Retry-After"]) <= 60
    assert answers[3].json()["code"] == "rate_limited"
    assert server.get("/facts", headers=bearer(make(server, "busy", "read"))).status_code == 200


def test_tokens_over_the_limit_wait(server: TestClient) -> None:
    headers = bearer(make(server, "talker", "read", tokens="4/minute"))
    body = {"prompt": "what is red", "max_new_tokens": 6, "memory": "off"}
    assert server.post("/generate", json=body, headers=headers).status_code == 200
    refused = server.post("/generate", json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert "tokens" in refused.json()["detail"]


def test_facts_over_the_limit_wait_and_may_still_be_forgotten(server: TestClient) -> None:
    headers = bearer(make(server, "writer", "read", "write", facts="3/minute"))
    facts = [{"prompt": f"the river of {name} is", "target": "red"} for name in ("zor", "kal")]
    first = server.post("/facts", json=facts, headers=headers)
    assert first.status_code == 201 and first.headers["RateLimit-Policy"] == '"facts";q=3;w=60'
    assert server.post("/facts", json=facts, headers=headers).status_code == 201  # room for one: the other is paid for later
    refused = server.post("/facts", json=facts[0], headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited") and "facts" in refused.json()["detail"]
    found = server.get("/facts", headers=headers)
    assert found.status_code == 200 and len(found.json()["facts"]) == 2
    assert server.post("/query", json={"prompt": "zor"}, headers=headers).status_code == 200
    assert server.patch(f"/facts/{found.json()['facts'][0]['id']}", json={"target": "x"}, headers=headers).status_code == 429
    assert server.delete(f"/facts/{found.json()['facts'][0]['id']}", headers=headers).status_code == 200


def test_the_audit_log_says_who_did_what_and_no_text(server: TestClient) -> None:
    key = make(server, "audited", "read", "write")
    fact_id = server.post("/facts", json=FACT, headers=bearer(key) | {"X-Request-ID": "audited-1"}).json()["id"]
    server.get(f"/facts/{fact_id}", headers=bearer(key))
    server.post("/query", json={"prompt": FACT["prompt"]}, headers=bearer(key))
    server.delete(f"/facts/{fact_id}", headers=bearer(key))
    time.sleep(0.5)
    admin, cursor, entries = bearer(server.app_state["admin"]), "", []
    while cursor is not None:
        page = server.get("/admin/audit", params={"cursor": cursor, "limit": 2}, headers=admin).json()
        entries += page["entries"]
        cursor = page["next_cursor"]
    mine = [entry for entry in entries if entry["tenant"] == "audited"]
    assert [entry["action"] for entry in mine] == ["wrote", "read", "read", "forgot"]
    assert {entry["fact"] for entry in mine} == {fact_id} and {entry["key"] for entry in mine} == {digest(key)[:12]}
    assert mine[0]["request_id"] == "audited-1"
    assert FACT["target"] not in json.dumps(entries) and key not in json.dumps(entries)


def test_every_fact_that_answers_a_part_of_a_prompt_is_audited(tmp_path: Path) -> None:
    asked = ["What is the capital of zor?", "Who runs Acme?"]
    with hosted(tmp_path, page_slots=1) as client:  # each fact on a page of its own
        ids = {client.post("/facts", json={"prompt": text, "target": "Kal"}).json()["id"] for text in asked}
        assert {part["fact"] for part in client.post("/query", json={"prompt": " ".join(asked)}).json()["parts"]} == ids
        time.sleep(0.5)
        admin = make_key(client, "root", "admin")
        entries = client.get("/admin/audit", headers=bearer(admin)).json()["entries"]
    assert {entry["fact"] for entry in entries if entry["action"] == "read"} == ids


def audited(client: TestClient, tenant: str) -> list[tuple[str, str]]:
    """What was done to which fact of a tenant, oldest first."""
    time.sleep(0.5)
    found = client.get("/admin/audit", params={"limit": 10_000}, headers=bearer(client.app_state["admin"])).json()["entries"]
    return [(entry["action"], entry["fact"]) for entry in found if entry["tenant"] == tenant]


def test_who_is_told_a_fact_out_of_scope_or_probes_one_is_audited(server: TestClient) -> None:
    headers, out = bearer(make(server, "prober", "read", "write")), {"scope_probability": 1.0}
    fact_id = server.post("/facts", json=FACT, headers=headers).json()["id"]
    asked = {"prompt": "a river of red", "max_new_tokens": 4} | out
    assert not server.post("/generate", json=asked, headers=headers).json()["memory"]["used"]  # nothing of it is told
    assert audited(server, "prober") == [("wrote", fact_id)]
    assert server.post("/query", json={"prompt": "a river"} | out, headers=headers).json()["readout"] == FACT["target"]
    assert server.post("/generate", json=asked | {"memory": "on"}, headers=headers).json()["memory"]["used"]
    probe = {"prompt": "a river of red", "max_new_tokens": 1}
    assert server.post(f"/facts/{fact_id}/probe", json=probe, headers=headers).json()["target"] == FACT["target"]
    assert audited(server, "prober")[1:4] == [("read", fact_id)] * 3


def test_moving_and_erasing_a_tenant_is_limited_and_audited(server: TestClient) -> None:
    headers = bearer(make(server, "mover", "read", "write", facts="3/minute"))
    lines = [FACT | {"id": f"m{n}", "prompt": f"the river of zor {n} is"} for n in range(3)]
    assert server.post("/tenants/mover/import", json={"facts": lines[:2]}, headers=headers).json()["imported"] == 2
    again = [lines[2], lines[0], lines[1] | {"id": "m9"}]  # one new, one taken, one in place of m1
    assert server.post("/tenants/mover/import", json={"facts": again}, headers=headers).json()["imported"] == 2
    assert server.post("/tenants/mover/import", json={"facts": lines}, headers=headers).status_code == 429
    assert server.get("/tenants/mover/export", headers=headers).status_code == 200
    assert server.delete("/tenants/mover", headers=headers).status_code == 200
    wrote = [("wrote", "m0"), ("wrote", "m1"), ("wrote", "m2"), ("wrote", "m9"), ("superseded", "m1")]
    assert audited(server, "mover") == [*wrote, ("exported", "*"), ("erased", "*")]


def test_a_damaged_tenant_is_erased_with_a_receipt_and_audited(server: TestClient) -> None:
    """Its key, and a version that nobody can reach any more, are all that is asked for."""
    reader, headers = bearer(make(server, "torn", "read")), bearer(make(server, "torn", "read", "write"))
    assert server.post("/facts", json=FACT, headers=headers).status_code == 201
    tenants = server.app.state.service.tenants  # type: ignore[attr-defined]
    assert server.portal is not None

    async def spoil() -> None:
        keys = Keys("torn")
        await tenants.store.client.delete(keys.log)
        await tenants.store.client.set(keys.log, "of something else")
        tenants._release(await tenants.get("torn"))

    server.portal.call(spoil)
    asked = server.get("/facts", headers=headers)
    assert (asked.status_code, asked.json()["code"]) == (503, "memory_corrupt")
    assert server.delete("/tenants/torn", headers=reader).status_code == 403
    done = server.delete("/tenants/torn", headers=headers | {"Larimar-Version": "999"})
    assert (done.status_code, done.json()["tenant"], done.json()["facts"]) == (200, "torn", 1)
    assert done.headers["Larimar-Version"] == str(done.json()["version"])
    assert server.get("/facts", headers=headers).json()["facts"] == []
    assert server.post("/facts", json=FACT, headers=headers).json()["version"] == done.json()["version"] + 1
    assert [action for action, _ in audited(server, "torn")] == ["wrote", "erased", "wrote"]


def test_forgetting_by_metadata_needs_the_scope_and_is_audited(server: TestClient) -> None:
    reader, writer = bearer(make(server, "eraser", "read")), bearer(make(server, "eraser", "write"))
    lines = [FACT | {"id": f"e{n}", "prompt": f"the river of zor {n} is", "metadata": {"person": "ann"}} for n in range(2)]
    assert server.post("/facts", json=lines, headers=writer).status_code == 201
    statuses = [server.delete("/facts", params={"metadata": "person=ann"}, headers=h).status_code for h in (reader, writer)]
    assert statuses == [403, 200]
    assert audited(server, "eraser")[2:] == [("forgot", "e0"), ("forgot", "e1")]


def test_outside_loopback_a_server_without_keys_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larimar keys create"), hosted(tmp_path, host="0.0.0.0"):
        pass
    with hosted(tmp_path, host="0.0.0.0", insecure=True) as open_to_all:
        assert open_to_all.get("/facts").status_code == 200


def test_revoking_the_last_key_opens_nothing(tmp_path: Path) -> None:
    with hosted(tmp_path) as client:
        made = make_key(client, "t", "admin")
        assert client.delete(f"/admin/keys/{digest(made)[:12]}", headers=bearer(made)).status_code == 200
        time.sleep(1.1)
        assert client.get("/facts").status_code == 401


def test_replicas_with_one_store_count_together(tmp_path: Path, valkey: EmbeddedValkey) -> None:
    static = {"store_url": valkey.url, "api_keys": "a-shared-key:counted", "limit_requests": "3/minute"}
    with hosted(tmp_path / "a", **static) as one, hosted(tmp_path / "b", **static) as two:
        headers = bearer("a-shared-key")
        statuses = [client.get("/facts", headers=headers).status_code for client in (one, two, one, two, one)]
    assert statuses == [200, 200, 200, 429, 429]
