"""Ports that nothing but their asker takes."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from app.bench import free_port as ports
from app.bench.free_port import LOWEST, OUTGOING, free_port


def test_ports_in_a_row_are_free_and_no_client_is_given_one() -> None:
    first = free_port(3)
    outgoing = int(OUTGOING.read_text().split()[0]) if OUTGOING.exists() else 1 << 15
    assert first >= LOWEST and first + 3 <= max(outgoing, LOWEST + 1_000)
    for number in range(first, first + 3):
        with socket.socket() as server:
            server.bind(("127.0.0.1", number))
            server.listen()


def test_ports_in_use_and_given_ones_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given, other = free_port(), free_port()
    ports._given.discard(other)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        drawn = iter((taken.getsockname()[1], given, other))
        monkeypatch.setattr("app.bench.free_port.random.SystemRandom", lambda: SimpleNamespace(randrange=lambda *_: next(drawn)))
        assert free_port() == other
