"""Traces: a caller's context is honoured with and without OpenTelemetry, and spans say where a request's time went."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.http.middleware import RequestLog
from app.server import tracing
from app.server.metrics import Metrics
from tests.app.hosting import hosted
from tests.app.server.test_metrics import answer, ask, exported

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{PARENT}-01"
INVALID = [
    "",
    "00",
    f"00-{TRACE}-{PARENT}",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{TRACE.upper()}-{PARENT}-01",
    f"{CALLER}\nx",
]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)


def logged(**headers: str) -> tuple[dict[str, str], dict[str, str]]:
    """The log line and the answer's headers of a request."""
    lines = io.StringIO()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(lines),
    )
    try:
        found = ask(RequestLog(answer, Metrics()), "/", **headers).headers
    finally:
        structlog.reset_defaults()
    return json.loads(lines.getvalue()), dict(found)


def test_a_callers_trace_is_passed_on_without_opentelemetry() -> None:
    line, headers = logged(traceparent=CALLER)
    assert line["trace_id"] == TRACE
    version, trace_id, span_id, flags = headers["traceresponse"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "00") and span_id not in (PARENT, "0" * 16) and len(span_id) == 16
    assert "trace_id" not in structlog.contextvars.get_contextvars()


@pytest.mark.parametrize("header", INVALID[:-1])  # no client sends the last one; see below
def test_a_header_that_is_not_valid_is_as_none(header: str) -> None:
    line, headers = logged(traceparent=header)
    assert "trace_id" not in line and "traceresponse" not in headers


def test_a_line_break_is_no_part_of_a_context() -> None:
    with tracing.request(INVALID[-1], "") as trace:
        assert trace is None


def test_exemplars_lead_to_the_trace() -> None:
    metrics = Metrics()

    async def observing(scope: object, receive: object, send: object) -> None:
        metrics.read.observe(0.02)
        await answer(scope, receive, send)  # type: ignore[arg-type]  # passed on

    ask(RequestLog(observing, metrics), "/", **{"traceparent": CALLER, "X-Request-ID": "a-request"})
    assert f'# {{request_id="a-request",trace_id="{TRACE}"}} 0.02' in exported(metrics)


def by_name(spans: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


@pytest.mark.service
def test_spans_say_where_the_time_went(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    secret = "the capital of zor is"
    with hosted(tmp_path) as client:
        written = client.post("/facts", json={"prompt": secret, "target": "Kal"}, headers={"traceparent": CALLER})
        assert written.headers["traceresponse"].startswith(f"00-{TRACE}-") and written.headers["traceresponse"].endswith("-01")
        write = by_name(spans)
        spans.clear()
        client.post("/generate", json={"prompt": secret, "max_new_tokens": 3})
        generate = by_name(spans)
        spans.clear()
        client.delete(f"/facts/{written.json()['id']}")
        forget = by_name(spans)
    assert {"POST /facts", "encode", "queue", "commit", "solve"} == set(write)
    assert {"POST /generate", "encode", "queue", "decode"} == set(generate)
    assert {"DELETE /facts/{fact_id}", "queue", "commit", "solve"} == set(forget)
    for found, root_name in ((write, "POST /facts"), (generate, "POST /generate"), (forget, "DELETE /facts/{fact_id}")):
        (root,) = found[root_name]
        every = [span for group in found.values() for span in group]
        assert len({span.context.trace_id for span in every if span.context}) == 1
        ids = {span.context.span_id for span in every if span.context}
        for span in every:
            assert span is root or (span.parent and span.parent.span_id in ids)
            assert span.start_time and span.end_time and root.start_time and root.end_time
            slack = 5_000_000  # ns: the clocks of wall time and of durations are not one
            assert root.start_time - slack <= span.start_time <= span.end_time <= root.end_time + slack
            assert secret not in span.to_json()
        assert root.attributes and root.attributes["http.route"] in root_name
    (root,) = write["POST /facts"]
    assert root.parent and f"{root.parent.span_id:016x}" == PARENT and f"{root.parent.trace_id:032x}" == TRACE
    (decode,) = generate["decode"]
    assert decode.attributes == {"tokens": 3}


@pytest.mark.service
def test_writes_that_share_a_commit_keep_their_own_traces(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    with hosted(tmp_path) as client:
        facts = [{"prompt": f"the colour of ship {n} is", "target": "red"} for n in range(3)]
        client.post("/facts", json=facts, headers={"traceparent": CALLER})
    found = by_name(spans)
    assert len(found["commit"]) == 3  # one for each fact, of the one block
    assert len({(span.start_time, span.end_time) for span in found["commit"]}) == 1
    assert {f"{span.context.trace_id:032x}" for span in found["commit"] if span.context} == {TRACE}


def test_the_sdk_is_not_imported_unasked() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = sys.modules['opentelemetry.exporter'] = None\n"
        "from app.server import main, tracing\n"
        "tracing.configure({})\n"
        "assert tracing.span('a') is tracing.span('b') and tracing.here() is None\n"
        "try: tracing.configure({'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:4318'})\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set" in done.stdout and "larimar-server[otel]" in done.stdout


class Collector(BaseHTTPRequestHandler):
    got: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_reach_the_collector_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        named = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}", "OTEL_SERVICE_NAME": "the-memory"}
        assert tracing.configure(named | {"OTEL_SDK_DISABLED": "true"}) is None
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", named["OTEL_EXPORTER_OTLP_ENDPOINT"])
        provider = tracing.configure(named)
        assert provider is not None
        try:
            with tracing.request(CALLER, ""), tracing.span("encode", facts=2):
                pass
            provider.shutdown()
        finally:
            tracing.use(None)
            collector.shutdown()
    ((path, body),) = Collector.got
    assert path == "/v1/traces" and b"encode" in body and b"the-memory" in body and bytes.fromhex(TRACE) in body
