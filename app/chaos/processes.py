"""The processes that faults are made in: this server, and Debian's Redis and Sentinel. All on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from app.bench.free_port import free_port


class Missing(Exception):
    """A program that the fault needs is not installed."""


class Process:
    """A program with its output in a file, started again as often as it is killed."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command, self.folder = list(command), folder
        self.environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        return self.folder / "output.log"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self.command, cwd=self.folder, env=self.environment, stdout=output, stderr=output)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> None:
        """Ends the program and waits for it; may be called again."""
        if self._process is None:
            return
        if self.alive:
            self.send(number)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Larimar(Process):
    """A server of this project, with its own data folder."""

    def __init__(self, folder: Path, weights: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"DATA_DIR": str(folder), "MODELS_DIR": str(weights), "PORT": str(self.port), "QUEUE_SIZE": "1024", **settings}
        kept = {name: "" for name in os.environ if name.startswith("LARIMAR_")}
        environment = {**kept, **{f"LARIMAR_{name}": value for name, value in own.items()}}
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        super().__init__([sys.executable, "-m", "app"], folder, environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
        for name in kept.keys() - {f"LARIMAR_{key}" for key in own}:
            del self.environment[name]

    def start(self, *, ready: bool = True, timeout_s: float = 120.0) -> None:
        super().start()
        deadline = time.monotonic() + timeout_s
        path = "/health/ready" if ready else "/health/live"
        with httpx.Client(base_url=self.url, trust_env=False, timeout=10) as client:
            while self.alive and time.monotonic() < deadline:
                try:
                    if client.get(path).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        raise RuntimeError(f"the server did not get ready; see {self.log}")


class Disk:
    """A small file system in memory, to be filled; only root may mount one."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder, self._filling = folder, folder / "filling"
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "larimar-chaos", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            raise Missing("a small disk cannot be mounted: run it as root")

    def fill(self) -> None:
        with suppress(OSError), self._filling.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        self._filling.unlink(missing_ok=True)

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


class Redis(Process):
    """Debian's redis-server with an append-only file that is fsynced before it answers."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        given = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(folder), "save": "", "appendonly": "yes"}
        given |= {"appendfsync": "always", "repl-diskless-sync-delay": "0", **{k.replace("_", "-"): v for k, v in options.items()}}
        words = [word for name, value in given.items() for word in (f"--{name}", *value.split(" "))]
        super().__init__([_program("redis-server"), *words], folder)

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.alive:
            if self.ask("PING") == "+PONG":
                return
            time.sleep(0.02)
        raise RuntimeError(f"redis-server did not answer; see {self.log}")

    def ask(self, *words: str) -> str:
        """The first line of the answer to a command; empty without one."""
        return self._answer(words)[0]

    def told(self, *words: str) -> str:
        """The text that a command answers with; empty without one."""
        return "\n".join(self._answer(words)[1:]).strip()

    def option(self, name: str) -> str:
        """What an option was set to at start."""
        return self.command[self.command.index(f"--{name}") + 1]

    def _answer(self, words: Sequence[str]) -> list[str]:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                parts = [word.encode() for word in words]
                connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
                return connection.recv(1 << 16).decode(errors="replace").splitlines() or [""]
        except OSError:
            return [""]


class Sentinel(Process):
    """Debian's redis-sentinel, watching one master called `larimar`."""

    def __init__(self, folder: Path, master: Redis, quorum: int) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor larimar 127.0.0.1 {master.port} {quorum}\n"
            "sentinel down-after-milliseconds larimar 500\nsentinel failover-timeout larimar 3000\nsentinel parallel-syncs larimar 1\n"
        )
        super().__init__([_program("redis-sentinel"), str(configuration)], folder)


class Cluster:
    """A Redis Cluster: a primary for each third of the slots, and a replica of each.

    Attributes:
        nodes: the primaries as they were at first, then their replicas.
    """

    def __init__(self, folder: Path) -> None:
        # A cluster's nodes speak to each other on a port 10,000 higher unless told.
        options = {"cluster_enabled": "yes", "cluster_node_timeout": "1000", "cluster_replica_validity_factor": "0"}
        self.nodes = [Redis(folder / f"node-{number}", cluster_port=str(free_port()), **options) for number in range(6)]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        first, thirds = self.nodes[0], (0, 5461, 10923, 16384)
        for number, node in enumerate(self.nodes[:3]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(thirds[number]), str(thirds[number + 1] - 1))
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", str(node.port), node.option("cluster-port"))
        self._until(lambda: all(len(node.told("CLUSTER", "NODES").splitlines()) == 6 for node in self.nodes))
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            name = primary.told("CLUSTER", "MYID")
            self._until(lambda replica=replica, name=name: replica.ask("CLUSTER", "REPLICATE", name) == "+OK")  # type: ignore[misc]
        self.settle()

    def settle(self) -> None:
        """Waits until every node holds the cluster for whole and every replica is linked to its primary."""
        self._until(lambda: all("cluster_state:ok" in node.told("CLUSTER", "INFO") for node in self.nodes))
        self._until(lambda: sum("state=online" in node.told("INFO", "replication") for node in self.nodes) == 3)

    def primary_of(self, key: str) -> Redis:
        """The node that holds a key now."""
        slot = int(next(node for node in self.nodes if node.alive).ask("CLUSTER", "KEYSLOT", key).removeprefix(":"))
        for node in self.nodes:
            for line in node.told("CLUSTER", "NODES").splitlines():
                words = line.split()
                if "myself" in words[2] and "master" in words[2] and any(_holds(span, slot) for span in words[8:]):
                    return node
        raise RuntimeError(f"no node holds slot {slot}")

    def end(self) -> None:
        for node in self.nodes:
            node.end()

    @staticmethod
    def _until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError("the nodes of the cluster did not come together")
            time.sleep(0.05)


def _holds(span: str, slot: int) -> bool:
    first, _, last = span.partition("-")
    return first.isdigit() and int(first) <= slot <= int(last or first)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed (Debian packages redis-server and redis-sentinel)")
    return found
