"""What is so at the time of a scrape: read from the service when Prometheus asks, so that nothing is kept twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from app import __version__
from app.metrics import Metrics
from app.service import Service


class Gauges(Collector):
    """Gauges of the running service; before it is ready there are none.

    Args:
        service: the app's service, None while it starts or drains.
        metrics: where the residuals of updates are kept.
    """

    def __init__(self, service: Callable[[], Service | None], metrics: Metrics) -> None:
        self._service, self._metrics = service, metrics
        metrics.registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        service = self._service()
        if service is None:
            return
        for name, documentation, value in _values(service, self._metrics, time.time()):
            yield GaugeMetricFamily(name, documentation, value)
        model = service.model
        yield InfoMetricFamily(
            "larimar_model",
            "The model that is served",
            {"version": __version__, "decoder": model.name, "fingerprint": model.fingerprint[:16], "device": str(model.device)},
        )
        if model.device.type == "cuda":
            memory = GaugeMetricFamily("larimar_gpu_memory_bytes", "Memory of the device", labels=["kind"])
            free, total = torch.cuda.mem_get_info(model.device)
            memory.add_metric(["used"], total - free)
            memory.add_metric(["total"], total)
            yield memory


def _values(service: Service, metrics: Metrics, now: float) -> Iterable[tuple[str, str, float]]:
    tenants = service.tenants.loaded
    memories = [tenant.memory for tenant in tenants]
    behind = [tenant.changed_at for tenant in tenants if tenant.changes_since_snapshot]
    yield "larimar_facts", "Facts in loaded memories", sum(len(memory) for memory in memories)
    yield "larimar_pages", "Pages in loaded memories", sum(memory.pages for memory in memories)
    yield "larimar_memory_bytes", "Bytes of pages in use", sum(memory.size_bytes for memory in memories)
    yield "larimar_loaded_tenants", "Tenants in memory", len(tenants)
    yield "larimar_queue_depth", "Jobs waiting for the inference thread", service.worker.depth
    yield "larimar_queue_size", "Jobs that may wait for the inference thread", service.worker.size
    yield "larimar_snapshot_age_seconds", "Age of the oldest change that is in no snapshot", max((now - at for at in behind), default=0.0)
    yield "larimar_log_lag", "Changes that are in no snapshot yet", sum(tenant.changes_since_snapshot for tenant in tenants)
    yield "larimar_residual_max", "Largest relative residual of the last updates", metrics.residual_max
