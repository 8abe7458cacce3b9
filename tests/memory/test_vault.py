"""The files of data keys: what is found again, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from memory import vault as vaults
from memory.connection import connect
from memory.record import DataKey
from memory.store import RedisStore
from memory.vault import Vault
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
        assert vault.versions("acme") == {1, 3, 5, 6}
        assert found(vault, 1, 2, 3, 4) == {1: {first[1]}, 3: {first[3], again[3]}}
        assert found(vault, 5, 6, 7) == {5: {after[5]}, 6: {after[6]}}
        vault.drop("acme")
        assert (vault.versions("acme"), found(vault, 1, 3, 5, 6)) == (set(), {})

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
        assert (vault.versions("acme"), through) == ({1}, [True])  # the whole of it, as it is met for the first time


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
