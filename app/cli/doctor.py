"""`larimar doctor`: looks at everything a server needs, and says what to do about what it lacks."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer
from redis.exceptions import AuthenticationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.listing import unwrapped
from app.server.settings import Settings, read_settings

DISK_BYTES = 1 << 30
CLOCK_S = 2.0
NO_KEY = "make one with `larimar keys create`, or set LARIMAR_API_KEYS, or LARIMAR_HOST=127.0.0.1: the server refuses to start"


@dataclass(frozen=True)
class Finding:
    """What one look found; `advice` is empty when all is well. Not `sure`: this could not be looked at without changing something."""

    what: str
    found: str
    advice: str = ""
    sure: bool = True


def _disk(settings: Settings) -> Finding:
    folder = there = settings.data_dir.absolute()
    while not there.exists():
        there = there.parent
    shown = f"{folder}" if there == folder else f"{folder}, to be made in {there}"
    if not os.access(there, os.W_OK):
        return Finding("data folder", f"{shown}: not writable", "set LARIMAR_DATA_DIR to a folder of yours")
    free = shutil.disk_usage(there).free
    advice = "" if free > DISK_BYTES else "free some disk, or set LARIMAR_DATA_DIR to another: a full disk refuses writes"
    return Finding("data folder", f"{shown}, {free / 1e9:.1f} GB free", advice)


def _device(settings: Settings) -> Finding:
    from models.device import pick

    try:
        return Finding("device", str(pick(settings.device)))
    except ValueError as error:
        return Finding("device", str(error), "set LARIMAR_DEVICE=cpu, or see that the GPU's driver is there")


def _model(settings: Settings) -> Finding:
    from app.server.model_loading import check_decoder
    from models.adapter import Adapter, shipped
    from models.errors import ModelError
    from models.model_files import Parts, fetched
    from models.weights import MANIFEST, REGISTRY

    name, folder = settings.decoder, settings.weights_dir
    reader = "" if settings.reader == "none" else settings.reader
    missing = [part for part in fetched(name, reader) if part in REGISTRY and not (folder / part / MANIFEST).is_file()]
    try:
        check_decoder(settings)
        Adapter.load(settings.adapter or shipped(name), name)
        if missing:
            return Finding("model", f"{' and '.join(missing)} not in {folder}", "`larimar models fetch` gets weights, as does a start")
        if name not in REGISTRY and not Path(name).is_dir():
            return Finding("model", f"{name} is a hub name, and the hub was not asked", "`larimar models fetch` asks it", sure=False)
        decoder = Parts.find(name, settings.adapter, settings.encoder_update, reader, folder, lambda _: None).decoder
    except ModelError as error:
        return Finding("model", str(error), "`larimar models fetch` gets weights, `larimar train` makes an adapter")
    return Finding("model", f"{name} {decoder.fingerprint[:12]}, with its adapter and encoder")


def _reader(settings: Settings) -> Finding:
    from models.errors import ModelError
    from models.model_files import is_calibrated

    if settings.reader == "none":
        return Finding("reader", "none: words and likeness decide what is asked for")
    try:
        if is_calibrated(settings.reader):
            return Finding("reader", f"{settings.reader}, calibrated")
    except (ModelError, ValueError) as error:
        return Finding("reader", str(error), "set LARIMAR_READER to mpnet-base, a folder with a cross-encoder, or none")
    return Finding("reader", f"{settings.reader}, not calibrated", "`larimar calibrate` says what its log-odds mean")


@dataclass(frozen=True)
class _Answer:
    """What a store said."""

    drift_s: float
    server: str
    took_s: float
    has_keys: bool


async def _ask(url: str, settings: Settings) -> _Answer:
    from app.access.api_keys import KeyRing
    from memory.store.cluster import close, ready, servers
    from memory.store.connection import connect

    client = connect(url, timeout_s=settings.store_timeout_s)
    try:
        await ready(client)
        one, *others = servers(client)
        seconds, microseconds = await one.time()
        drift_s = time.time() - seconds - microseconds / 1e6
        info = await one.info("server")
        kind = "valkey" if "valkey_version" in info else "redis"  # Valkey tells both, as Redis only what it is compatible with
        started = time.perf_counter()
        for server in (one, *others):
            await server.ping()
        took_s = time.perf_counter() - started
        return _Answer(drift_s, f"{kind.title()} {info.get(f'{kind}_version')}", took_s, await KeyRing(client).any())
    finally:
        await close(client)


def _store(settings: Settings) -> tuple[Finding, _Answer | None]:
    from memory.store.embedded.valkey import find_binary, running_url

    try:
        if not (url := settings.store_address or running_url(settings.data_dir)):
            find_binary()
            return Finding("store", "an embedded Valkey, not running now; the server starts it"), None
        answer = asyncio.run(_ask(url, settings))
    except Exception as error:  # whatever keeps the store from answering is what is to be told
        return Finding("store", f"{type(error).__name__}: {error}", _store_advice(settings, error)), None
    drift_s, name = answer.drift_s, f"{'' if settings.store_url else 'embedded '}{answer.server}"
    advice = "" if abs(drift_s) < CLOCK_S else f"the clocks differ by {drift_s:+.1f} s: keys and facts expire by them; run NTP"
    return Finding("store", f"{name} answers in {1e3 * answer.took_s:.1f} ms", advice), answer


def _keys(settings: Settings, answer: _Answer | None) -> Finding:
    from app.access.access import needs_key

    if settings.tenants_by_key or (answer and answer.has_keys):
        return Finding("keys", "there are some")
    if not needs_key(settings):
        names = "any name" if settings.insecure else ", ".join(["localhost", "an IP address", *sorted(settings.host_names)])
        return Finding("keys", f"none is needed; while there is none, whoever asks under {names} is the tenant `default`")
    if answer is None and (settings.store_url or (settings.data_dir / "valkey").exists()):
        found = "the server can be reached from outside; LARIMAR_API_KEYS is empty, and the store was not asked"
        return Finding("keys", found, "see `larimar keys list`: without a key the server refuses to start", sure=False)
    return Finding("keys", "the server can be reached from outside, and there is none", NO_KEY)


def _store_advice(settings: Settings, error: Exception) -> str:
    if not settings.store_url:
        return "set LARIMAR_DATA_DIR to a folder of yours on a local disk, or LARIMAR_STORE_URL to a Redis"
    if isinstance(error, AuthenticationError):
        return "set LARIMAR_STORE_PASSWORD to the store's password"
    return "see that it runs and can be reached from here, and look at LARIMAR_STORE_URL"


LOOKS: tuple[Callable[[Settings], Finding], ...] = (_disk, _device, _model, _reader)


def examine() -> list[Finding]:
    """Every finding; with bad settings only those."""
    settings, problems = read_settings(os.environ)
    if settings is None:
        return [Finding("settings", problem, "see docs/settings.md, or `larimar settings`") for problem in problems]
    store, answer = _store(settings)
    return [Finding("settings", "usable"), *(look(settings) for look in LOOKS), store, _keys(settings, answer)]


def doctor() -> None:
    """Look at settings, disk, device, model, reader, store and keys, and say what to do. Nothing is started, fetched or written."""
    table, findings = Table("", "what", "found", "what to do"), examine()
    for finding in findings:
        mark = "[green]✓[/green]" if not finding.advice else "[red]✗[/red]" if finding.sure else "[yellow]?[/yellow]"
        table.add_row(mark, finding.what, escape(finding.found), escape(finding.advice))
    unwrapped(Console()).print(table)
    if any(finding.advice and finding.sure for finding in findings):
        raise typer.Exit(1)
