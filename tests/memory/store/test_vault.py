"""The files of data keys: what is found again, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from memory.store import vault as vaults
from memory.store.connection import connect
from memory.store.redis_store import RedisStore
from memory.store.sealed_record import DataKey
from memory.store.vault import Vault
from tests.memory.changes import MODEL, fact, fill, write
from tests.memory.servers import Server

WAIT_S = 30.0  # for what would otherwise wait for ever


def keys(*versions: int) -> dict[int, DataKey]:
    return {version: DataKey.new() for version in versions}


def found(vault: Vault, *versions: int) -> dict[int, set[DataKey]]:
    return {version: set(held.values()) for version, held in vault.get("acme", versions).items()}


def on_a_thread(do: Callable[[], object]) -> bool:
    """Whether it comes to its end."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return not thread.is_alive()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where in a file records were looked at."""
    places: list[int] = []
    record_at = vaults._record_at

    def noting(raw: bytes, place: int) -> tuple[int, bytes] | None:
        places.append(place)
        return record_at(raw, place)

    monkeypatch.setattr(vaults, "_record_at", noting)
    return places


class TestFile:
    @pytest.mark.parametrize("opened", ["still", "anew"])
    def test_gives_what_was_put_and_not_erased(self, tmp_path: Path, opened: str) -> None:
        vault, first, again, after = Vault(tmp_path), keys(1, 2, 3, 4), keys(3), keys(5, 6)
        vault.put("acme", first)
        vault.put("acme", again)  # a commit that was given up and repeated
        vault.put("other", keys(4))
        vault.erase("acme", [2, 4])
        vault.put("acme", after)  # in the places that are free now
        if opened == "anew":
            vault = Vault(tmp_path)
        assert set(vault._known("acme").places) == {1, 3, 5, 6}
        assert found(vault, 1, 2, 3, 4) == {1: {first[1]}, 3: {first[3], again[3]}}
        assert found(vault, 5, 6, 7) == {5: {after[5]}, 6: {after[6]}}
        vault.drop("acme")
        assert (set(vault._known("acme").places), found(vault, 1, 3, 5, 6)) == (set(), {})

    @pytest.mark.parametrize("opened", ["still", "anew"])
    def test_leaves_out_what_is_torn(self, tmp_path: Path, opened: str) -> None:
        vault, put = Vault(tmp_path), keys(1, 2, 3)
        vault.put("acme", put)
        path = vault._path("acme")
        raw = bytearray(path.read_bytes())
        raw[2 * vaults._SIZE + 20] ^= 1
        path.write_bytes(raw[: 3 * vaults._SIZE + 30])
        if opened == "anew":
            vault = Vault(tmp_path)
        assert found(vault, 1, 2, 3) == {1: {put[1]}}

    def test_only_what_is_asked_for_is_looked_at(self, tmp_path: Path, looked_at: list[int]) -> None:
        vault = Vault(tmp_path)
        vault.put("acme", keys(*range(1, 1001)))
        looked_at.clear()
        assert len(found(vault, 3, 500, 998)) == len(looked_at) == 3


class TestWaiting:
    def test_nobody_waits_while_keys_are_taken_from_what_was_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        vault, record_at, through = Vault(tmp_path), vaults._record_at, list[bool]()
        vault.put("acme", keys(1))

        def slow(raw: bytes, place: int) -> tuple[int, bytes] | None:
            through.append(on_a_thread(lambda: vault.put("acme", keys(2))))
            return record_at(raw, place)

        monkeypatch.setattr(vaults, "_record_at", slow)
        assert (list(vault.get("acme", [1])), through) == ([1], [True])

    def test_another_tenants_file_is_not_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        vault, record_at, through = Vault(tmp_path), vaults._record_at, list[bool]()
        Vault(tmp_path).put("acme", keys(1))

        def slow(raw: bytes, place: int) -> tuple[int, bytes] | None:
            through.append(on_a_thread(lambda: vault.put("other", keys(1))))
            return record_at(raw, place)

        monkeypatch.setattr(vaults, "_record_at", slow)
        assert (set(vault._known("acme").places), through) == ({1}, [True])  # the whole of it, as it is met for the first time


