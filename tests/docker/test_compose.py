"""The services of docker-compose.yml, run without containers: their own commands and configurations, with paths and names moved."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from app.bench.free_port import free_port
from memory.errors import MemoryError_
from memory.store.connection import connect
from memory.store.redis_store import RedisStore

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PASSWORD = "a long password"
pytestmark = pytest.mark.service
needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")
needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy")


def until(holds: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError, httpx.TransportError):
            if holds():
                return
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


@contextmanager
def started(folder: Path, service: str, moved: dict[str, str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service's own command in `folder`, with texts of it moved."""
    folder.mkdir()
    (folder / "password").write_text(PASSWORD)
    program, option, shell = SERVICES[service]["command"]
    shell = shell.replace("$$", "$").replace("/run/secrets/larimar_store_password", "password")
    for name, here in moved.items():
        assert name in shell, name
        shell = shell.replace(name, here)
    variables = os.environ | {"HOSTNAME": "127.0.0.1"} | SERVICES[service].get("environment", {}) | environment
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, option, shell], cwd=folder, env=variables, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


@contextmanager
def node(folder: Path, service: str, primary: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], redis.Redis]]:
    """A Redis of the compose file on a free port of the loopback."""
    port = free_port()
    text = (ROOT / "docker" / "redis" / "redis.conf").read_text()
    conf = folder.with_suffix(".conf")
    conf.write_text(text.replace("dir /data", f"dir {folder}").replace("bind 0.0.0.0", f"bind 127.0.0.1\nport {port}"))
    own = {} if primary is None else {"REPLICA": f"replicaof 127.0.0.1 {primary}"}
    with started(folder, service, {"/etc/redis.conf": str(conf)}, **own) as process:
        client = redis.Redis(port=port, password=PASSWORD)
        until(client.ping)
        yield process, client


def port_of(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


@needs_redis
def test_redis_keeps_what_it_acknowledges_and_wants_its_password(tmp_path: Path) -> None:
    with node(tmp_path / "redis", "redis") as (process, client):
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port_of(client)).ping()
        process.terminate()
        assert process.wait(10) == 0  # the signal reaches the server itself


@contextmanager
def sentinels(folder: Path, primary: int) -> Iterator[list[int]]:
    """The ports of the three sentinels."""
    text = (ROOT / "docker" / "redis" / "sentinel.conf").read_text()
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        for number, port in enumerate(ports, 1):
            own = folder / f"sentinel-{number}"
            conf = own.with_suffix(".conf")
            moved = {"port 26379": f"port {port}", "dir /data": f"dir {own}", "larimar redis 6379": f"larimar 127.0.0.1 {primary}"}
            quick = {"down-after-milliseconds larimar 5000": "down-after-milliseconds larimar 500"}
            changed = text
            for name, here in (moved | quick).items():
                assert name in changed
                changed = changed.replace(name, here)
            conf.write_text(changed + "bind 127.0.0.1\n")
            stack.enter_context(started(own, f"sentinel-{number}", {"/etc/sentinel.conf": str(conf), "/data": str(own)}))
        yield ports


@needs_redis
def test_sentinel_puts_a_replica_in_the_primarys_place_and_the_store_follows(tmp_path: Path) -> None:
    """The profile `ha` as it is: primary, two replicas, three sentinels; the primary is killed."""
    with ExitStack() as stack:
        process, primary = stack.enter_context(node(tmp_path / "redis", "redis"))
        for name in ("redis-2", "redis-3"):
            stack.enter_context(node(tmp_path / name, name, port_of(primary)))
        until(lambda: primary.info("replication")["connected_slaves"] == 2)
        ports = stack.enter_context(sentinels(tmp_path, port_of(primary)))
        watching = redis.Redis(port=ports[0])
        until(lambda: watching.sentinel_masters()["larimar"]["num-other-sentinels"] == 2)
        until(lambda: watching.sentinel_masters()["larimar"]["num-slaves"] == 2)
        url = f"redis+sentinel://:{PASSWORD.replace(' ', '%20')}@{','.join(f'127.0.0.1:{port}' for port in ports)}/larimar"

        async def level() -> str:
            store = RedisStore(connect(url, timeout_s=2), level="replica", replicas=1)
            try:
                return (await store.ping()).level
            finally:
                await store.close()

        def promised() -> bool:
            with suppress(MemoryError_):  # until a replica has found its primary
                return asyncio.run(level()) == "replica"
            return False

        until(promised)
        process.kill()
        until(lambda: watching.sentinel_get_master_addr_by_name("larimar") != ("127.0.0.1", port_of(primary)))
        until(promised)


class Backend(BaseHTTPRequestHandler):
    """A server that is ready or not, and says who it is."""

    def do_GET(self) -> None:
        ready = self.server.ready  # type: ignore[attr-defined]  # set below
        self.send_response(200 if ready or self.path != "/health/ready" else 503)
        self.end_headers()
        self.wfile.write(str(self.server.server_port).encode())  # type: ignore[attr-defined]  # an HTTPServer's

    def log_message(self, *_: object) -> None:
        pass


@needs_haproxy
def test_the_balancers_configuration_is_valid() -> None:
    done = subprocess.run(["haproxy", "-c", "-f", "docker/haproxy/haproxy.cfg"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


@needs_haproxy
def test_the_balancer_asks_ready_servers_only(tmp_path: Path) -> None:
    text, port = (ROOT / "docker" / "haproxy" / "haproxy.cfg").read_text(), free_port()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Backend) for _ in range(3)]
    try:
        for server in servers:
            server.ready = True  # type: ignore[attr-defined]
            threading.Thread(target=server.serve_forever, daemon=True).start()
        lines = "\n".join(f"    server s{n} 127.0.0.1:{server.server_port}" for n, server in enumerate(servers))
        moved = {
            "    server-template server 3 server-ha:8080": lines,
            "bind :8080": f"bind 127.0.0.1:{port}",
            "inter 2s": "inter 100ms",
            " resolvers docker init-addr none": "",
        }
        for name, here in moved.items():
            assert name in text
            text = text.replace(name, here)
        (tmp_path / "haproxy.cfg").write_text(text)
        process = subprocess.Popen(["haproxy", "-f", "haproxy.cfg"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:

            def answered() -> set[str]:
                return {httpx.get(f"http://127.0.0.1:{port}/facts").text for _ in range(12)}

            names = [str(server.server_port) for server in servers]
            until(lambda: answered() == set(names))
            servers[0].ready = False  # type: ignore[attr-defined]
            until(lambda: answered() == set(names[1:]))
            servers[1].shutdown()
            servers[1].server_close()
            assert all(httpx.get(f"http://127.0.0.1:{port}/facts").status_code == 200 for _ in range(30))  # nobody notices
            until(lambda: answered() == {names[2]})
        finally:
            process.kill()
            process.wait(10)
    finally:
        for server in servers:
            server.server_close()
