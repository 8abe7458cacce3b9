"""Prometheus metrics, one registry per app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Everything the server exports."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.update = Histogram(
            "larimar_update_seconds", "One-shot update of a memory", ["operation", "phase"], buckets=BUCKETS, registry=r
        )
        for operation in ("write", "forget"):
            for phase in ("encode", "solve", "commit", "total"):
                self.update.labels(operation, phase)
        self.generate = Histogram("larimar_generate_seconds", "Generating a text", buckets=BUCKETS, registry=r)
        self.first_token = Histogram("larimar_time_to_first_token_seconds", "Until the first token", buckets=BUCKETS, registry=r)
        self.queue_wait = Histogram("larimar_queue_seconds", "Waiting for the inference thread", buckets=BUCKETS, registry=r)
        self.requests = Counter("larimar_requests", "HTTP requests", ["method", "route", "status"], registry=r)
        self.scope = Counter("larimar_scope", "Scope decisions", ["decision"], registry=r)
        self.tokens = Counter("larimar_generated_tokens", "Tokens generated", registry=r)
        self.snapshots = Counter("larimar_snapshots", "Snapshots by outcome", ["outcome"], registry=r)
        self.facts = Gauge("larimar_facts", "Facts in loaded memories", registry=r)
        self.pages = Gauge("larimar_pages", "Pages in loaded memories", registry=r)
        self.memory_bytes = Gauge("larimar_memory_bytes", "Bytes of pages in use", registry=r)
        self.tenants = Gauge("larimar_loaded_tenants", "Tenants in memory", registry=r)
        self.queue_depth = Gauge("larimar_queue_depth", "Jobs waiting for the inference thread", registry=r)
