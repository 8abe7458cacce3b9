"""`larimar serve`."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from app.server import tracing
from app.server.logs import configure
from app.server.settings import PREFIX, Settings, read_settings

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from app.server.main import LoadModel


def fail(message: str) -> NoReturn:
    """One line for a person, and exit code 1."""
    print(f"larimar: {message}", file=sys.stderr)
    raise SystemExit(1)


def settings_or_exit() -> Settings:
    """Settings of the environment; a bad one ends the program with every problem listed."""
    settings, problems = read_settings(os.environ)
    if settings is None:
        fail("the settings are not usable\n" + "\n".join(f"  {problem}" for problem in problems))
    return settings


def address(host: str, port: int) -> str:
    """Where a server is, as a URL has it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int, setting: str = "LARIMAR_PORT") -> socket.socket:
    """Take the port before anything slow is done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on and every answer waits 40 ms for an acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        fail(f"port {port} on {host} is in use; set {setting}" if taken else f"cannot listen on {host}:{port}: {error}")
    return sock


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the app: patient with work, not with clients that send nothing."""
    import uvicorn

    from app.server.uvicorn_protocol import patient

    return uvicorn.Config(
        app,
        http=patient(settings.body_timeout_s),
        h11_max_incomplete_event_size=16_384,  # headers
        timeout_keep_alive=75,  # longer than proxies keep a connection, so that it is they who close it
        timeout_graceful_shutdown=30,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
    )


def serve(**given: str) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are finished.

    Args:
        given: settings by their names, in the place of the environment's; workers inherit them.
    """
    os.environ.update({f"{PREFIX}{name.upper()}": value for name, value in given.items()})
    settings = settings_or_exit()
    configure(settings.log_level)
    shared = bind(settings.host, settings.port)
    sockets = [[shared] for _ in range(settings.workers)]
    if settings.admin_port is not None:
        for number, own in enumerate(sockets):
            own.append(bind(settings.admin_host, settings.admin_port + number, "LARIMAR_ADMIN_PORT"))
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        probe = settings.data_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        fail(f"the data folder {settings.data_dir} is not writable ({error.strerror}); set LARIMAR_DATA_DIR")
    host, port = shared.getsockname()[:2]
    print(f"larimar: starting on {address(host, port)}", file=sys.stderr, flush=True)
    if settings.workers > 1:
        from app.cli.workers import supervise

        raise SystemExit(supervise(settings, sockets))
    run(settings, sockets[0])


def run(settings: Settings, sockets: Sequence[socket.socket], load: LoadModel | None = None) -> None:
    """Serve on these sockets, in this process."""
    try:
        tracing.configure(os.environ)
    except ValueError as error:
        fail(str(error))

    from app.server.draining import DrainingServer
    from app.server.main import create_app, load_model
    from memory.errors import MemoryError_, StoreUnavailable
    from models.errors import ModelError

    app = create_app(settings, load=load or load_model)
    config = uvicorn_config(app, settings)
    server = DrainingServer(config)
    logging.getLogger("uvicorn.error").addFilter(lambda _: app.state.failure is None)  # told below, without a traceback
    try:
        server.run(sockets=list(sockets))
    except SystemExit:  # of uvicorn, when the app cannot start
        if app.state.failure is None:
            raise
    failure = app.state.failure
    if isinstance(failure, StoreUnavailable) and settings.store_url:
        fail(f"the store does not answer ({failure}); look at LARIMAR_STORE_URL and LARIMAR_STORE_PASSWORD, or run `larimar doctor`")
    if isinstance(failure, (MemoryError_, ModelError, ValueError)):
        fail(str(failure))
    if failure is not None:
        raise failure
