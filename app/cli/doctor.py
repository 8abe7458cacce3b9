"""`larimar doctor`: looks at everything a server needs, and says what to do about what it lacks."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

import typer
from redis.exceptions import AuthenticationError
from rich.console import Console
from rich.table import Table

from app.settings import Settings, read_settings

DISK_BYTES = 1 << 30
CLOCK_S = 2.0


@dataclass(frozen=True)
class Finding:
    """What one look found; `advice` is empty when all is well."""

    what: str
    found: str
    advice: str = ""


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("data folder", f"{folder} is not writable", "set LARIMAR_DATA_DIR to a folder of yours")
    free = shutil.disk_usage(folder).free
    advice = "" if free > DISK_BYTES else "free some disk, or set LARIMAR_DATA_DIR to another: a full disk refuses writes"
    return Finding("data folder", f"{folder}, {free / 1e9:.1f} GB free", advice)


def _device(settings: Settings) -> Finding:
    from models.device import pick

    try:
        return Finding("device", str(pick(settings.device)))
    except ValueError as error:
        return Finding("device", str(error), "set LARIMAR_DEVICE=cpu, or see that the GPU's driver is there")


def _model(settings: Settings) -> Finding:
    from models.errors import ModelError
    from models.parts import Parts

    try:
        say = Console(stderr=True).print
        files = settings.adapter, settings.encoder_update, settings.judge
        decoder = Parts.find(settings.decoder, *files, settings.weights_dir, say).decoder
    except ModelError as error:
        return Finding("model", str(error), "`larimar models fetch` gets weights, `larimar train` makes an adapter")
    return Finding("model", f"{settings.decoder} {decoder.fingerprint[:12]}, with its adapter and encoder")


def _store(settings: Settings) -> Finding:
    from memory.cluster import close, ready, servers
    from memory.connection import connect
    from memory.embedded import EmbeddedValkey, running_url

    async def ask(url: str) -> tuple[float, str, float]:
        client = connect(url, timeout_s=settings.store_timeout_s)
        try:
            await ready(client)
            one, *others = servers(client)
            seconds, microseconds = await one.time()
            info = await one.info("server")
            started = time.perf_counter()
            for server in (one, *others):
                await server.ping()
            return time.time() - seconds - microseconds / 1e6, str(info.get("redis_version")), time.perf_counter() - started
        finally:
            await close(client)

    url, valkey = settings.store_address or running_url(settings.data_dir), None
    try:
        if not url:
            valkey = EmbeddedValkey(settings.data_dir)
            valkey.start()
            url = valkey.url
        drift_s, version, took_s = asyncio.run(ask(url))
    except Exception as error:  # whatever keeps the store from answering is what is to be told
        return Finding("store", f"{type(error).__name__}: {error}", _store_advice(settings, error))
    finally:
        if valkey is not None:
            valkey.close()
    kind = "embedded Valkey" if not settings.store_url else "store"
    advice = "" if abs(drift_s) < CLOCK_S else f"the clocks differ by {drift_s:+.1f} s: keys and facts expire by them; run NTP"
    return Finding("store", f"{kind} {version} answers in {1e3 * took_s:.1f} ms", advice)


def _store_advice(settings: Settings, error: Exception) -> str:
    if not settings.store_url:
        return "set LARIMAR_DATA_DIR to a folder of yours on a local disk, or LARIMAR_STORE_URL to a Redis"
    if isinstance(error, AuthenticationError):
        return "set LARIMAR_STORE_PASSWORD to the store's password"
    return "see that it runs and can be reached from here, and look at LARIMAR_STORE_URL"


LOOKS: tuple[Callable[[Settings], Finding], ...] = (_disk, _device, _model, _store)


def examine() -> list[Finding]:
    """Every finding; with bad settings only those."""
    settings, problems = read_settings(os.environ)
    if settings is None:
        return [Finding("settings", problem, "see docs/settings.md, or `larimar settings`") for problem in problems]
    return [Finding("settings", "usable"), *(look(settings) for look in LOOKS)]


def doctor() -> None:
    """Look at settings, disk, device, model and store, and say what to do."""
    table, findings = Table("", "what", "found", "what to do"), examine()
    for finding in findings:
        table.add_row("[red]✗[/red]" if finding.advice else "[green]✓[/green]", finding.what, finding.found, finding.advice)
    Console().print(table)
    if any(finding.advice for finding in findings):
        raise typer.Exit(1)
