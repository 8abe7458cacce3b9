"""What proxies, probes, browsers and scripts around a server ask of it."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.cli.serve import address, bind
from app.client import AsyncClient, Client
from app.server.settings import Settings, is_loopback, read_settings
from tests.app.hosting import hosted
from tests.app.serving import serving

pytestmark = pytest.mark.service
FACT = {"prompt": "the capital of zor is", "target": "Kal", "id": "a"}
ORIGIN = "https://app.example"
DEAD = "127.0.0.1:9"  # nobody answers there


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # the server shares our output
    with serving() as client:
        yield client
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with hosted(tmp_path_factory.mktemp("proxied"), root_path="/memory/v1", cors_origins=ORIGIN) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/metrics", "/version", "/v1/models", "/v1/models/toy", "/v1/models/gpt-4"]
)
def test_head_is_get_without_its_body(server: httpx.Client, path: str) -> None:
    whole, head = server.get(path), server.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    if path != "/metrics":  # it counts
        assert head.headers["content-length"] == whole.headers["content-length"]
    assert server.get("/health/live").json() == {"status": "alive"}  # on the same connection


@pytest.mark.parametrize(
    ("path", "forwarded", "status"),
    [
        ("/memory/v1/health/live", "", 200),
        ("/health/live", "", 200),
        ("/health/live", "/memory/v1", 200),
        ("/health/live", "/elsewhere", 200),
        ("/memory/v1/v1/models", "", 200),
        ("/v1/models", "", 200),
        ("/v1/models", "/v1", 200),  # the header names what a proxy took away, and takes nothing away itself
        ("/elsewhere/health/live", "/elsewhere", 404),
        ("/memory/v1health/live", "", 404),
        ("/memory/v1", "", 404),
        ("/memory/v1/memory/v1/health/live", "", 404),
        ("/memory/health/live", "", 404),
    ],
)
def test_paths_behind_a_proxy(proxied: TestClient, path: str, forwarded: str, status: int) -> None:
    headers = {"x-forwarded-prefix": forwarded} if forwarded else {}
    assert proxied.get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("forwarded", "prefix"),
    [
        ("", "/memory/v1"),
        ("/api/larimar", "/api/larimar"),
        ("/api/larimar/", "/api/larimar"),
        ("/a, /b", "/a"),
        ("//evil.example", "/memory/v1"),
        ("https://evil.example", "/memory/v1"),
        ("/a//b", "/memory/v1"),
        ("/a/../b", "/memory/v1"),
        ("/<script>", "/memory/v1"),
        ("/" + "a" * 300, "/memory/v1"),
    ],
)
def test_pages_link_to_where_they_are(proxied: TestClient, forwarded: str, prefix: str) -> None:
    headers = {"x-forwarded-prefix": forwarded} if forwarded else {}
    assert f"'{prefix}/openapi.json'" in proxied.get("/docs", headers=headers).text
    assert proxied.get("/openapi.json", headers=headers).json()["servers"] == [{"url": prefix}]


def test_limits_and_errors_know_their_paths_behind_a_proxy(proxied: TestClient) -> None:
    line = b'{"prompt": "the river of zor is", "target": "Bla"}'
    lines = {"content-type": "application/x-ndjson"}
    assert proxied.post("/memory/v1/facts:bulk", content=line, headers=lines).status_code == 200
    assert proxied.post("/memory/v1/facts", content=line, headers=lines).status_code == 415
    assert "error" in proxied.post("/memory/v1/v1/completions", json={}).json()
    assert "/memory" not in proxied.get("/metrics").text


@pytest.mark.parametrize(
    ("value", "prefix"),
    [("", ""), ("/", ""), ("/a", "/a"), ("/a/", "/a"), ("/a/b", "/a/b"), ("a", None), ("//a", None), ("/a b", None), ("http://a/b", None),
     ("/a?b", None), ("/../a", None)],
)  # fmt: skip
def test_a_root_path_is_a_path(value: str, prefix: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_ROOT_PATH", value)
    settings, problems = read_settings({"LARIMAR_ROOT_PATH": value})
    assert (settings.root_path if settings else None) == prefix and bool(problems) == (prefix is None)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
@pytest.mark.parametrize("value", [f"http://{DEAD}", f"socks5://{DEAD}", "nonsense://x"])
@pytest.mark.anyio
async def test_no_proxy_stands_before_the_loopback(
    server: httpx.Client, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    for url in (str(server.base_url), str(server.base_url).replace("127.0.0.1", "localhost")):
        with Client(url) as larimar:
            assert list(larimar.facts()) == []
        async with AsyncClient(url) as larimar_too:
            assert [fact async for fact in larimar_too.facts()] == []
    monkeypatch.setenv("LARIMAR_URL", str(server.base_url))
    done = CliRunner().invoke(cli, ["facts", "list"])
    assert done.exit_code == 0, done.output
    if value.startswith("http:") and name != "HTTPS_PROXY":  # elsewhere it does
        with pytest.raises(httpx.TransportError, match=r"refused|attempts failed"), Client("http://192.0.2.1", retries=0) as far:
            list(far.facts())


def test_a_proxy_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", "http://192.0.2.1")
    monkeypatch.setenv("ALL_PROXY", "nonsense://x")
    done = CliRunner().invoke(cli, ["facts", "list"])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    ("before", "patch", "stays"),
    [
        ({"ttl_s": 600}, {"ttl_s": None}, False),
        ({"ttl_s": 600}, {"ttl_s": None, "target": "Kol"}, False),
        ({"ttl_s": 600}, {"ttl_s": None, "metadata": {"a": 1}}, False),
        ({"ttl_s": 600}, {"ttl_s": 60}, True),
        ({"ttl_s": 600}, {"target": "Kol"}, True),
        ({"ttl_s": 600}, {"metadata": {}}, True),
        ({"ttl_s": 600}, {"target": "Kol", "metadata": None}, True),
        ({}, {"ttl_s": None}, False),
        ({}, {"ttl_s": 60}, True),
        ({"ttl_s": None}, {"target": "Kol"}, False),
    ],
)
def test_null_takes_a_time_to_live_off(server: httpx.Client, before: dict[str, Any], patch: dict[str, Any], stays: bool) -> None:
    server.post("/facts", json=FACT | before).raise_for_status()
    written = server.patch("/facts/a", json=patch)
    assert written.status_code == 200, written.text
    fact = server.get("/facts/a").json()
    assert (fact.get("expires_at") is not None) == stays == (written.json().get("expires_at") is not None)
    assert fact["target"] == (patch.get("target") or FACT["target"])
    assert (server.get("/tenants/default/stats").json()["next_expiry"] is not None) == stays
    server.delete("/facts/a").raise_for_status()


def test_a_lifted_time_to_live_does_not_end_the_fact(server: httpx.Client) -> None:
    server.post("/facts", json=FACT | {"ttl_s": 1.5}).raise_for_status()
    server.patch("/facts/a", json={"ttl_s": None}).raise_for_status()
    time.sleep(2.5)
    assert server.delete("/facts/a").status_code == 200


def test_a_missing_key_is_asked_for(tmp_path: Path) -> None:
    with hosted(tmp_path, api_keys="a-long-key:acme", cors_origins=ORIGIN) as client:
        for method, path in (("GET", "/facts"), ("POST", "/query"), ("GET", "/v1/models"), ("GET", "/admin/keys"), ("HEAD", "/v1/models")):
            for headers in ({}, {"Authorization": "Bearer wrong-key"}, {"X-API-Key": "wrong-key"}, {"Authorization": "Basic YTpi"}):
                body = {"json": {"prompt": "x"}} if method == "POST" else {}
                refused = client.request(method, path, headers=headers, **body)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="larimar"')
        known = client.get("/facts", headers={"X-API-Key": "a-long-key", "Origin": ORIGIN})
        assert known.status_code == 200 and "www-authenticate" not in known.headers


def test_pages_of_other_origins_may_read_our_headers(proxied: TestClient) -> None:
    answer = proxied.get("/facts", headers={"Origin": ORIGIN})
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    for name in ("X-Request-ID", "Larimar-Version", "Larimar-Ignored", "RateLimit", "RateLimit-Policy", "Retry-After", "traceresponse"):
        assert name.lower() in exposed
    assert "access-control-allow-origin" not in proxied.get("/facts", headers={"Origin": "https://other.example"}).headers


@pytest.mark.parametrize(
    ("given", "host", "near", "shown"),
    [
        ("::1", "::1", True, "http://[::1]:80"),
        ("[::1]", "::1", True, "http://[::1]:80"),
        ("::", "::", False, "http://[::]:80"),
        ("[::]", "::", False, "http://[::]:80"),
        ("[fe80::1]", "fe80::1", False, "http://[fe80::1]:80"),
        ("2001:db8::5", "2001:db8::5", False, "http://[2001:db8::5]:80"),
        ("0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:1", True, "http://[0:0:0:0:0:0:0:1]:80"),
        ("127.0.0.1", "127.0.0.1", True, "http://127.0.0.1:80"),
        ("0.0.0.0", "0.0.0.0", False, "http://0.0.0.0:80"),
        ("localhost", "localhost", True, "http://localhost:80"),
        ("larimar.internal", "larimar.internal", False, "http://larimar.internal:80"),
    ],
)
def test_hosts_of_either_family(given: str, host: str, near: bool, shown: str) -> None:
    settings = Settings(host=given, admin_host=given)
    assert settings.host == settings.admin_host == host and is_loopback(settings.host) == near
    assert address(settings.host, 80) == shown


def test_a_socket_of_ipv6_takes_both(capsys: pytest.CaptureFixture[str]) -> None:
    with bind("::1", 0) as sock:
        assert sock.family is socket.AF_INET6 and sock.getsockname()[0] == "::1"
        sock.listen()
        with pytest.raises(SystemExit):
            bind("::1", sock.getsockname()[1])
        assert f"port {sock.getsockname()[1]} on ::1 is in use" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["[::1]", "[::1]:8080", "[2001:DB8::5]:1", "[::ffff:127.0.0.1]", "127.0.0.1:8080", "localhost:1"])
def test_addresses_are_no_names(server: httpx.Client, host: str) -> None:
    assert server.get("/facts", headers={"host": host}).status_code == 200


def test_models_say_since_when_they_are_there(server: httpx.Client) -> None:
    (listed,) = server.get("/v1/models").json()["data"]
    assert 0 <= time.time() - listed["created"] < 600 and isinstance(listed["created"], int)
    assert server.get("/v1/models/toy").json() == listed
