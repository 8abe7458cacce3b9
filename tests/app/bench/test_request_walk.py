"""The walk of a request is counted on a whole server."""

from __future__ import annotations

import threading

import pytest

from app.bench.request_walk import REQUESTS, request_walk
from tests.app.serving import toy_model


@pytest.mark.service
def test_each_request_is_seen_from_the_routes_to_the_store() -> None:
    ticks: list[int] = []
    figures = request_walk(toy_model(), tokens=4, repeats=2, tick=lambda: ticks.append(1))
    assert list(figures) == list(REQUESTS) and len(ticks) == 3
    for found in figures.values():
        assert 0 < found["files"] == len(found["entered"]) <= found["functions"] <= found["calls"]
        assert {"app/http/middleware.py", "app/tenants/cache.py"} <= {*found["entered"]}
        assert found["changes_of_thread"] >= 2  # to the inference thread and back
        assert not [name for name in found["entered"] if name.startswith(("app/bench", "tests"))]
    teach, generate, forget = (found["entered"] for found in figures.values())
    assert "memory/store/commit.py" in teach and "memory/store/commit.py" in forget
    assert "models/engine/sequence.py" in generate and "memory/store/commit.py" not in generate
    assert threading.getprofile() is None
