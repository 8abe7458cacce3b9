"""What an attacker with a key of another tenant, or with none, may try over HTTP. Every attempt ends in a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.app.serving import serving

pytestmark = pytest.mark.service
A, B = "a-key-of-tenant-a", "a-key-of-tenant-b"
SECRET = {"id": "secret-1", "prompt": "the capital of zor is", "target": "kal", "metadata": {"colour": "red"}}


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with serving(api_keys=f"{A}:alpha,{B}:beta") as client:
        assert client.post("/facts", json=SECRET, headers=key(A)).status_code == 201
        yield client
        assert client.get("/health/ready").status_code == 200
        facts = client.get("/facts", headers=key(A)).json()["facts"]
        assert [(f["id"], f["target"]) for f in facts] == [("secret-1", "kal")], "an attack changed tenant alpha's memory"


def same_as_unknown(server: httpx.Client, method: str, path: str, **more: Any) -> None:
    """Another tenant's fact answers, byte for byte, as one that never was."""

    def answer(fact_id: str) -> tuple[int, str]:
        text = json.dumps(more).replace("secret-1", fact_id)
        response = server.request(method, path.replace("secret-1", fact_id), headers=key(B), **json.loads(text))
        body = response.text.replace(fact_id, "ID").replace(response.headers["x-request-id"], "REQUEST")
        return response.status_code, "" if response.is_success else body

    assert answer("secret-1") == answer("nothing1")
    assert SECRET["target"] not in server.request(method, path, headers=key(B), **more).text


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "/facts/secret-1", {}),
        ("DELETE", "/facts/secret-1", {}),
        ("PATCH", "/facts/secret-1", {"json": {"target": "stolen"}}),
        ("GET", "/facts", {"params": {"cursor": "secret-0"}}),
        ("GET", "/facts", {"params": {"metadata": "colour=red", "history": "true"}}),
        ("GET", "/facts", {"params": {"as_of": "1"}}),
        ("POST", "/facts/secret-1/probe", {"json": {}}),
        ("POST", "/query", {"json": {"prompt": "the capital of zor is", "include_only": ["secret-1"]}}),
        ("POST", "/generate", {"json": {"prompt": "the capital of zor is", "include_only": ["secret-1"], "max_new_tokens": 2}}),
    ],
)
def test_another_tenants_fact_is_one_that_never_was(server: httpx.Client, method: str, path: str, more: dict[str, Any]) -> None:
    same_as_unknown(server, method, path, **more)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tenants/alpha/stats"),
        ("GET", "/tenants/alpha/export"),
        ("GET", "/tenants/alpha/export?codes=true"),
        ("DELETE", "/tenants/alpha"),
        ("GET", "/tenants/ALPHA/stats"),
        ("GET", "/tenants/beta%2F..%2Falpha/export"),
        ("GET", "/tenants/%61lpha/stats"),
        ("GET", "/tenants/{alpha}/stats"),
        ("GET", "/tenants/alpha%00/stats"),
    ],
)
def test_another_tenant_is_not_there(server: httpx.Client, method: str, path: str) -> None:
    answer = server.request(method, path, headers=key(B))
    assert answer.status_code == 404 and "kal" not in answer.text


@pytest.mark.parametrize("named", [{"X-Tenant": "alpha"}, {"Tenant": "alpha"}, {"X-Forwarded-User": "alpha"}, {"Host": "alpha"}])
def test_a_header_does_not_choose_the_tenant(server: httpx.Client, named: dict[str, str]) -> None:
    assert server.get("/facts", headers=key(B) | named).json()["facts"] == []


def test_an_id_and_an_idempotency_key_are_of_their_tenant(server: httpx.Client) -> None:
    fact = {"prompt": "the colour of beta is", "target": "blue", "id": "secret-1"}
    taught = server.post("/facts", json=fact, headers=key(B) | {"Idempotency-Key": "one"})
    assert taught.status_code == 201
    other = server.post("/facts", json=fact | {"target": "red"}, headers=key(A) | {"Idempotency-Key": "one"})
    assert other.status_code == 409  # alpha's own secret-1, not beta's answer
    assert server.delete("/facts/secret-1", headers=key(B)).status_code == 200


