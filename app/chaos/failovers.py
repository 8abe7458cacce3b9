"""Failovers: of a pair watched by sentinels, and of one node of a cluster."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack

from app.chaos.ledger import Ledger
from app.chaos.processes import Cluster, Larimar, Redis, Sentinel
from app.chaos.stage import Outcome, Stage, count, wait_until_ready
from app.chaos.workload import Workload
from memory.store.key_names import Keys


def sentinel_failover(stage: Stage) -> Outcome:
    """The master of a pair watched by three sentinels is killed (-9) at level `replica`; it comes back as a replica."""
    outcome, ledger, rng = stage.outcome("sentinel-failover"), Ledger(), random.Random(stage.seed)
    pair = [Redis(stage.folder / f"redis-{number}") for number in range(2)]
    for redis in pair:
        redis.start()
    pair[1].ask("REPLICAOF", "127.0.0.1", str(pair[0].port))
    sentinels = [Sentinel(stage.folder / f"sentinel-{number}", pair[0], quorum=2) for number in range(3)]
    for sentinel in sentinels:
        sentinel.start()
    addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    server = Larimar(
        stage.folder / "server", stage.weights, STORE_URL=f"redis+sentinel://{addresses}/larimar", DURABILITY="replica"
    )
    workload = Workload(server.url, ledger, seed=stage.seed)
    try:
        time.sleep(3)  # the sentinels find each other and the replica
        server.start()
        for number in range(stage.rounds):
            master = next(redis for redis in pair if "role:master" in redis.told("INFO", "replication"))
            with workload.running():
                time.sleep(rng.uniform(0.3, 1.5))
                master.end(signal.SIGKILL)
                time.sleep(4)
                master.start()
                wait_until_ready(server)
                time.sleep(0.5)
            wait_until_ready(server)
            count(stage, outcome, number, workload)
    finally:
        for process in (server, *sentinels, *pair):
            process.end()
    return outcome


def cluster_failover(stage: Stage) -> Outcome:
    """Of a cluster of three primaries, each with a replica, one is killed (-9) at level `replica`; it comes back as a replica.
    Three tenants, each on a node of its own, are written to meanwhile."""
    outcome, rng = stage.outcome("cluster-failover"), random.Random(stage.seed)
    outcome.store = "redis"
    cluster = Cluster(stage.folder / "cluster")
    cluster.start()
    homes: dict[int, str] = {}  # a tenant for each primary
    for name in (f"tenant-{number}" for number in range(100)):
        homes.setdefault(cluster.primary_of(Keys(name).log).port, name)
    server = Larimar(
        stage.folder / "server",
        stage.weights,
        STORE_URL=cluster.url,
        DURABILITY="replica",
        SNAPSHOT_EVERY="20",
        STORE_TIMEOUT_S="2",
        API_KEYS=",".join(f"key-of-{name}:{name}" for name in homes.values()),
    )
    workloads = [Workload(server.url, Ledger(), seed=stage.seed, threads=2, api_key=f"key-of-{name}") for name in homes.values()]
    try:
        server.start()
        for number in range(stage.rounds):
            with ExitStack() as stack:
                for workload in workloads:
                    stack.enter_context(workload.running())
                time.sleep(rng.uniform(0.3, 1.5))
                primary = cluster.primary_of(Keys(rng.choice(list(homes.values()))).log)
                primary.end(signal.SIGKILL)
                time.sleep(4)
                primary.start()
                cluster.settle()
                wait_until_ready(server)
                time.sleep(0.5)
            wait_until_ready(server)
            count(stage, outcome, number, *workloads)
    finally:
        server.end()
        cluster.end()
    return outcome
