"""Settings: everything that is wrong is told at once, before anything is opened."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.server.model_loading import scope_of
from app.server.settings import PREFIX, Settings, read_settings
from memory.scope.rules import Scope
from tests.models import toys


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def problems(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(PREFIX + name, value)
    return read_settings(os.environ)[1]


def test_defaults_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch) == []
    assert problems(monkeypatch, ADAPTER="", SCOPE_PROBABILITY="", MODELS_DIR="") == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://u:p@h:6379/0",
        "rediss://h:1?ssl_ca_certs=/a/b",
        "unix:///tmp/a:b.sock",
        "redis://[::1]:6379/0",
        "redis://[::1]/0",
        "redis+sentinel://u:p@a:26379,b:26379/master/1",
        "redis+sentinel://a,b/master",
        "redis+cluster://u:p@a:7000,b:7001",
    ],
)
def test_addresses_that_are_usable(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert problems(monkeypatch, STORE_URL=url) == []


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"PROT": "1"}, "LARIMAR_PROT: there is no such setting; did you mean LARIMAR_PORT?"),
        ({"PORT": "http"}, "LARIMAR_PORT: got 'http', wanted a whole number"),
        ({"PORT": "70000"}, "LARIMAR_PORT: got '70000', wanted at most 65535"),
        ({"INSECURE": "maybe"}, "LARIMAR_INSECURE: got 'maybe', wanted 1 or 0"),
        ({"READ_WAIT_S": "long"}, "LARIMAR_READ_WAIT_S: got 'long', wanted a number"),
        ({"DURABILITY": "never"}, "LARIMAR_DURABILITY: got 'never', wanted 'memory', 'disk' or 'replica'"),
        ({"DECODER": ""}, "LARIMAR_DECODER: got '', wanted a text"),
        ({"SNAPSHOT_S": "0"}, "LARIMAR_SNAPSHOT_S: got '0', wanted more than 0"),
        ({"SNAPSHOT_S": "nan"}, "LARIMAR_SNAPSHOT_S: got 'nan', wanted at most 31536000"),
        ({"READ_WAIT_S": "1e308"}, "LARIMAR_READ_WAIT_S: got '1e308', wanted at most 31536000"),
        ({"BODY_TIMEOUT_S": "inf"}, "LARIMAR_BODY_TIMEOUT_S: got 'inf', wanted at most 31536000"),
        ({"REQUEST_TIMEOUT_S": "inf"}, "LARIMAR_REQUEST_TIMEOUT_S: got 'inf', wanted at most 31536000"),
        ({"STORE_TIMEOUT_S": "inf"}, "LARIMAR_STORE_TIMEOUT_S: got 'inf', wanted at most 31536000"),
        ({"WORKERS": "2"}, "LARIMAR_WORKERS=2 needs LARIMAR_STORE_URL"),
        ({"WORKERS": "2", "STORE_URL": "redis://h", "DEVICE": "cuda:1"}, "LARIMAR_DEVICE=cuda:1: one process owns one device"),
        ({"WORKERS": "3", "STORE_URL": "redis://h", "ADMIN_PORT": "8079"}, "LARIMAR_ADMIN_PORT=8079 takes a port for each"),
        ({"WORKERS": "3", "STORE_URL": "redis://h", "ADMIN_PORT": "65534"}, "LARIMAR_ADMIN_PORT=65534 takes a port for each"),
        ({"STORE_URL": "postgres://u:secret@h"}, "scheme 'postgres', wanted redis://…, rediss://…, unix://…"),
        ({"STORE_URL": "localhost:6379"}, "LARIMAR_STORE_URL: got an address with scheme ''"),
        ({"STORE_URL": "redis://:pa/secret@host:6379"}, "LARIMAR_STORE_URL: a port in the address is no number"),
        ({"STORE_URL": "redis://host:port"}, "LARIMAR_STORE_URL: a port in the address is no number"),
        ({"STORE_URL": "redis+sentinel://host:26379"}, "LARIMAR_STORE_URL: wanted redis+sentinel://host:port,host:port/master-name"),
        ({"STORE_URL": "redis+cluster://host:7000/1"}, "LARIMAR_STORE_URL: wanted redis+cluster://host:port,host:port: a cluster has no"),
        ({"DEVICE": "gpu"}, "LARIMAR_DEVICE: got 'gpu', wanted auto, cpu, cuda or cuda:N"),
        ({"ADAPTER": "/nowhere/a.safetensors"}, "LARIMAR_ADAPTER: there is no file /nowhere/a.safetensors"),
        ({"LOG_LEVEL": "loud"}, "LARIMAR_LOG_LEVEL: got 'loud'"),
        ({"API_KEYS": "short:t"}, "LARIMAR_API_KEYS: wanted key:tenant"),
        ({"API_KEYS": "long-enough:acme corp"}, "LARIMAR_API_KEYS: wanted key:tenant,… with names of tenants of 1 to 64 of A-Z a-z"),
        ({"API_KEYS": "acme-rockets:my secret"}, "LARIMAR_API_KEYS: wanted key:tenant"),
        ({"LIMIT_REQUESTS": "many"}, "LARIMAR_LIMIT_REQUESTS: got 'many', wanted such as 600/minute"),
        ({"CORS_ORIGINS": "*"}, "LARIMAR_CORS_ORIGINS: got '*', wanted origins"),
        ({"PORT": "9", "ADMIN_PORT": "9"}, "LARIMAR_ADMIN_PORT=9 is LARIMAR_PORT too"),
        ({"SCOPE_PROBABILITY": "0"}, "LARIMAR_SCOPE_PROBABILITY: got '0', wanted more than 0"),
        ({"SCOPE_PROBABILITY": "1.1"}, "LARIMAR_SCOPE_PROBABILITY: got '1.1', wanted at most 1"),
        ({"JUDGE": "a.safetensors"}, "LARIMAR_JUDGE: there is no such setting any more; LARIMAR_READER names"),
        ({"SCOPE_THRESHOLD": "0.5"}, "LARIMAR_SCOPE_THRESHOLD: there is no such setting any more; LARIMAR_SCOPE_PROBABILITY is"),
        ({"SCOPE_STRICT": "1"}, "LARIMAR_SCOPE_STRICT: there is no such setting any more; raise LARIMAR_SCOPE_PROBABILITY"),
        ({"STORE_PASSWORD": "x" * 20}, "LARIMAR_STORE_PASSWORD is set and LARIMAR_STORE_URL is not"),
    ],
)
def test_each_problem_names_what_to_fix(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str) -> None:
    (found,) = problems(monkeypatch, **environment)
    assert says in found
    assert "secret" not in found


def test_every_problem_is_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, PROT="1", PORT="http", DEVICE="gpu", STORE_PASSWORD="x", QUEUE_SIZE="0")
    assert len(found) == 5


def test_the_start_stops_with_the_list() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)} | {"LARIMAR_PROT": "1", "LARIMAR_DEVICE": "gpu"}
    done = subprocess.run([sys.executable, "-m", "app"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 3 and "Traceback" not in done.stderr


def test_secrets_are_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, password = "0123456789abcdef:t", "a-p@ss/word"
    assert not problems(monkeypatch, API_KEYS=keys, STORE_URL="redis://store:1/0", STORE_PASSWORD=password)
    settings = Settings()
    assert "0123456789abcdef" not in repr(settings) and password not in repr(settings)
    assert settings.store_address == "redis://:a-p%40ss%2Fword@store:1/0"


def test_secret_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "larimar_api_keys").write_text("0123456789abcdef:tenant\n")
    assert Settings(_secrets_dir=tmp_path).tenants_by_key == {"0123456789abcdef": "tenant"}  # type: ignore[call-arg]


def test_scope_is_calibrated_unless_settings_say_otherwise() -> None:
    model = toys.model()
    calibrated, own = scope_of(model), scope_of(model, Settings(scope_probability=0.7))
    assert scope_of(model, Settings()) == calibrated
    assert isinstance(calibrated, Scope) and own == replace(calibrated, threshold=0.7, rise=0.0)  # without a reader by rules
    assert own.threshold_for(1) == own.threshold_for(10_000) == 0.7
