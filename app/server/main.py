"""Assembles the app; its lifespan owns everything that must be opened and closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app import __version__
from app.access.access import open_access
from app.http import problems
from app.http.dependencies import known_parameters
from app.http.hosts import HostCheck
from app.http.middleware import BodyLimits, Ports, RequestLog, SecurityHeaders
from app.http.routes import admin, bulk, facts, generate, health, openai, probe, tenants
from app.inference.worker import InferenceWorker
from app.server import background
from app.server.gauges import Gauges
from app.server.measured_reader import MeasuredReader
from app.server.measured_store import MeasuredStore
from app.server.metrics import Metrics
from app.server.model_loading import CALIBRATE, model_of, scope_of
from app.server.settings import Settings
from app.service import Service
from app.tenants.expiry import Expiry
from app.tenants.tenant import TenantLimits
from app.tenants.tenants import Tenants
from memory.errors import PromiseBroken
from memory.page import PageSettings
from memory.store.connection import connect
from memory.store.embedded.valkey import EmbeddedValkey
from memory.store.vault import Vault
from models.model import Model

log = structlog.get_logger()
LoadModel = Callable[[Settings], Model]


def load_model(settings: Settings) -> Model:
    """The settings' model; long steps go to the log."""
    return model_of(settings, lambda text: log.info("model", step=text))


async def open_store(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> MeasuredStore:
    """The configured store, or an embedded one in the data folder. Raises StoreUnavailable."""
    url = settings.store_address
    if not url:
        valkey = EmbeddedValkey(settings.data_dir)
        await asyncio.to_thread(valkey.start)
        stack.push_async_callback(asyncio.to_thread, valkey.close)
        stack.push_async_callback(background.end, [asyncio.create_task(background.keep_running(valkey))])
        url = valkey.url
    client = connect(url, timeout_s=settings.store_timeout_s)
    vault = None if settings.store_url else Vault(settings.data_dir / "keys")
    store = MeasuredStore(
        client,
        metrics,
        timeout_s=settings.store_timeout_s,
        vault=vault,
        level=settings.durability,
        replicas=settings.durability_replicas,
    )
    stack.push_async_callback(store.close)
    try:
        durability = await store.ping()
        log.info("store", embedded=not settings.store_url, durability=durability.level, reason=durability.reason)
    except PromiseBroken as error:  # it may be kept later; until then writes are refused
        log.error("durability", wanted=error.wanted, reason=error.reason)
    return store


async def open_service(
    settings: Settings, store: MeasuredStore, metrics: Metrics, stack: AsyncExitStack, load: LoadModel = load_model
) -> Service:
    """Open model, worker and tenants; the stack closes them in reverse, after a last snapshot."""
    model = await asyncio.to_thread(load, settings)
    if model.scope is not None and not model.scope.calibrated:
        log.warning("reader_not_calibrated", reader=settings.reader, threshold=model.scope.calibration.threshold, advice=CALIBRATE)
    reader = None if model.scope is None else MeasuredReader(model.scope.reader, metrics)
    worker = InferenceWorker(
        settings.queue_size,
        metrics.queue_wait.observe,
        observe_batch=lambda kind, size: metrics.batch.labels(kind).observe(size),
        batch=model.decoder.batch,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
    )
    lookups = InferenceWorker(settings.queue_size, name="look-ups")
    for thread in (worker, lookups):
        thread.start()
        stack.push_async_callback(thread.close)
    held = Tenants(
        store,
        worker,
        model,
        metrics,
        lookups=lookups,
        pages=PageSettings(slots=settings.page_slots),
        scope=scope_of(model, settings, reader),
        holding=TenantLimits(
            budget_bytes=settings.memory_budget_mb << 20,
            max_facts=settings.tenant_max_facts,
            max_bytes=settings.tenant_max_mb << 20,
            read_wait_s=settings.read_wait_s,
            snapshot_every=settings.snapshot_every,
            snapshot_s=settings.snapshot_s,
        ),
    )
    stack.push_async_callback(held.snapshot)
    service = Service(model, held, worker, metrics)
    works = {"snapshots": held.keep_snapshots(), "expiry": Expiry(held).keep()}
    service.background = [asyncio.create_task(work, name=name) for name, work in works.items()]
    stack.push_async_callback(background.end, service.background)
    return service


def create_app(settings: Settings, *, load: LoadModel = load_model) -> FastAPI:
    """The app. Nothing is opened before its lifespan starts."""
    metrics = Metrics(settings.metrics_tenants)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                await asyncio.to_thread(settings.data_dir.mkdir, parents=True, exist_ok=True)
                store = await open_store(settings, metrics, stack)
                app.state.access = await open_access(settings, store, metrics, stack)
                app.state.service = await open_service(settings, store, metrics, stack, load)
            except Exception as error:
                app.state.failure = error  # uvicorn would only log it
                raise
            log.info("ready", host=settings.host, port=settings.port, decoder=settings.decoder)
            yield
            app.state.service = None

    pages = {} if settings.docs else {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(
        title="Larimar Server",
        version=__version__,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # it tells bodies and exceptions
        **pages,  # type: ignore[arg-type]  # all str or None
    )
    app.state.settings, app.state.metrics, app.state.service, app.state.access = settings, metrics, None, None
    app.state.failure = None
    Gauges(lambda: app.state.service, metrics)
    problems.install(app)
    routes = (facts, bulk, probe, tenants, generate, openai, health, admin)
    for routed in routes:  # OpenAI's clients send parameters of others, and probes of health what they like
        app.include_router(routed.router, dependencies=[] if routed in (openai, health) else [Depends(known_parameters)])
    app.add_middleware(BodyLimits, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s, streamed=(bulk.PATH,))
    if origins := [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], max_age=600)
    if settings.admin_port is not None:
        app.add_middleware(Ports, admin_port=settings.admin_port)
    if not settings.insecure:
        app.add_middleware(HostCheck, access=lambda: app.state.access, allowed=settings.host_names)
    known = [*app.routes, *(route for routed in routes for route in routed.router.routes)]
    app.add_middleware(RequestLog, metrics=metrics, access=lambda: app.state.access, routes=known)
    app.add_middleware(SecurityHeaders)
    return app