def test_metrics_name_no_tenant_fact_or_key(server: httpx.Client) -> None:
    text = server.get("/metrics").text
    assert not any(word in text for word in ("alpha", "beta", "secret-1", "kal", A, B))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer null"},
        {"Authorization": f"Basic {A}"},
        {"Authorization": A},
        {"Authorization": f"Bearer {A}x"},
        {"Authorization": f"Bearer {A[:-1]}"},
        {"Authorization": f"Bearer {A},{B}"},
        {"Authorization": f"Bearer {A.upper()}"},
        {"Authorization": "Bearer ' OR 1=1 --"},
        {"Authorization": "Bearer *"},
        {"Authorization": "Bearer " + "a" * 8000},
        {"X-API-Key": "alpha"},
        {"Cookie": f"api_key={A}"},
    ],
)
def test_nothing_but_the_key_opens(server: httpx.Client, headers: dict[str, str]) -> None:
    answer = server.get(f"/facts?api_key={A}&key={A}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert A not in answer.text


def test_static_keys_do_not_administer(server: httpx.Client) -> None:
    for path in ("/admin/keys", "/admin/audit"):
        assert server.get(path, headers=key(A)).status_code == 403
    assert server.post("/admin/keys", json={"tenant": "alpha", "scopes": ["admin"]}, headers=key(B)).status_code == 403


@pytest.mark.parametrize(
    "fact_id",
    ["a\x00b", "../../etc/passwd", "a/b", "a b", "a\nb", "é", "а", "a\u202eb", "😀", "a" * 65, "{alpha}", "*", "", "a\\b", "%00"],
)
def test_ids_are_plain(server: httpx.Client, fact_id: str) -> None:
    body = {"prompt": "x", "target": "y", "id": fact_id}
    answer = server.post("/facts", content=json.dumps(body), headers=key(B) | {"Content-Type": "application/json"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/facts/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/facts/%00",
        "/facts/a%0d%0aSet-Cookie:%20x=1",
        "/facts/%F0%9F%98%80",
        "//facts",
        "/facts/../admin/keys",
    ],
)
def test_paths_lead_nowhere_else(server: httpx.Client, path: str) -> None:
    answer = server.get(path, headers=key(B))
    assert answer.status_code in (403, 404) and "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"prompt": "x", "target": NaN}',
        b'{"prompt": "x", "max_new_tokens": Infinity}',
        b'{"prompt": "x", "max_new_tokens": 1e999}',
        b'{"prompt": "x", "max_new_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "x", "seed": -1}',
        b'{"prompt": "x", "temperature": 1e308}',
        b'{"prompt": "x", "top_p": 0}',
        b'{"prompt": "\\ud800", "max_new_tokens": 1}',
        b'{"prompt": "\xff\xfe", "max_new_tokens": 1}',
        b'\xef\xbb\xbf{"prompt": ""}',
        b'{"prompt": {"$gt": ""}}',
        b'{"prompt": "x", "__proto__": {"admin": true}}',
        b'{"prompt": "x", "exclude": [' + b'"a",' * 5000 + b'"a"]}',
        b'{"prompt": "x", "stop": [""]}',
        b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>",
        b"",
        b"null",
    ],
)
def test_bodies_that_are_traps_are_refused(server: httpx.Client, content: bytes) -> None:
    answer = server.post("/generate", content=content, headers=key(B) | {"Content-Type": "application/json"})
    assert answer.status_code in (400, 413, 415, 422), answer.text
    assert "Traceback" not in answer.text and "/app/" not in answer.text


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "PROPFIND", "OPTIONS"])
def test_other_methods_do_nothing(server: httpx.Client, method: str) -> None:
    assert server.request(method, "/facts", headers=key(B)).status_code in (400, 405)


def test_answers_carry_security_headers_and_no_cors(server: httpx.Client) -> None:
    answer = server.get("/facts", headers=key(B) | {"Origin": "https://evil.example"})
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "server" not in answer.headers


@pytest.mark.parametrize("offered", ['x"} {"event":"forged', "a\tb", "a" * 65, "ü", "$(reboot)", "<script>"])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(server: httpx.Client, offered: str) -> None:
    answer = server.get("/health/live", headers=[(b"X-Request-ID", offered.encode())])
    assert answer.headers["X-Request-ID"] != offered and len(answer.headers["X-Request-ID"]) == 26
