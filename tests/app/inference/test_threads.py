"""Which thread does what: the inference thread changes a memory and runs the model, and what looks through all facts is beside it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.access.api_keys import ANYONE
from app.http import transfer
from app.tenants.expiry import Expiry
from memory.episodic import EpisodicMemory
from memory.excerpt import Excerpt
from memory.key_index import KeyIndex
from memory.page import PageSettings
from memory.scope.rules import Scope
from memory.view import View
from tests.app.hosting import hosted

TENANT = ANYONE.tenant
SCANS = [
    "/facts",
    "/facts?metadata=number=7",
    "/facts?history=true&metadata=number=7",
    "/facts?as_of=20",
    f"/tenants/{TENANT}/stats",
    f"/tenants/{TENANT}/export",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Of a server with 200 facts."""
    with hosted(tmp_path_factory.mktemp("data")) as client:
        facts = [{"prompt": f"the capital of zor {n} is", "target": f"kal {n}", "metadata": {"number": n}} for n in range(200)]
        assert client.post("/facts", json=facts).status_code == 201
        yield client


@pytest.mark.service
@pytest.mark.parametrize("path", SCANS)
def test_facts_are_looked_through_while_the_inference_thread_is_busy(client: TestClient, path: str) -> None:
    free, worker = threading.Event(), client.app.state.service.worker  # type: ignore[attr-defined]  # a FastAPI
    job = client.portal.start_task_soon(worker.run, free.wait, 20.0)  # type: ignore[union-attr]  # inside its block
    try:
        answer = client.get(path)
        assert answer.status_code == 200 and not job.done()
    finally:
        free.set()
    assert job.result()


def watched(monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, seen: dict[str, set[str]]) -> None:
    """Note which threads call a function."""
    method: Callable[..., Any] = getattr(kind, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.setdefault(name, set()).add(threading.current_thread().name)
        return method(*args, **kwargs)

    monkeypatch.setattr(kind, name, noted)


@pytest.mark.service
def test_an_excerpt_is_taken_and_read_beside_the_inference_thread_which_only_decides(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    for name in ("__init__", "nearest", "decide", "reading"):
        watched(monkeypatch, Excerpt, name, seen)
    watched(monkeypatch, KeyIndex, "nearest", live := {})
    known = client.get("/facts?limit=1").json()["facts"][0]
    for asked in ({"as_of": 150}, {"include_only": [known["id"]]}, {"as_of": 150, "hops": 2}, {"as_of": 150, "exclude": [known["id"]]}):
        path = "/generate" if "hops" in asked else "/query"
        assert client.post(path, json={"prompt": known["prompt"]} | asked).status_code == 200
    assert seen == {"__init__": {"look-ups"}, "nearest": {"look-ups"}, "decide": {"inference"}, "reading": {"look-ups"}} and not live
    assert client.post("/query", json={"prompt": known["prompt"]}).status_code == 200
    assert live == {"nearest": {"inference"}}  # whose rows move: that thread alone may look at them


@pytest.mark.service
def test_expiry_and_answers_that_are_over_are_looked_for_beside_it(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}
    for name in ("expired", "facts"):
        watched(monkeypatch, View, name, seen)
    tenants = client.app.state.service.tenants  # type: ignore[attr-defined]
    gone = client.post("/facts", json={"prompt": "the key is", "target": "red", "ttl_s": 0.2}).json()["id"]
    while client.get(f"/facts/{gone}").status_code == 200:
        pass
    client.portal.call(Expiry(tenants)._discard_answers)  # type: ignore[union-attr]
    assert seen == {"expired": {"look-ups"}, "facts": {"look-ups"}}


@pytest.mark.service
def test_the_loop_turns_between_any_two_parts_of_an_export(client: TestClient) -> None:
    """However fast the socket takes them: no more of an export than one part keeps others waiting."""
    turns, lines = 0, dict[int, int]()

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def send(message: Any) -> None:  # never waits
        lines[turns] = lines.get(turns, 0) + message.get("body", b"").count(b"\n")

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def export() -> None:
        turning = asyncio.create_task(turn())
        path = f"/tenants/{TENANT}/export"
        about = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"codes=true"}
        await client.app(about | {"headers": [(b"host", b"localhost")], "server": ("localhost", 80)}, receive, send)
        turning.cancel()

    client.portal.call(export)  # type: ignore[union-attr]
    assert sum(lines.values()) == 201 and max(lines.values()) <= transfer.PART


@pytest.mark.service
def test_no_line_of_an_export_is_made_on_the_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}
    watched(monkeypatch, transfer, "_line", seen)
    lines = [json.loads(line) for line in client.get(f"/tenants/{TENANT}/export").text.splitlines()]
    assert lines[0]["facts"] == 200 == len(lines) - 1
    assert [line["version"] for line in lines[1:]] == sorted(line["version"] for line in lines[1:])
    assert seen == {"_line": {"look-ups"}}


@pytest.mark.service
def test_an_export_that_has_begun_waits_for_its_turn(tmp_path: Path) -> None:
    with hosted(tmp_path, queue_size=1) as client:
        facts = [{"prompt": f"the capital of zor {n} is", "target": f"kal {n}"} for n in range(3 * transfer.PART)]
        for fact in facts:
            assert client.post("/facts", json=fact).status_code == 201
        free, begun, lookups = threading.Event(), threading.Event(), client.app.state.service.tenants.lookups  # type: ignore[attr-defined]

        def wait() -> bool:
            begun.set()
            return free.wait(20.0)

        busy = [client.portal.start_task_soon(lookups.run, wait)]  # type: ignore[union-attr]
        assert begun.wait(20.0)
        busy.append(client.portal.start_task_soon(lookups.run, wait))  # type: ignore[union-attr]
        while not lookups.depth:
            pass
        assert client.get("/facts").status_code == 429  # the queue is full
        threading.Timer(0.2, free.set).start()
        assert len(client.get(f"/tenants/{TENANT}/export").text.splitlines()) == 1 + len(facts)
        assert all(job.result() for job in busy)


def test_the_size_may_be_asked_for_while_pages_are_added() -> None:
    """As the gauges do, from the event loop."""
    memory = EpisodicMemory(4, PageSettings(), Scope())

    class Meanwhile:
        @property
        def size_bytes(self) -> int:
            memory._pages[len(memory._pages)] = memory._pages[0]
            return 1

    memory._pages = {index: SimpleNamespace(page=Meanwhile()) for index in range(3)}  # type: ignore[misc]
    assert memory.size_bytes == 3
