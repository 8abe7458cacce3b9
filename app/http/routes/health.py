"""Liveness, readiness, metrics, version. HEAD is answered too: balancers and watchers probe with it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from app import __version__
from app.http.dependencies import Serving
from app.server import background
from memory.errors import MemoryError_

router = APIRouter(tags=["health"])


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers. Never asks the store."""
    return {"status": "alive"}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready")
async def ready(request: Request, response: Response) -> dict[str, object]:
    """Whether the server can take reads and writes, and what stands in the way if not (503)."""
    service = request.app.state.service
    checks = {"model": "ok" if service else "loading"}
    if service:
        checks["worker"] = "ok" if service.worker.alive else "dead"
        checks["look-ups"] = "ok" if service.tenants.lookups.alive else "dead"
        scope = service.model.scope
        checks["reader"] = "ok (none)" if scope is None else "ok" if scope.calibrated else "ok (not calibrated)"
        try:
            checks["store"] = f"ok ({(await service.tenants.store.probed()).level})"
        except MemoryError_ as error:
            checks["store"] = f"unavailable: {error}"
        checks["snapshots"] = service.tenants.snapshot_failure or "ok"
        checks["background"] = background.ended(service.background) or "ok"
    is_ready = bool(service) and all(check.startswith("ok") for check in checks.values())
    response.status_code = 200 if is_ready else 503
    return {"status": "ready" if is_ready else "not ready", "checks": checks}


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics with exemplars where the Accept header asks for it."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.metrics.registry), media_type=media_type)


@router.head("/version", include_in_schema=False)
@router.get("/version")
async def version(service: Serving) -> dict[str, str]:
    """The server's version and the model it holds."""
    model = service.model
    return {
        "version": __version__,
        "decoder": model.name,
        "fingerprint": model.fingerprint,
        "device": str(model.device),
        "dtype": str(model.decoder.dtype).removeprefix("torch."),
    }
