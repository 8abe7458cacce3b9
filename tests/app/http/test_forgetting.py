"""Many facts forgotten by one request: those of a text, or whatever else their metadata have in common."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app.http.problems import TimedOut
from app.inference.errors import QueueFull
from app.service import Forgotten, Service
from memory.errors import StoreUnavailable
from memory.store.embedded.valkey import EmbeddedValkey
from tests.app.hosting import hosted

pytestmark = pytest.mark.service
TEXT = "Zor is a blue river. Its capital is Kal. It is red now."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with hosted(tmp_path_factory.mktemp("data"), api_keys="the-key-of-a-tester:tester") as client:
        client.headers["X-API-Key"] = "the-key-of-a-tester"
        yield client


@pytest.fixture
def client(server: TestClient) -> Iterator[TestClient]:
    yield server
    assert server.delete("/tenants/tester").status_code in (200, 404)


def ids(client: TestClient, **params: Any) -> list[str]:
    return [fact["id"] for fact in client.get("/facts", params={"history": True} | params).json()["facts"]]


def forget(client: TestClient, *metadata: str) -> dict[str, Any]:
    answer = client.delete("/facts", params={"metadata": metadata})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    if told["receipts"]:
        assert answer.headers["Larimar-Version"] == str(told["receipts"][-1]["version"])
    return told


def test_a_text_is_forgotten_whole(client: TestClient) -> None:
    client.post("/facts", json={"text": TEXT, "id": "zor"})
    client.post("/facts", json={"text": TEXT.replace("Zor", "Kal"), "id": "kal"})
    single = client.delete("/facts/kal.1").json()
    told = forget(client, "text=zor")
    assert [receipt["id"] for receipt in told["receipts"]] == ["zor.1", "zor.2", "zor.3"] and told["left"] == 0
    for receipt in told["receipts"]:
        assert receipt.keys() == single.keys() and receipt["erased"] == single["erased"] and receipt["residual"] < 1e-8
    assert ids(client) == ["kal.2", "kal.3"]
    assert forget(client, "text=zor") == {"receipts": [], "left": 0}
    assert client.post("/facts", json={"text": TEXT, "id": "zor"}).status_code == 201, "its ids are free"


def test_every_filter_must_hold_and_history_goes_too(client: TestClient) -> None:
    for number in range(4):
        metadata = {"person": "ann", "even": number % 2 == 0}
        fact = {"id": f"f{number}", "prompt": f"the river of {number} is", "target": "red", "metadata": metadata}
        assert client.post("/facts", json=fact | {"on_conflict": "version"}).status_code == 201
    newer = {"id": "newer", "prompt": "the river of 0 is", "target": "blue", "on_conflict": "version"}
    assert client.post("/facts", json=newer).status_code == 201 and "f0" not in ids(client, history=False)
    assert [receipt["id"] for receipt in forget(client, "person=ann", "even=true")["receipts"]] == ["f0", "f2"]
    assert ids(client) == ["f1", "f3", "newer"]


def before_each(client: TestClient, monkeypatch: pytest.MonkeyPatch, come: Callable[[Service, str], Awaitable[object]]) -> None:
    """Something comes before a fact is forgotten: a change of another request, a pause, an exception."""
    service: Service = cast(FastAPI, client.app).state.service
    forget_many = service.forget_many

    async def later(tenant: str, facts: Sequence[tuple[str, int | None]]) -> list[Forgotten | Exception]:
        for fact_id, _ in facts:
            await come(service, fact_id)
        return await forget_many(tenant, facts)

    monkeypatch.setattr(service, "forget_many", later)
    monkeypatch.setattr("app.http.routes.facts.TOGETHER", 1)


@pytest.mark.parametrize(("change", "meant"), [({"metadata": {}}, False), ({"target": "Its capital is Lak."}, True)])
def test_what_is_changed_before_its_turn_goes_only_if_it_is_still_meant(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], meant: bool
) -> None:
    client.post("/facts", json={"text": TEXT, "id": "zor"})

    async def changed(service: Service, fact_id: str) -> None:
        if fact_id == "zor.1":
            await service.revise("tester", "zor.2", **change)

    before_each(client, monkeypatch, changed)
    told = forget(client, "text=zor")
    assert [receipt["id"] for receipt in told["receipts"]] == ["zor.1", "zor.3"] and told["left"] == 1
    assert ids(client) == ["zor.2"]
    again = forget(client, "text=zor")
    assert [receipt["id"] for receipt in again["receipts"]] == ["zor.2"] * meant and again["left"] == 0


@pytest.mark.parametrize(
    ("error", "code"), [(QueueFull(), "queue_full"), (StoreUnavailable("it is away"), "store_unavailable"), (TimedOut(), "timeout")]
)
def test_what_stops_it_midway_loses_no_receipt(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    client.post("/facts", json={"text": TEXT, "id": "zor"})

    async def failing(_: Service, fact_id: str) -> None:
        if fact_id == "zor.2":
            raise error

    with monkeypatch.context() as patch:
        before_each(client, patch, failing)
        told = forget(client, "text=zor")
        assert [receipt["id"] for receipt in told["receipts"]] == ["zor.1"] and told["left"] == 2
        refused = client.delete("/facts", params={"metadata": "text=zor"})
        assert refused.json()["code"] == code and ids(client) == ["zor.2", "zor.3"], "nothing was forgotten, and it is said why"
    assert [receipt["id"] for receipt in forget(client, "text=zor")["receipts"]] == ["zor.2", "zor.3"]


def test_a_defect_that_stops_it_midway_is_logged(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.post("/facts", json={"text": TEXT, "id": "zor"})

    async def failing(_: Service, fact_id: str) -> None:
        if fact_id == "zor.2":
            raise RuntimeError("what somebody wrote")

    with monkeypatch.context() as patch, capture_logs() as logs:
        before_each(client, patch, failing)
        assert forget(client, "text=zor")["left"] == 2
    (stopped,) = [entry for entry in logs if entry["event"] == "forgetting_stopped"]
    (defect,) = [entry for entry in logs if entry["event"] == "failed"]
    assert (stopped["code"], stopped["left"], defect["error"]) == ("internal", 2, "RuntimeError")


def test_many_are_forgotten_in_one_commit_each_with_its_receipt(client: TestClient) -> None:
    shared = {"target": "Kal", "metadata": {"of": "zor"}}
    facts = [shared | {"prompt": f"the capital of zor number {number} is", "id": f"f{number:02}"} for number in range(70)]
    client.post("/facts", json=facts)
    last = client.post("/facts", json={"prompt": "the river of zor is", "target": "Red", "id": "river"}).json()["version"]
    before = client.get("/metrics").text
    told = forget(client, "of=zor")
    assert [receipt["id"] for receipt in told["receipts"]] == [fact["id"] for fact in facts] and told["left"] == 0
    assert [receipt["version"] for receipt in told["receipts"]] == list(range(last + 1, last + 71))
    assert max(receipt["residual"] for receipt in told["receipts"]) < 1e-9
    commits = 'larimar_store_seconds_count{operation="commit"} '
    counted = [float(text.partition(commits)[2].partition("\n")[0]) for text in (before, client.get("/metrics").text)]
    assert counted[1] - counted[0] == 3, "32, 32 and 6"
    assert ids(client) == ["river"]
    service: Service = cast(FastAPI, client.app).state.service
    assert set(service.tenants.store._vault.get("tester", range(last + 1))) == {last}  # type: ignore[union-attr]


def test_it_answers_before_its_deadline_with_what_it_has(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.post("/facts", json={"text": TEXT, "id": "zor"})
    monkeypatch.setattr(cast(FastAPI, client.app).state.settings, "request_timeout_s", 4.0)

    async def slow(_: Service, fact_id: str) -> None:
        await asyncio.sleep(3600 if fact_id == "zor.3" else 2.1 if fact_id == "zor.1" else 0)

    with monkeypatch.context() as patch:
        before_each(client, patch, slow)
        told = [forget(client, "text=zor") for _ in range(2)]
    assert [([receipt["id"] for receipt in one["receipts"]], one["left"]) for one in told] == [(["zor.1"], 2), (["zor.2"], 1)]
    assert [receipt["id"] for receipt in forget(client, "text=zor")["receipts"]] == ["zor.3"]


def test_what_is_too_much_at_once_is_told_and_goes_with_the_next_request(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.routes.facts.AT_ONCE", 2)
    client.post("/facts", json={"text": TEXT, "id": "zor"})
    assert [(len(told["receipts"]), told["left"]) for told in (forget(client, "text=zor") for _ in range(3))] == [(2, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize("params", [{}, {"metadata": "zor"}, {"metadata": "=zor"}, {"metadata": ["a=b"] * 9}])
def test_without_a_filter_nothing_is_forgotten(client: TestClient, params: dict[str, Any]) -> None:
    client.post("/facts", json={"text": TEXT, "id": "zor"})
    refused = client.delete("/facts", params=params)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request") and "metadata" in refused.json()["detail"]
    assert len(ids(client)) == 3


def test_a_text_keeps_the_metadata_by_which_it_is_forgotten(client: TestClient) -> None:
    refused = client.post("/facts", json={"text": TEXT, "id": "zor", "metadata": {"text": "other"}})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request") and ids(client) == []
    assert refused.json()["errors"][0]["field"] == "metadata" and "'text' is the text's own" in refused.json()["detail"]


BAD = {"a=b": "c"}
ZOR = {"id": "x", "prompt": "the river of zor is", "target": "red"}


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/facts", ZOR | {"metadata": BAD}, "metadata"),
        ("POST", "/facts", [ZOR, ZOR | {"metadata": BAD}], "1.metadata"),
        ("POST", "/facts", {"text": TEXT, "metadata": BAD}, "metadata"),
        ("PATCH", "/facts/kept", {"metadata": BAD}, "metadata"),
        ("POST", "/tenants/tester/import", {"facts": [ZOR, ZOR | {"id": "y", "metadata": BAD}]}, "facts.1.metadata"),
    ],
)
def test_a_name_that_a_filter_would_cut_is_refused(client: TestClient, method: str, path: str, body: Any, field: str) -> None:
    kept = {"id": "kept", "prompt": "the name of the king is", "target": "Kal", "metadata": {"a": "b=c"}}
    assert client.post("/facts", json=kept).status_code == 201
    refused = client.request(method, path, json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text
    assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert "the name 'a=b' holds '=', which in a filter (name=value) ends the name" in refused.json()["detail"]
    assert [(fact["id"], fact["metadata"]) for fact in client.get("/facts").json()["facts"]] == [("kept", {"a": "b=c"})]


def test_a_line_with_such_a_name_leaves_the_others(client: TestClient) -> None:
    lines = "\n".join(map(json.dumps, (ZOR | {"metadata": BAD}, ZOR | {"id": "y", "metadata": {"a": "=b="}})))
    answer = client.post("/facts:bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert told[0]["error"]["code"] == "invalid_request" and "'a=b' holds '='" in told[0]["error"]["detail"] and told[1]["id"] == "y"
    assert [receipt["id"] for receipt in forget(client, "a==b=")["receipts"]] == ["y"], "a value may hold it"


def test_a_filter_compares_the_text_of_a_value(client: TestClient) -> None:
    for name, value in {"t": "true", "b": True, "n": 1, "f": 1.0, "s": "1"}.items():
        fact = {"id": name, "prompt": f"the river of {name} is", "target": "red", "metadata": {"v": value}}
        assert client.post("/facts", json=fact).status_code == 201
    assert [ids(client, metadata=f"v={text}") for text in ("true", "1", "1.0")] == [["b", "t"], ["n", "s"], ["f"]]


def test_what_another_server_has_just_written_is_forgotten_too(tmp_path: Path) -> None:
    with (
        EmbeddedValkey(tmp_path / "store") as valkey,
        hosted(tmp_path / "a", store_url=valkey.url) as one,
        hosted(tmp_path / "b", store_url=valkey.url) as two,
    ):
        assert forget(two, "text=zor")["receipts"] == []
        one.post("/facts", json={"text": TEXT, "id": "zor"})
        receipts = forget(two, "text=zor")["receipts"]
        assert len(receipts) == 3 and receipts[0]["erased"]["data_key"] == "deleted in the store"
        assert ids(one) == []
