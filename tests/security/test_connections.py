"""Attacks below HTTP's clients: smuggled requests, slow clients, oversized headers, on raw sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from tests.app.serving import serving

pytestmark = pytest.mark.service
SMUGGLED = b"DELETE /facts/kept HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with serving(body_timeout_s=0.5) as client:
        client.post("/facts", json={"prompt": "the capital of zor is", "target": "kal", "id": "kept"})
        yield client


def send(server: httpx.Client, data: bytes, wait_s: float = 3.0) -> bytes:
    """Everything that comes back until the server closes or is silent."""
    with closing(socket.create_connection((server.base_url.host, server.base_url.port or 0), 5)) as connection:
        connection.settimeout(wait_s)
        found = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                found += part
        except (TimeoutError, ConnectionError):
            pass
        return found


def body(headers: bytes, content: bytes) -> bytes:
    return b"POST /query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + headers + b"\r\n" + content


@pytest.mark.parametrize(
    "request_",
    [
        body(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        body(b"Transfer-Encoding: chunked\r\nContent-Length: 100\r\n", b"0\r\n\r\n" + SMUGGLED),
        body(b"Content-Length: 2\r\nContent-Length: 40\r\n", b"{}" + SMUGGLED),
        body(b"Content-Length: +2\r\n", b"{}" + SMUGGLED),
        body(b"Content-Length: -1\r\n", b"{}" + SMUGGLED),
        body(b"Content-Length: 0x2\r\n", b"{}" + SMUGGLED),
        body(b"Content-Length : 2\r\n", b"{}" + SMUGGLED),
        body(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        body(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + SMUGGLED),
        body(b"Transfer-Encoding: chunked\r\n", b"g\r\n" + SMUGGLED),
        body(b"Transfer-Encoding: chunked\r\n", b"-1\r\n" + SMUGGLED),
        body(b"X: a\x00b\r\n", b""),
        body(b"X: a\rDELETE /facts/kept HTTP/1.1\r\n", b""),
        b"GET /facts HTTP/1.1\r\n\r\n" + SMUGGLED,
        b"GET /facts\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SMUGGLED,
        b"GET /" + b"a" * 400_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /facts HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 400_000 + b"\r\n\r\n",
    ],
)
def test_no_request_is_smuggled(server: httpx.Client, request_: bytes) -> None:
    answer = send(server, request_, wait_s=1.0)
    assert answer.count(b"HTTP/1.1") <= 1 and b"forgotten_at" not in answer
    assert answer == b"" or answer.split()[1][:1] == b"4"
    assert server.get("/facts/kept").status_code == 200


def test_headers_that_do_not_come_close_the_connection(server: httpx.Client) -> None:
    started = time.monotonic()
    with closing(socket.create_connection((server.base_url.host, server.base_url.port or 0), 5)) as connection:
        connection.settimeout(5)
        connection.sendall(b"GET /facts HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError, EOFError)):
            while time.monotonic() - started < 5:  # a header line now and then
                time.sleep(0.2)
                connection.sendall(b"X-A: b\r\n")
        assert server.get("/health/live").status_code == 200


def test_a_silent_connection_is_closed(server: httpx.Client) -> None:
    assert send(server, b"", wait_s=5.0) == b""


def test_a_body_that_does_not_come_is_refused(server: httpx.Client) -> None:
    answer = send(server, body(b"Content-Length: 1000\r\n", b'{"prompt"'), wait_s=5.0)
    assert answer.startswith(b"HTTP/1.1 408") and b"body_too_slow" in answer


def test_a_connection_is_kept_between_requests(server: httpx.Client) -> None:
    with httpx.Client(base_url=server.base_url) as client:
        for _ in range(2):
            assert client.get("/facts").status_code == 200
            time.sleep(0.7)  # longer than headers may take once they begin
        opened = client._transport._pool.connections  # type: ignore[attr-defined]
        assert len(opened) == 1


def test_many_idle_connections_keep_no_one_out(server: httpx.Client) -> None:
    idle = [socket.create_connection((server.base_url.host, server.base_url.port or 0), 5) for _ in range(200)]
    try:
        assert server.get("/facts").status_code == 200
    finally:
        for connection in idle:
            connection.close()
