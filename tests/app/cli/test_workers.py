"""Several processes behind one address, on a real store: they serve as one, and one that is killed comes back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.bench.free_port import free_port
from tests.memory.servers import running

pytestmark = pytest.mark.service
WORKERS = 2


@dataclass
class Supervised:
    process: subprocess.Popen[bytes]
    url: str
    admin: int
    errors: Path

    def started_at(self, number: int) -> float:
        """When a worker's process began, by its own port; 0 while there is none."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.admin + number}/metrics", timeout=5).text
        except httpx.TransportError:
            return 0.0
        found = re.search(r"^process_start_time_seconds (\S+)", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def ready(self, number: int) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.admin + number}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def await_workers(self) -> None:
        deadline = time.monotonic() + 120
        while not all(self.ready(number) for number in range(WORKERS)):
            assert time.monotonic() < deadline and self.process.poll() is None, self.errors.read_text()[-2000:]
            time.sleep(0.1)

    def children(self) -> list[int]:
        listed = subprocess.run(["ps", "--ppid", str(self.process.pid), "-o", "pid="], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server")
    folder = tmp_path_factory.mktemp("workers")
    with running("redis", folder) as store, (folder / "errors").open("wb") as errors:
        port = free_port(1 + WORKERS)
        own = {"PORT": port, "ADMIN_PORT": port + 1, "WORKERS": WORKERS, "STORE_URL": store.url, "DATA_DIR": folder / "data"}
        environment = os.environ | {f"LARIMAR_{name}": str(value) for name, value in own.items()} | {"LARIMAR_DURABILITY": "memory"}
        process = subprocess.Popen([sys.executable, "-m", "tests.app.toy_workers"], env=environment, stderr=errors, stdout=errors)
        found = Supervised(process, f"http://127.0.0.1:{port}", port + 1, folder / "errors")
        try:
            found.await_workers()
            yield found
        finally:
            process.kill()
            process.wait()


def test_workers_serve_one_memory(supervised: Supervised) -> None:
    taught = httpx.post(f"{supervised.url}/facts", json={"prompt": "the capital of zor is", "target": "Kal"}, timeout=30)
    assert taught.status_code == 201
    path, seen = f"{supervised.url}/facts/{taught.json()['id']}", taught.headers["larimar-version"]
    answers = [httpx.get(path, headers={"Larimar-Version": seen}, timeout=30) for _ in range(20)]  # each on a connection of its own
    assert {answer.status_code for answer in answers} == {200}
    assert len(supervised.children()) == WORKERS and all(supervised.started_at(number) for number in range(WORKERS))


def test_a_killed_worker_comes_back(supervised: Supervised) -> None:
    before, started = supervised.children(), [supervised.started_at(number) for number in range(WORKERS)]
    assert len(before) == WORKERS
    os.kill(before[0], signal.SIGKILL)
    while before[0] in supervised.children():
        time.sleep(0.05)
    supervised.await_workers()
    after = [supervised.started_at(number) for number in range(WORKERS)]
    assert sum(new != old for new, old in zip(after, started, strict=True)) == 1
    assert "was ended by signal 9 and is started again" in supervised.errors.read_text()
    assert httpx.get(f"{supervised.url}/facts", timeout=30).status_code == 200


def test_all_end_together(supervised: Supervised) -> None:
    children = supervised.children()
    supervised.process.terminate()
    assert supervised.process.wait(60) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_more_workers_than_devices_are_refused(tmp_path: Path) -> None:
    own = {"WORKERS": "2", "DEVICE": "cuda", "STORE_URL": "redis://127.0.0.1:1", "PORT": "0", "DATA_DIR": str(tmp_path)}
    environment = os.environ | {f"LARIMAR_{name}": value for name, value in own.items()} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "app"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "LARIMAR_WORKERS=2 wants as many GPUs, torch sees 0" in done.stderr and "Traceback" not in done.stderr
