"""The faults. Each takes a Stage and returns after its last round; the report counts what must never be."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from app.chaos.clock import Clock
from app.chaos.failovers import cluster_failover, sentinel_failover
from app.chaos.ledger import Ledger
from app.chaos.processes import Disk, Larimar, Redis
from app.chaos.proxy import Cut, Proxy
from app.chaos.stage import Outcome, Stage, count, wait_until_ready
from app.chaos.workload import STEMS, Workload
from memory.store.byte_search import Needle, files_with


def kill_server(stage: Stage) -> Outcome:
    """The server is killed (-9) at a random instant during writes and forgets, and started again."""
    outcome, rng, ledger = stage.outcome("kill-server"), random.Random(stage.seed), Ledger()
    redis = Redis(stage.folder / "redis") if stage.store == "redis" else None
    if redis is not None:
        redis.start()
    server = Larimar(stage.folder / "server", stage.weights, STORE_URL=redis.url if redis else "", SNAPSHOT_EVERY="20")
    workload = Workload(server.url, ledger, seed=stage.seed)
    try:
        server.start()
        for number in range(stage.rounds):
            with workload.running():
                time.sleep(rng.uniform(0.05, 1.5))
                server.end(signal.SIGKILL)
            server.start()
            count(stage, outcome, number, workload)
        server.end()
        _audit(outcome, stage.folder / "server", ledger)
    finally:
        server.end()
        if redis is not None:
            redis.end()
    return outcome


def kill_store(stage: Stage) -> Outcome:
    """Redis is killed (-9) under the server, which lives on, and started again."""
    return _with_redis(stage, "kill-store", _kill_and_start)


def pause_store(stage: Stage) -> Outcome:
    """Redis is stopped (SIGSTOP) for 10 seconds: longer than the server waits."""

    def pause(redis: Redis, _rng: random.Random) -> None:
        redis.send(signal.SIGSTOP)
        time.sleep(10)
        redis.send(signal.SIGCONT)

    return _with_redis(stage, "pause-store", pause)


def full_store(stage: Stage) -> Outcome:
    """Redis is out of memory (maxmemory, noeviction), and then is not."""

    def fill(redis: Redis, _rng: random.Random) -> None:
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        time.sleep(0.5)
        redis.ask("CONFIG", "SET", "maxmemory", "0")

    return _with_redis(stage, "full-store", fill)


def read_only_store(stage: Stage) -> Outcome:
    """Redis becomes a replica, which takes no writes, and a master again."""

    def demote(redis: Redis, _rng: random.Random) -> None:
        redis.ask("REPLICAOF", "127.0.0.1", "1")  # nobody is there, so it keeps what it has
        time.sleep(0.5)
        redis.ask("REPLICAOF", "NO", "ONE")

    return _with_redis(stage, "read-only-store", demote)


def cut_connection(stage: Stage) -> Outcome:
    """The connection between server and Redis drops, is silent for longer than the server waits, or ends in mid-command."""
    outcome, rng, ledger = stage.outcome("cut-connection"), random.Random(stage.seed), Ledger()
    outcome.store = "redis"
    redis = Redis(stage.folder / "redis")
    redis.start()
    proxy = Proxy(redis.port, delay_s=3.0)
    address = f"redis://127.0.0.1:{proxy.port}"
    server = Larimar(stage.folder / "server", stage.weights, STORE_URL=address, SNAPSHOT_EVERY="20", STORE_TIMEOUT_S="2")
    workload = Workload(server.url, ledger, seed=stage.seed)
    cuts: tuple[Cut, ...] = get_args(Cut)
    try:
        server.start()
        for number in range(stage.rounds):
            with workload.running():
                time.sleep(rng.uniform(0.05, 1.0))
                proxy.start(cuts[number % len(cuts)])
                time.sleep(rng.uniform(0.2, 2.0))
                proxy.heal()
                wait_until_ready(server)
                time.sleep(0.2)
            count(stage, outcome, number, workload)
    finally:
        server.end()
        proxy.close()
        redis.end()
    return outcome


def full_disk(stage: Stage) -> Outcome:
    """The disk of the embedded store and of the data keys is full, and then is not; nobody starts anything again by hand."""
    outcome, rng, ledger = stage.outcome("full-disk"), random.Random(stage.seed), Ledger()
    outcome.store = "embedded"
    disk = Disk(stage.folder / "disk", size_mb=256)
    server = Larimar(stage.folder / "server", stage.weights, DATA_DIR=str(disk.folder), SNAPSHOT_EVERY="20")
    workload = Workload(server.url, ledger, seed=stage.seed)
    try:
        server.start()
        for number in range(stage.rounds):
            with workload.running():
                time.sleep(rng.uniform(0.05, 1.0))
                disk.fill()
                time.sleep(rng.uniform(0.5, 2.0))
                disk.free()
                wait_until_ready(server)
                time.sleep(0.2)
            count(stage, outcome, number, workload)
        server.end()
        server.start()
        count(stage, outcome, stage.rounds, workload)
        server.end()
        _audit(outcome, disk.folder, ledger)
    finally:
        server.end()
        disk.end()
    return outcome


def clock_back(stage: Stage) -> Outcome:
    """The clock of server and embedded store jumps back, by a second to a day, and forth again; then the server is killed."""
    outcome, rng, ledger = stage.outcome("clock-back"), random.Random(stage.seed), Ledger()
    outcome.store = "embedded"
    clock = Clock(stage.folder)
    server = Larimar(stage.folder / "server", stage.weights, SNAPSHOT_EVERY="20")
    server.environment |= clock.environment
    workload = Workload(server.url, ledger, seed=stage.seed)
    try:
        server.start()
        for number in range(stage.rounds):
            with workload.running():
                for _ in range(4):
                    time.sleep(rng.uniform(0.05, 0.5))
                    clock.set(-(10 ** rng.uniform(0, 5)))
                server.end(signal.SIGKILL)
            server.start()
            count(stage, outcome, number, workload)
        server.end()
        _audit(outcome, stage.folder / "server", ledger)
    finally:
        server.end()
    return outcome


def crowd(stage: Stage) -> Outcome:
    """500 clients write to and forget from one tenant at once, and in the midst of it the server is killed (-9)."""
    outcome, ledger = stage.outcome("crowd"), Ledger()
    server = Larimar(stage.folder / "server", stage.weights)
    outcome.store = "embedded"
    workload = Workload(server.url, ledger, seed=stage.seed, threads=500)
    try:
        server.start()
        for number in range(stage.rounds):
            with workload.running():
                time.sleep(15)
                server.end(signal.SIGKILL)
            server.start()
            count(stage, outcome, number, workload)
        server.end()
        _audit(outcome, stage.folder / "server", ledger)
    finally:
        server.end()
    return outcome


FAULTS: dict[str, Callable[[Stage], Outcome]] = {
    "kill-server": kill_server,
    "kill-store": kill_store,
    "pause-store": pause_store,
    "full-store": full_store,
    "read-only-store": read_only_store,
    "sentinel-failover": sentinel_failover,
    "cluster-failover": cluster_failover,
    "cut-connection": cut_connection,
    "full-disk": full_disk,
    "clock-back": clock_back,
    "crowd": crowd,
}


def _with_redis(stage: Stage, name: str, fault: Callable[[Redis, random.Random], None]) -> Outcome:
    outcome, rng, ledger = stage.outcome(name), random.Random(stage.seed), Ledger()
    outcome.store = "redis"
    redis = Redis(stage.folder / "redis")
    redis.start()
    server = Larimar(stage.folder / "server", stage.weights, STORE_URL=redis.url, SNAPSHOT_EVERY="20", STORE_TIMEOUT_S="2")
    workload = Workload(server.url, ledger, seed=stage.seed)
    try:
        server.start()
        for number in range(stage.rounds):
            with workload.running():
                time.sleep(rng.uniform(0.05, 1.0))
                fault(redis, rng)
                wait_until_ready(server)
                time.sleep(0.2)
            count(stage, outcome, number, workload)
        server.end()
        server.start()
        count(stage, outcome, stage.rounds, workload)
    finally:
        server.end()
        redis.end()
    return outcome


def _kill_and_start(redis: Redis, rng: random.Random) -> None:
    redis.end(signal.SIGKILL)
    time.sleep(rng.uniform(0.0, 0.3))
    redis.start()


def _audit(outcome: Outcome, folder: Path, ledger: Ledger) -> None:
    """No word of a forgotten fact may lie in a file of the server, its log included. Those of the others are sealed: mostly there
    is no word of any, and to look for what all have in common is enough."""
    if not any(files_with(folder, [Needle("any", stem.encode()) for stem in STEMS])):
        return
    words = [Needle(f"word {number}", target.encode() + b'"') for number, (_, target) in enumerate(ledger.forgotten())]
    words += [Needle(f"prompt {number}", prompt.encode()) for number, (prompt, _) in enumerate(ledger.forgotten())]
    outcome.needles = sum(1 for _ in files_with(folder, words))
