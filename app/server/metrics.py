"""Prometheus metrics, one registry per app. Labels are bounded: route templates, codes and names of this code only.

Base units; buckets of seconds start at 0.5 ms, those of the reader at 1 ms. Every observation of seconds carries the request's id as
an exemplar, which an OpenMetrics scrape exports: from a slow bucket to the request's log lines.
"""

from __future__ import annotations

from collections import deque

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
READER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # finer about four pairs' 45 ms
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OPERATIONS = ("write", "forget")
PHASES = ("encode", "solve", "commit", "total")
CHANGES = ("written", "forgotten", "superseded", "expired")
RESIDUALS = 256  # updates over which the largest residual is told
OTHER = "other"  # where tenants beyond the cap are counted

disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client's


class Seconds(Histogram):
    """A histogram of seconds whose observations carry the id of the request they are made in, and of its trace."""

    def __init__(self, name: str, documentation: str, labelnames: tuple[str, ...] = (), **kwargs: object) -> None:
        super().__init__(name, documentation, labelnames, **{"buckets": BUCKETS} | kwargs)  # type: ignore[arg-type]  # passed on

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        if exemplar is None:
            bound = structlog.contextvars.get_contextvars()
            exemplar = {name: str(bound[name]) for name in ("request_id", "trace_id") if name in bound} or None
        super().observe(amount, exemplar)


class Metrics:
    """Everything the server counts as it happens; `gauges.py` tells what is so at the time of a scrape.

    Args:
        tenants: how many tenants get a label of their own, first come; 0 for no label at all.
    """

    def __init__(self, tenants: int = 0) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self.update = Seconds("larimar_update_seconds", "One-shot update of a memory", ("operation", "phase"), registry=r)
        self.encode = Seconds("larimar_encode_seconds", "Encoding a fact or a query", registry=r)
        self.read = Seconds("larimar_read_seconds", "Reading a memory, encoding included", registry=r)
        self.reader = Seconds("larimar_reader_seconds", "One pass of the reader over pairs", buckets=READER_BUCKETS, registry=r)
        self.generate = Seconds("larimar_generate_seconds", "Generating a text", registry=r)
        self.first_token = Seconds("larimar_time_to_first_token_seconds", "Until the first token", registry=r)
        self.queue_wait = Seconds("larimar_queue_seconds", "Waiting for the inference thread", registry=r)
        self.request_time = Seconds("larimar_request_seconds", "HTTP requests until the last byte", ("route",), registry=r)
        self.store_time = Seconds("larimar_store_seconds", "Calls of the store, retries included", ("operation",), registry=r)
        self.batch = Histogram("larimar_batch_size", "Items handled together", ["kind"], buckets=BATCHES, registry=r)
        self.requests = Counter("larimar_requests", "HTTP requests", ["method", "route", "status"], registry=r)
        self.errors = Counter("larimar_errors", "Problem documents by code", ["code"], registry=r)
        self.changes = Counter("larimar_fact_changes", "Facts by what became of them", ["change"], registry=r)
        self.scope = Counter("larimar_scope", "Scope decisions: in, maybe or out", ["decision"], registry=r)
        self.reader_pairs = Counter("larimar_reader_pairs", "Pairs of question and fact that were read", registry=r)
        self.tokens = Counter("larimar_generated_tokens", "Tokens generated", registry=r)
        self.prompt_tokens = Counter("larimar_prompt_tokens", "Tokens of prompts generated from", registry=r)
        self.snapshots = Counter("larimar_snapshots", "Snapshots by outcome", ["outcome"], registry=r)
        self.store_retries = Counter("larimar_store_retries", "Attempts of a store call after a lost connection", registry=r)
        self.store_faults = Counter("larimar_store_faults", "Store calls that failed", ["operation"], registry=r)
        self.store_up = Gauge("larimar_store_up", "Whether the last call of the store was answered", registry=r)
        self.audit_lost = Counter("larimar_audit_lost", "Audit entries dropped while the store was away", registry=r)
        self._residuals: deque[float] = deque(maxlen=RESIDUALS)
        self._tenants, self._cap = set[str](), tenants
        self.tenant_requests = (
            Counter("larimar_tenant_requests", "HTTP requests of a tenant", ["tenant"], registry=r) if tenants else None
        )
        self._begin()

    def _begin(self) -> None:
        """Series with known labels exist from the start: a rate over them is 0, not nothing."""
        for operation in OPERATIONS:
            for phase in PHASES:
                self.update.labels(operation, phase)
        for change in CHANGES:
            self.changes.labels(change)
        for decision in ("in", "maybe", "out"):
            self.scope.labels(decision)
        for outcome in ("ok", "failed"):
            self.snapshots.labels(outcome)
        for operation in ("commit", "follow", "load", "ping", "snapshot"):
            self.store_time.labels(operation)
            self.store_faults.labels(operation)

    def residual(self, value: float) -> None:
        """The relative residual of an update."""
        self._residuals.append(value)

    @property
    def residual_max(self) -> float:
        """The largest residual of the last updates."""
        return max(self._residuals, default=0.0)

    def tenant(self, name: str) -> None:
        """Count a request of a tenant, if tenants are labelled; beyond the cap as `other`."""
        if self.tenant_requests is None:
            return
        if len(self._tenants) < self._cap:
            self._tenants.add(name)
        self.tenant_requests.labels(name if name in self._tenants else OTHER).inc()
