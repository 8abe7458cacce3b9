"""Traces. The W3C trace context is honoured always; spans are made where OpenTelemetry is installed and configured.

Nothing of its SDK is imported before `configure` finds a collector named, and until then a span costs one comparison.
Spans hold names, counts and ids, never a text or a key: exceptions are not recorded in them, since their words may hold one.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
RESPONSE = "traceresponse"  # header of an answer: the trace, and the server's own span in it
_PARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
_NOTHING: AbstractContextManager[None] = nullcontext()
_tracer: Tracer | None = None


@dataclass(frozen=True)
class Trace:
    """The trace that a request is part of.

    Attributes:
        trace_id: 32 hexadecimal digits; response: what the header `traceresponse` says.
    """

    trace_id: str
    response: str
    span: Span | None = None

    def end(self, name: str, status: int, **attributes: str | int) -> None:
        """Name the request's span, when its route and status are known."""
        if self.span is not None:
            from opentelemetry.trace import StatusCode

            self.span.update_name(name)
            self.span.set_attributes({name.replace("_", "."): value for name, value in attributes.items()})
            self.span.set_attribute("http.response.status_code", status)
            if status >= 500:
                self.span.set_status(StatusCode.ERROR)


def configure(environment: Mapping[str, str]) -> TracerProvider | None:
    """Export spans to the collector that OpenTelemetry's own variables name; without one, do nothing.

    Returns:
        What makes the spans; it exports the last of them when the program ends or it is shut down.

    Raises:
        ValueError: a collector is named, and the extra `otel` is not installed.
    """
    named = next((name for name in COLLECTORS if environment.get(name)), None)
    if named is None or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ValueError(f"{named} is set and OpenTelemetry is missing: pip install 'larimar-server[otel]', or unset it") from None
    about = {"service.name": environment.get("OTEL_SERVICE_NAME") or "larimar", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider)
    return provider


def use(provider: TracerProvider | None) -> None:
    """Make spans with a provider; None makes none."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer("larimar", __version__)


@contextmanager
def request(traceparent: str, tracestate: str) -> Iterator[Trace | None]:
    """The trace of a request with these headers; None where nobody traces. A header that is not valid begins a new trace."""
    if _tracer is None:
        parent = _PARENT.match(traceparent)
        yield Trace(parent[1], f"00-{parent[1]}-{secrets.token_hex(8)}-00") if parent else None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent, "tracestate": tracestate})
    with _tracer.start_as_current_span(
        "request", context, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        own = span.get_span_context()
        yield Trace(f"{own.trace_id:032x}", f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}", span)


def span(name: str, **attributes: int) -> AbstractContextManager[Any]:
    """A part of the current request, for as long as the block runs."""
    if _tracer is None:
        return _NOTHING
    return _tracer.start_as_current_span(name, attributes=attributes, record_exception=False, set_status_on_exception=False)


def here() -> Context | None:
    """Where a span of another thread belongs; None outside a trace."""
    if _tracer is None:
        return None
    from opentelemetry.context import get_current
    from opentelemetry.trace import get_current_span

    return get_current() if get_current_span().get_span_context().is_valid else None


def record(name: str, began_at: float, seconds: float, context: Context | None = None, **attributes: int) -> None:
    """A span that is over.

    Args:
        began_at: Unix time.
        context: what `here` gave; the current request, when None.
    """
    if _tracer is not None:
        began = int(1e9 * began_at)
        _tracer.start_span(name, context, attributes=attributes, start_time=began).end(began + int(1e9 * seconds))


def waited(queued_at: float, context: Context | None) -> None:
    """The span of a wait in the queue that is over now; `queued_at` is by time.perf_counter. None for what is no request's."""
    if context is not None:
        seconds = time.perf_counter() - queued_at
        record("queue", time.time() - seconds, seconds, context)