@pytest.mark.service
@pytest.mark.anyio
class TestSnapshot:
    """What a snapshot asks of the vault, of a tenant of more facts than it covers."""

    async def test_looks_at_the_keys_of_its_pages_alone(self, server: Server, tmp_path: Path, looked_at: list[int], tenant: str) -> None:
        store = RedisStore(connect(server.url), vault=Vault(tmp_path))
        await fill(store, tenant, 40)
        looked_at.clear()
        assert await store.snapshot(tenant, {0: [fact(v) for v in (1, 2, 3)]}, 40, MODEL)
        assert len(looked_at) == 3
        await store.close()

    async def test_a_write_does_not_wait_for_it(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenant: str
    ) -> None:
        store = RedisStore(connect(server.url), vault=Vault(tmp_path))
        await fill(store, tenant, 5)
        record_at, begun, written = vaults._record_at, threading.Event(), threading.Event()

        def held_up(raw: bytes, place: int) -> tuple[int, bytes] | None:
            begun.set()
            assert written.wait(WAIT_S)
            return record_at(raw, place)

        monkeypatch.setattr(vaults, "_record_at", held_up)
        snapshot = asyncio.create_task(store.snapshot(tenant, {0: [fact(v) for v in range(1, 6)]}, 5, MODEL))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        await store.commit(tenant, write(6), fingerprint=MODEL)
        written.set()
        assert await snapshot
        recovered = await store.load(tenant, MODEL)
        assert (recovered.version, recovered.alive()) == (6, {1, 2, 3, 4, 5, 6})
        await store.close()


class TestBounds:
    def test_indexes_and_locks_of_tenants_that_are_not_used_go(self, tmp_path: Path) -> None:
        put = {f"tenant-{number}": keys(*range(1, 51)) for number in range(40)}
        vault = Vault(tmp_path, index_bytes=50_000)
        for tenant, own in put.items():
            vault.put(tenant, own)
        assert 0 < len(vault._files) < 10 and not vault._turns
        assert vault.size_bytes == sum(file.size_bytes for file in vault._files.values()) <= 50_000
        for tenant, own in put.items():
            vault.erase(tenant, [1, 2])
            vault.put(tenant, keys(51))
            assert set(vault._known(tenant).places) == {*range(3, 52)}
            assert vault.get(tenant, [3])[3] == {own[3].id: own[3]}
            assert vault.size_bytes <= 50_000
        for tenant in put:
            vault.drop(tenant)
        assert (vault.size_bytes, len(vault._files), len(vault._turns)) == (0, 0, 0)

    def test_the_index_in_use_is_held_however_large_it_is(self, tmp_path: Path) -> None:
        vault = Vault(tmp_path, index_bytes=1)
        vault.put("acme", keys(*range(1, 101)))
        assert list(vault._files) == ["acme"] and vault.size_bytes > 100 * 64
        vault.put("other", keys(1))
        assert list(vault._files) == ["other"]

    def test_threads_of_many_tenants_lose_no_key(self, tmp_path: Path) -> None:
        vault = Vault(tmp_path, index_bytes=3_000)

        def work(tenant: str) -> None:
            for version in range(1, 41):
                vault.put(tenant, keys(version))
                if version % 4 == 0:
                    vault.erase(tenant, [version - 1])

        names = [f"tenant-{number % 4}" for number in range(4)]
        threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        for name in names:
            assert set(vault._known(name).places) == set(Vault(tmp_path)._known(name).places) == {v for v in range(1, 41) if v % 4 != 3}


@pytest.mark.service
@pytest.mark.anyio
async def test_keys_of_commits_that_never_came_through_are_swept_when_none_can_be_on_its_way(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of tenants that were written longer ago nothing is kept for that."""
    vault = Vault(tmp_path)
    store = RedisStore(connect(server.url), vault=vault)
    for number in range(3):
        await fill(store, f"sweep-{number}", 1)
    vault.put("sweep-0", keys(2))  # of a commit that was given up
    await store.load("sweep-0", MODEL)
    assert set(vault._known("sweep-0").places) == {1, 2} and len(vault._put_at) == 3
    monkeypatch.setattr("memory.store.vault.HINDSIGHT_S", 0.0)
    await store.load("sweep-0", MODEL)
    assert set(vault._known("sweep-0").places) == {1}
    await store.commit("sweep-2", write(2), fingerprint=MODEL)
    assert list(vault._put_at) == ["sweep-2"]
    await store.drop("sweep-2")
    assert not vault._put_at
    await store.close()
