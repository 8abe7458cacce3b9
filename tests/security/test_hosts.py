"""While a server has no key, a web page whose name has been rebound to the loopback must reach nothing (DNS rebinding)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from app.access.api_keys import OPEN_S
from app.http.hosts import is_unrebindable
from tests.app.hosting import hosted, make_key
from tests.app.serving import serving

pytestmark = pytest.mark.service
FACT = {"prompt": "the capital of zor is", "target": "kal"}
REBOUND = {"Host": "evil.example"}


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with serving(allowed_hosts="larimar.internal, Other.Example") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/facts"), ("POST", "/facts"), ("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/nowhere")],
)
def test_a_rebound_name_reaches_nothing(server: httpx.Client, method: str, path: str) -> None:
    before = server.get("/facts").json()
    answer = server.request(method, path, headers=REBOUND, json=FACT if method == "POST" else None)
    assert answer.status_code == 421
    told = answer.json()
    assert told.get("code", told.get("error", {}).get("code")) == "host_not_allowed"
    assert "LARIMAR_ALLOWED_HOSTS=evil.example" in answer.text and answer.headers["X-Request-ID"]
    assert answer.headers["Connection"] == "close"  # with what follows on it, be it a smuggled request
    assert server.get("/facts").json() == before


def test_a_preflight_under_a_rebound_name_is_refused() -> None:
    with serving(cors_origins="http://evil.example") as client:
        asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        assert client.options("/facts", headers=asks).status_code == 200
        assert client.options("/facts", headers=asks | REBOUND).status_code == 421


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_probes_ask_under_any_name(server: httpx.Client, path: str) -> None:
    assert server.get(path, headers=REBOUND).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "10.1.2.3", "[::1]:8080", "larimar.internal:443", "other.example"]
)
def test_names_that_cannot_be_rebound_and_allowed_ones_are_served(server: httpx.Client, host: str) -> None:
    assert server.get("/facts", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "safe"),
    [
        ("localhost", True),
        ("app.localhost:8080", True),
        ("[::ffff:127.0.0.1]", True),
        ("0.0.0.0:8080", True),
        ("", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evillocalhost", False),
        ("2130706433", False),  # browsers write the address that they make of it
        ("::1", False),
        ("[::1", False),
        ("localhost@evil.example", False),
        ("evil.example@localhost", False),
        ("localhost:80:evil.example", False),
        ("localhost/evil.example", False),
        ("[evil.example]", False),
    ],
)
def test_which_names_cannot_be_rebound(host: str, safe: bool) -> None:
    assert is_unrebindable(host) is safe


def test_with_a_key_or_told_to_be_insecure_any_name_is_served() -> None:
    with serving(api_keys="a-static-key:t") as keyed:
        assert keyed.get("/facts", headers=REBOUND).status_code == 401
        assert keyed.get("/facts", headers=REBOUND | {"X-API-Key": "a-static-key"}).status_code == 200
    with serving(insecure=True) as insecure:
        assert insecure.get("/facts", headers=REBOUND).status_code == 200


def test_a_key_made_while_the_server_runs_ends_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as client:
        assert client.get("/facts", headers=REBOUND).status_code == 421
        key = make_key(client, "acme", "read")
        now = client.app.state.access.keys  # type: ignore[attr-defined]
        monkeypatch.setattr(now, "_no_keys_at", now._no_keys_at - OPEN_S)
        assert client.get("/facts", headers=REBOUND | {"X-API-Key": key}).status_code == 200


def test_without_a_key_nobody_is_admin(tmp_path_factory: pytest.TempPathFactory) -> None:
    for insecure in (False, True):
        with hosted(tmp_path_factory.mktemp("data"), insecure=insecure) as client:
            for method, path in (("GET", "/admin/keys"), ("GET", "/admin/audit"), ("DELETE", "/admin/keys/ffffffffffff")):
                answer = client.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            answer = client.post("/admin/keys", json={"tenant": "t", "scopes": ["admin"]})
            assert answer.status_code == 403 and "larimar keys create" in answer.json()["detail"]
            assert client.get("/facts").status_code == 200, "and a key was made"
