"""Several server processes behind one address: what `larimar serve` does where LARIMAR_WORKERS is above 1.

Each process is a whole server with its own device and its own copy of the model. They take connections from one socket and
share nothing but the store, as replicas on different machines do. Run as a script this is one of them:

    python -m app.cli.workers NUMBER FD[,FD]
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.serve import fail, run, settings_or_exit
from app.server.logs import configure
from app.server.settings import Settings
from memory.store.embedded.process import Child

if TYPE_CHECKING:
    from app.server.main import LoadModel

LOOK_S = 0.2
DRAIN_S = 40.0  # longer than a server takes to finish what is in flight


def supervise(settings: Settings, sockets: Sequence[Sequence[socket.socket]], module: str = "app.cli.workers") -> int:
    """Keep a process for each row of sockets until SIGTERM or SIGINT; one that was killed is started again.

    Args:
        sockets: those of each worker: the one they share, and its own for administration.
        module: what a worker runs.

    Returns:
        Exit status: 0, or that of a worker that ended by itself, as one does that cannot start.
    """
    ending = threading.Event()
    for ends in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ends, lambda *_: ending.set())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // settings.workers)))

    def start(number: int) -> Child:
        fds = [sock.fileno() for sock in sockets[number]]
        command = [sys.executable, "-m", module, str(number), ",".join(map(str, fds))]
        return Child(command, cwd=Path.cwd(), output=sys.stderr.buffer, pass_fds=fds)

    workers, status = [start(number) for number in range(settings.workers)], 0
    while not status and not ending.wait(LOOK_S):
        for number, worker in enumerate(workers):
            code = None if worker.alive else worker.returncode
            if code is not None and code >= 0:
                status = code or 1
            elif code is not None:
                print(f"larimar: worker {number} was ended by signal {-code} and is started again", file=sys.stderr, flush=True)
                workers[number] = start(number)
    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(lambda worker: worker.stop(DRAIN_S), workers))
    return status


def work(number: int, fds: Sequence[int], load: LoadModel | None = None) -> None:
    """Serve as worker `number` on sockets that the supervisor opened."""
    settings = settings_or_exit()
    configure(settings.log_level)
    own = {"device": _device(settings, number), "workers": 1}
    if settings.admin_port is not None:
        own["admin_port"] = settings.admin_port + number
    run(settings.model_copy(update=own), [socket.socket(fileno=fd) for fd in fds], load)


def _device(settings: Settings, number: int) -> str:
    import torch

    devices = torch.cuda.device_count() if settings.device in ("auto", "cuda") else 0
    if settings.device == "cpu" or (settings.device == "auto" and not devices):
        return "cpu"
    if devices < settings.workers:
        fail(
            f"LARIMAR_WORKERS={settings.workers} wants as many GPUs, torch sees {devices}: "
            "one process owns one device; lower LARIMAR_WORKERS, or set LARIMAR_DEVICE=cpu"
        )
    return f"cuda:{number}"


if __name__ == "__main__":
    work(int(sys.argv[1]), [int(fd) for fd in sys.argv[2].split(",")])
