"""The embedded server: who may have it, when it ends, and what survives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memory.errors import StoreUnavailable
from memory.store.byte_search import Needle, files_with
from memory.store.connection import connect
from memory.store.embedded.folder_lock import FolderLock, LockHeld
from memory.store.embedded.process import Tether
from memory.store.embedded.valkey import EmbeddedValkey, _ping
from memory.store.redis_store import Recovered
from tests.memory import writer
from tests.memory.changes import MODEL, fact, fill, forget, plain

pytestmark = pytest.mark.service
ROUNDS = int(os.environ.get("LARIMAR_TEST_KILL_ROUNDS", "10"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def wait_until_gone(pid: int) -> None:
    for _ in range(1000):
        if not alive(pid):
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} was still there")


@contextlib.contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def server_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    word, pid = process.stdout.readline().split()
    assert word == "server"
    return int(pid)


def owner(folder: Path, tether: str = "signal") -> list[str]:
    """A program that starts a server on the folder, from a thread that ends, and then sleeps."""
    code = f"""
        import threading, time
        from memory.store.embedded.valkey import EmbeddedValkey
        valkey = EmbeddedValkey({str(folder)!r}, tether={tether!r})
        starting = threading.Thread(target=valkey.start)
        starting.start()
        starting.join()
        time.sleep(0.5)  # what a thread's end does to a child happens now
        print("server", valkey.pid, flush=True)
        time.sleep(600)
    """
    return ["-c", textwrap.dedent(code)]


def recover(folder: Path) -> Recovered:
    async def load(valkey: EmbeddedValkey) -> Recovered:
        store = writer.opened(folder, valkey)
        recovered = await store.load(writer.TENANT, MODEL)
        await store.close()
        return recovered

    with EmbeddedValkey(folder) as valkey:
        return asyncio.run(load(valkey))


class TestFolder:
    def test_is_private(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path / "new" / "data") as valkey:
            assert valkey.folder.stat().st_mode & 0o777 == 0o700
            assert not [path for path in valkey.folder.rglob("*") if path.stat().st_mode & 0o077]

    def test_second_owner_is_refused(self, tmp_path: Path) -> None:
        with program(*owner(tmp_path)) as first:
            server_of(first)
            with pytest.raises(StoreUnavailable, match=f"in use by process {first.pid}"):
                EmbeddedValkey(tmp_path).start()

    def test_second_owner_in_the_same_process_is_refused(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            with pytest.raises(StoreUnavailable, match=f"in use by process {os.getpid()}"):
                EmbeddedValkey(tmp_path).start()
            assert _ping(valkey.folder / "valkey.sock").startswith(b"+PONG")

    def test_stays_locked_while_the_server_outlives_its_owner(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            assert valkey._lock is not None
            valkey._lock.release()  # what the kernel does to an owner that is killed
            with pytest.raises(LockHeld):
                FolderLock(valkey.folder / "lock", patience_s=0)

    def test_what_a_killed_server_left_is_swept(self, tmp_path: Path) -> None:
        folder = tmp_path / "valkey"
        (folder / "appendonlydir").mkdir(parents=True)
        left = [folder / "temp-rewriteaof-7.aof", folder / "appendonlydir" / "temp-appendonly.aof.2.incr.aof"]
        for path in left:
            path.write_text("needle")
        (folder / "lock").write_text("4194305\n")  # above the highest pid
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(folder / "valkey.sock"))
        with EmbeddedValkey(tmp_path) as valkey:
            assert valkey.alive
        assert not any(path.exists() for path in left)

    def test_path_too_long_for_a_socket(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * 100) / ("e" * 100)
        with EmbeddedValkey(deep) as valkey:
            path = Path(valkey.url.removeprefix("unix://"))
            assert len(os.fsencode(path)) <= 103
            assert path.parent.stat().st_mode & 0o777 == 0o700
            assert _ping(path).startswith(b"+PONG")
        assert not path.parent.exists()

    def test_socket_folder_of_somebody_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        deep = tmp_path / ("d" * 100)
        with EmbeddedValkey(deep) as valkey:
            folder = Path(valkey.url.removeprefix("unix://")).parent
        folder.mkdir(mode=0o755)
        with pytest.raises(StoreUnavailable, match="not a private folder"):
            EmbeddedValkey(deep).start()

    def test_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            EmbeddedValkey(tmp_path / "file").start()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_not_writable(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            EmbeddedValkey(tmp_path).start()


class TestStart:
    def test_no_binary(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="ended at start"):
            EmbeddedValkey(tmp_path, binary=tmp_path / "missing").start()
        with EmbeddedValkey(tmp_path) as valkey:  # the folder was given up again
            assert valkey.alive

    def test_answers_nothing(self, tmp_path: Path) -> None:
        sleeper = tmp_path / "sleeper"
        sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
        sleeper.chmod(0o700)
        with pytest.raises(StoreUnavailable, match="no answer"):
            EmbeddedValkey(tmp_path, binary=sleeper, start_timeout_s=0.1).start()

    def test_damaged_file_is_refused_with_its_reason(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            asyncio.run(filled(tmp_path, valkey, 3))
        (written,) = (tmp_path / "valkey" / "appendonlydir").glob("*.incr.aof")
        content = bytearray(written.read_bytes())
        content[len(content) // 2 :: 100] = b"\r" * len(content[len(content) // 2 :: 100])
        content[:1] = b"?"
        written.write_bytes(content)
        with pytest.raises(StoreUnavailable, match="Bad file format"):
            EmbeddedValkey(tmp_path).start()

    def test_torn_end_is_cut_off(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            asyncio.run(filled(tmp_path, valkey, 3))
        (written,) = (tmp_path / "valkey" / "appendonlydir").glob("*.incr.aof")
        os.truncate(written, written.stat().st_size - 100)
        with EmbeddedValkey(tmp_path) as valkey:
            assert [change.version for change in asyncio.run(loaded(tmp_path, valkey)).changes] == [1, 2]

    def test_has_no_tcp_port_and_logs_no_commands(self, tmp_path: Path) -> None:
        async def settings(url: str) -> dict[str | None, str | None]:
            async with connect(url) as client:
                return await client.config_get("*")

        with EmbeddedValkey(tmp_path) as valkey:
            found = asyncio.run(settings(valkey.url))
        assert found["port"] == "0"
        assert found["slowlog-log-slower-than"] == "-1"
        assert found["appendfsync"] == "always"


class TestEnd:
    @pytest.mark.parametrize("tether", ["signal", "pipe"])
    def test_ends_with_its_owner_killed(self, tmp_path: Path, tether: Tether) -> None:
        if tether == "signal" and sys.platform != "linux":
            pytest.skip("the parent death signal is Linux's")
        with program(*owner(tmp_path, tether)) as process:
            server = server_of(process)
            assert alive(server)  # though the thread that called start has ended
            process.kill()
            wait_until_gone(server)
        with EmbeddedValkey(tmp_path) as valkey:
            assert valkey.alive

    def test_is_not_in_our_session(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            assert os.getsid(valkey.pid) != os.getsid(0)

    def test_close(self, tmp_path: Path) -> None:
        valkey = EmbeddedValkey(tmp_path)
        valkey.start()
        pid = valkey.pid
        valkey.close()
        valkey.close()
        assert not alive(pid) and not valkey.alive
        assert not (valkey.folder / "valkey.sock").exists()
        assert "User requested shutdown" in valkey.log.read_text()

    def test_close_of_one_that_does_not_listen(self, tmp_path: Path) -> None:
        valkey = EmbeddedValkey(tmp_path)
        valkey.start()
        assert valkey._child is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        valkey._child.stop(timeout_s=0.05)
        valkey.close()
        assert not valkey.alive

    def test_death_is_noticed(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            os.kill(valkey.pid, signal.SIGKILL)
            while valkey.alive:
                time.sleep(0.01)

    def test_one_that_died_is_started_again_with_all_it_had(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path) as valkey:
            asyncio.run(filled(tmp_path, valkey, 3))
            url, pid = valkey.url, valkey.pid
            valkey.restart()
            assert valkey.pid == pid  # it runs: nothing to do
            os.kill(pid, signal.SIGKILL)
            while valkey.alive:
                time.sleep(0.01)
            valkey.restart()
            assert (valkey.alive, valkey.url) == (True, url) and valkey.pid != pid
            assert asyncio.run(loaded(tmp_path, valkey)).version == 3
            with pytest.raises(StoreUnavailable, match="in use by"):  # the folder was ours all the time
                EmbeddedValkey(tmp_path).start()
        valkey.restart()  # it was closed
        assert not valkey.alive

    def test_no_thread_is_left(self, tmp_path: Path) -> None:
        with EmbeddedValkey(tmp_path):
            pass
        for thread in threading.enumerate():
            if thread.name.startswith("keeper"):
                thread.join(10)
                assert not thread.is_alive()


class TestKill:
    def test_nothing_acknowledged_is_lost(self, tmp_path: Path) -> None:
        """SIGKILL at random moments, of every other round after a change is acknowledged; each goes on from what the last one left."""
        random_ = random.Random(3)
        acknowledged = 0
        for number in range(ROUNDS):
            with program("-m", "tests.memory.writer", str(tmp_path)) as process:
                server = server_of(process)
                timer = threading.Timer(random_.uniform(0.05, 0.35), process.kill)
                if number % 2:
                    timer.start()
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("ack ") and line.endswith("\n"):
                        acknowledged = int(line.split()[1])
                        if timer.ident is None:  # it is not started yet
                            timer.start()
                timer.join()
            wait_until_gone(server)
            recovered = recover(tmp_path)
            assert recovered.version - acknowledged in (0, 1)  # the one in flight may have come through
            assert writer.replayed(recovered) == writer.state_at(recovered.version)
            for change in recovered.changes:
                wanted = writer.change_at(change.version)
                assert plain([change]) == plain([wanted if change.fact else replace(wanted, fact=None)])
            acknowledged = recovered.version
        assert acknowledged >= ROUNDS // 2  # it did write


class TestForgetting:
    @pytest.mark.parametrize("end", ["closed", "killed"])
    def test_leaves_no_byte_in_any_file(self, tmp_path: Path, end: str) -> None:
        """Text, key and code: never in the clear, and sealed with a key that is in no file any more."""
        gone, kept = fact(2, "needle"), fact(3, "needle")
        with EmbeddedValkey(tmp_path) as valkey:
            key = asyncio.run(written_and_forgotten(tmp_path, valkey))
            if end == "killed":
                os.kill(valkey.pid, signal.SIGKILL)
        needles = [Needle("text", gone.prompt.encode()), Needle("key", gone.key.numpy().tobytes()[:24])]
        needles += [Needle("code", gone.code.numpy().tobytes()[:24]), Needle("data key", key)]
        assert not list(files_with(tmp_path, needles))
        with EmbeddedValkey(tmp_path) as valkey:
            recovered = asyncio.run(loaded(tmp_path, valkey))
            assert recovered.alive() == {1, 3}
            assert [f.prompt for page in recovered.pages.values() for f in page.facts if f.version == 3] == [kept.prompt]
        assert not list(files_with(tmp_path, needles))

    def test_a_forget_cut_short_is_finished_at_the_next_start(self, tmp_path: Path) -> None:
        async def half(valkey: EmbeddedValkey) -> bytes:
            store = writer.opened(tmp_path, valkey)
            assert store._vault is not None
            await fill(store, "default", 3)
            key = next(iter(store._vault.get("default", [2])[2].values())).key
            store._vault.erase = lambda *_: None  # type: ignore[method-assign]  # killed before it
            await store.commit("default", forget(4, 2), fingerprint=MODEL)
            await store.close()
            return key

        with EmbeddedValkey(tmp_path) as valkey:
            key = asyncio.run(half(valkey))
        assert list(files_with(tmp_path, [Needle("data key", key)]))
        with EmbeddedValkey(tmp_path) as valkey:
            assert asyncio.run(loaded(tmp_path, valkey)).alive() == {1, 3}
        assert not list(files_with(tmp_path, [Needle("data key", key)]))


async def filled(folder: Path, valkey: EmbeddedValkey, last: int) -> None:
    store = writer.opened(folder, valkey)
    await fill(store, "default", last)
    await store.close()


async def loaded(folder: Path, valkey: EmbeddedValkey) -> Recovered:
    store = writer.opened(folder, valkey)
    recovered = await store.load("default", MODEL)
    await store.close()
    return recovered


async def written_and_forgotten(folder: Path, valkey: EmbeddedValkey) -> bytes:
    """Facts in log and snapshot, one of them forgotten; returns the data key it had."""
    store = writer.opened(folder, valkey)
    assert store._vault is not None
    facts = [replace(change.fact, version=change.version) for change in await fill(store, "default", 3, "needle") if change.fact]
    assert await store.snapshot("default", {0: facts}, 3, MODEL)
    key = next(iter(store._vault.get("default", [2])[2].values())).key
    assert list(files_with(folder, [Needle("data key", key)]))
    await store.commit("default", forget(4, 2), fingerprint=MODEL)
    await store.close()
    return key
