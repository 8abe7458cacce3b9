"""What a memory holds is read by the thread that changes it: another one would meet it half-changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.keys import ANYONE
from memory.episodic import EpisodicMemory
from memory.page import PageSettings
from memory.register import Register
from memory.scope import Scope
from tests.app.serving import serving


def watched(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, seen: set[tuple[str, str]]) -> None:
    """Note which threads call a method."""
    method: Callable[..., Any] = getattr(kind, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.add((name, threading.current_thread().name))
        return method(*args, **kwargs)

    monkeypatch.setattr(kind, name, noted)


@pytest.mark.service
def test_facts_are_listed_and_searched_on_the_inference_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, str]] = set()
    for name in ("__iter__", "facts", "nearest"):
        watched(monkeypatch, Register, name, seen)
    with serving() as client:
        fact = client.post("/facts", json={"prompt": "The code is", "target": "blue", "ttl_s": 0.2}).json()
        stays = client.post("/facts", json={"prompt": "The key is", "target": "red"}).json()
        tenant = ANYONE.tenant
        for path in ("/facts", "/facts?metadata=a=b&history=true", f"/tenants/{tenant}/stats", f"/tenants/{tenant}/export"):
            assert client.get(path).status_code == 200
        client.post("/query", json={"prompt": "The code is", "include_only": [stays["id"]]}).raise_for_status()
        while client.get(f"/facts/{fact['id']}").status_code == 200:
            pass
    assert {name for name, _ in seen} == {"__iter__", "facts", "nearest"}
    assert {thread for _, thread in seen} == {"inference"}


def test_the_size_may_be_asked_for_while_pages_are_added() -> None:
    """As the gauges do, from the event loop."""
    memory = EpisodicMemory(4, PageSettings(), Scope())

    class Meanwhile:
        @property
        def size_bytes(self) -> int:
            memory._sheets[len(memory._sheets)] = memory._sheets[0]
            return 1

    memory._sheets = {index: SimpleNamespace(page=Meanwhile()) for index in range(3)}  # type: ignore[misc]
    assert memory.size_bytes == 3
