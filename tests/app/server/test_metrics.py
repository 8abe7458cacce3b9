"""Metrics: bounded labels, exemplars, and a port of their own."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest
import structlog
from prometheus_client.openmetrics import exposition
from redis.exceptions import ConnectionError as Lost
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.middleware import Ports, RequestLog
from app.server.measured_store import MeasuredStore
from app.server.metrics import OTHER, RESIDUALS, Metrics
from memory.errors import StoreUnavailable
from memory.store.connection import connect
from tests.app.hosting import hosted


def exported(metrics: Metrics) -> str:
    return exposition.generate_latest(metrics.registry).decode()


def ask(app: ASGIApp, path: str, port: int = 8080, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://server:{port}", headers=headers) as client:
            return await client.get(path)

    return anyio.run(send)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("answered")(scope, receive, send)


def test_a_slow_bucket_names_its_request() -> None:
    metrics = Metrics()

    async def observing(scope: Scope, receive: Receive, send: Send) -> None:
        metrics.read.observe(0.02)
        await answer(scope, receive, send)

    ask(RequestLog(observing, metrics), "/", **{"X-Request-ID": "the-slow-one"})
    line = next(line for line in exported(metrics).splitlines() if line.startswith('larimar_read_seconds_bucket{le="0.025"'))
    assert '# {request_id="the-slow-one"} 0.02' in line
    assert "request_id" not in structlog.contextvars.get_contextvars()


def test_unknown_paths_and_methods_share_one_series() -> None:
    metrics = Metrics()
    app = RequestLog(answer, metrics)
    for number in range(20):
        ask(app, f"/nowhere/{number}")
    series = [line for line in exported(metrics).splitlines() if line.startswith("larimar_requests_total")]
    assert series == ['larimar_requests_total{method="any",route="unmatched",status="200"} 20.0']


@pytest.mark.service
def test_what_no_route_was_asked_for_is_counted_at_its_route(tmp_path: Path) -> None:
    with hosted(tmp_path) as client:
        for method, path in (("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/no"), ("BREW", "/facts"), ("BLEND", "/facts")):
            client.request(method, path)
        assert client.post("/facts/x/probe", content="x").status_code == 415
        series = {line for line in exported(client.app.state.metrics).splitlines() if "_requests_total{" in line}  # type: ignore[attr-defined]
    assert series == {
        'larimar_requests_total{method="GET",route="/docs",status="200"} 1.0',
        'larimar_requests_total{method="GET",route="/openapi.json",status="200"} 1.0',
        'larimar_requests_total{method="POST",route="/facts/{fact_id}/probe",status="415"} 1.0',
        'larimar_requests_total{method="any",route="/facts",status="405"} 2.0',
        'larimar_requests_total{method="any",route="unmatched",status="404"} 1.0',
    }


def test_tenants_have_labels_only_by_setting_and_up_to_the_cap() -> None:
    silent, labelled = Metrics(), Metrics(tenants=2)
    for name in ("a", "b", "c", "d", "a"):
        silent.tenant(name)
        labelled.tenant(name)
    assert "larimar_tenant_requests" not in exported(silent)
    series = {line for line in exported(labelled).splitlines() if line.startswith("larimar_tenant_requests_total")}
    assert series == {f'larimar_tenant_requests_total{{tenant="{name}"}} 2.0' for name in ("a", OTHER)} | {
        'larimar_tenant_requests_total{tenant="b"} 1.0'
    }


def test_the_largest_residual_fades() -> None:
    metrics = Metrics()
    metrics.residual(1e-3)
    assert metrics.residual_max == 1e-3
    for _ in range(RESIDUALS):
        metrics.residual(1e-12)
    assert metrics.residual_max == 1e-12


@pytest.mark.parametrize("path", ["/metrics", "/admin", "/admin/keys"])
def test_administration_has_its_own_port(path: str) -> None:
    app = RequestLog(Ports(answer, admin_port=9090), Metrics())
    assert ask(app, path, 9090).text == "answered"
    assert ask(app, path, 8080).status_code == 404
    assert ask(app, "/facts", 9090).status_code == 404
    assert ask(app, "/administrators", 8080).text == "answered"
    assert {ask(app, "/health/live", port).status_code for port in (8080, 9090)} == {200}


def test_a_lost_store_is_counted(tmp_path: object) -> None:
    metrics = Metrics()
    store = MeasuredStore(connect(f"unix://{tmp_path}/nothing.sock", timeout_s=1), metrics, timeout_s=1)

    async def ping() -> None:
        with pytest.raises(StoreUnavailable) as raised:
            await store.ping()
        assert isinstance(raised.value.__cause__, (Lost, TimeoutError))
        await store.close()

    anyio.run(ping)
    text = exported(metrics)
    assert 'larimar_store_faults_total{operation="ping"} 1.0' in text
    assert "larimar_store_up 0.0" in text
    assert "larimar_store_retries_total 3.0" in text
