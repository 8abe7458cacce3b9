"""What is so at the time of a scrape: read from the service when Prometheus asks, so that nothing is kept twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from app import __version__
from app.server.metrics import Metrics
from app.service import Service
from memory.episodic import EpisodicMemory

RESIDUAL_MAX = "Largest relative residual of the last updates"
CALIBRATED = "Whether the reader is calibrated: 1 or 0; nothing where there is no reader"


def _memories(service: Service) -> list[EpisodicMemory]:
    return [tenant.memory for tenant in service.tenants.loaded]


def _snapshot_age(service: Service) -> float:
    now = time.time()
    return max((now - tenant.changed_at for tenant in service.tenants.loaded if tenant.changes_since_snapshot), default=0.0)


GAUGES: dict[str, tuple[str, Callable[[Service], float]]] = {
    "larimar_facts": ("Facts in loaded memories", lambda s: sum(map(len, _memories(s)))),
    "larimar_pages": ("Pages in loaded memories", lambda s: sum(memory.pages for memory in _memories(s))),
    "larimar_memory_bytes": (
        "Bytes of pages in use, and of facts and their index",
        lambda s: sum(memory.size_bytes for memory in _memories(s)),
    ),
    "larimar_key_index_bytes": ("Bytes of the index of data keys in files, 64 MiB at most", lambda s: s.tenants.store.index_bytes),
    "larimar_loaded_tenants": ("Tenants in memory", lambda s: len(s.tenants.loaded)),
    "larimar_queue_depth": ("Jobs waiting for the inference thread", lambda s: s.worker.depth),
    "larimar_queue_size": ("Jobs that may wait for the inference thread", lambda s: s.worker.size),
    "larimar_lookup_queue_depth": ("Jobs waiting for the look-up thread", lambda s: s.tenants.lookups.depth),
    "larimar_snapshot_age_seconds": ("Age of the oldest change that is in no snapshot", _snapshot_age),
    "larimar_log_lag": (
        "Changes that are in no snapshot yet",
        lambda s: sum(tenant.changes_since_snapshot for tenant in s.tenants.loaded),
    ),
}


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
        for name, (documentation, value) in GAUGES.items():
            yield GaugeMetricFamily(name, documentation, value(service))
        yield GaugeMetricFamily("larimar_residual_max", RESIDUAL_MAX, self._metrics.residual_max)
        model = service.model
        if model.scope is not None:
            yield GaugeMetricFamily("larimar_reader_calibrated", CALIBRATED, float(model.scope.calibrated))
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
