"""Free ports of the loopback, for servers that this project starts itself."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, HIGHEST = 10_000, 32_768
_given: set[int] = set()


def free_port(count: int = 1) -> int:
    """The first of `count` free ports in a row, none of which this process was given before.

    They lie below the ports that the system gives to outgoing connections (unless those begin at less than 11,000): one of those may be
    taken, by any client on the machine, between the asking and the server's own bind.
    """
    highest = min(HIGHEST, int(OUTGOING.read_text().split()[0])) if OUTGOING.exists() else HIGHEST
    choice = random.SystemRandom()  # never the seed that a test has set: it would give the same ports again
    while True:
        first = choice.randrange(LOWEST, max(highest, LOWEST + 1_000) - count)
        wanted = range(first, first + count)
        if not _given.isdisjoint(wanted):
            continue
        try:
            with ExitStack() as probes:
                for number in wanted:
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", number))
        except OSError:
            continue
        _given.update(wanted)
        return first
