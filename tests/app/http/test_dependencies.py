"""A query parameter that a route does not have is refused by name: ignored, it would make a filter of everything."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.app.serving import serving

pytestmark = pytest.mark.service
FACT = {"id": "a", "prompt": "the capital of zor is", "target": "Kal", "metadata": {"fleet": "north"}}
LIST = "limit, cursor, metadata, history, as_of"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving() as client:
        client.post("/facts", json=FACT).raise_for_status()
        yield client


@pytest.mark.parametrize(
    ("method", "url", "unknown", "takes"),
    [
        ("GET", "/facts?metadta=fleet=north", ["metadta"], LIST),
        ("GET", "/facts?limit=5&Metadata=fleet=north&as-of=1", ["Metadata", "as-of"], LIST),
        ("GET", "/facts?" + "&".join(f"p{n}" + 50 * "x" for n in range(20)), [f"p{n}" + 50 * "x" for n in range(8)], LIST),
        ("GET", "/facts/a?history=true", ["history"], "none"),
        ("DELETE", "/facts?metadata=fleet=north&as_of=1", ["as_of"], "metadata"),
        ("DELETE", "/facts/a?dry_run=true", ["dry_run"], "none"),
        ("POST", "/facts?id=b", ["id"], "none"),
        ("POST", "/facts/a/probe?prompt=x", ["prompt"], "none"),
        ("GET", "/tenants/default/export?code=true", ["code"], "codes"),
        ("DELETE", "/tenants/default?dry_run=true", ["dry_run"], "none"),
        ("POST", "/generate?stream=true", ["stream"], "none"),
        ("GET", "/admin/audit?lmit=1", ["lmit"], "cursor, limit"),
    ],
)
def test_a_parameter_that_is_not_there_is_named_and_nothing_changes(
    client: httpx.Client, method: str, url: str, unknown: list[str], takes: str
) -> None:
    before = client.get("/facts").headers["larimar-version"]
    answer = client.request(method, url, **({"json": FACT | {"id": "b"}} if method == "POST" else {}))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    message = f"there is no such parameter; this route takes {takes}"
    assert answer.json()["errors"] == [{"field": f"query.{name[:40]}", "message": message} for name in unknown]
    kept = client.get("/facts")
    assert kept.headers["larimar-version"] == before and [fact["id"] for fact in kept.json()["facts"]] == ["a"]


@pytest.mark.parametrize(
    "url",
    [
        "/facts?limit=5&cursor=&metadata=fleet=north&metadata=fleet=south&history=true&as_of=1",
        "/tenants/default/export?codes=true",
        "/v1/models?api-version=2024-10-21",
        "/health/live?now=1",
    ],
)
def test_what_a_route_has_and_what_clients_of_others_send_is_taken(client: httpx.Client, url: str) -> None:
    assert client.get(url).status_code == 200


def test_a_key_is_asked_for_first() -> None:
    with serving(api_keys="secret-of-a:a") as closed:
        answer = closed.get("/facts?metadta=fleet=north")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
