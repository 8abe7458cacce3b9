"""Files as people have them, sent to POST /facts:bulk and read by `larimar facts import`."""

from __future__ import annotations

import gzip
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from typer.testing import CliRunner

from app.cli import cli
from app.http.middleware import LARGE
from tests.app.hosting import hosted
from tests.app.serving import serving

pytestmark = pytest.mark.service
KINDS = ["x-ndjson", "ndjson", "jsonl", "x-jsonlines", "json-lines", "json"]
LIMIT = 32_768
BOM = b"\xef\xbb\xbf"
TWO = [{"prompt": "the capital of zor is", "target": "Kal"}, {"prompt": "the river of zor is", "target": "Blå"}]
LINES = "\n".join(json.dumps(fact, ensure_ascii=False) for fact in TWO).encode()
HEAD = {"format": "larimar-export/1", "tenant": "a", "version": 9, "fingerprint": "x", "facts": 2}
OLD = {"id": "a", "created_at": 5.0, "version": 3, "metadata": {"n": 1}, "key": "AA==", "code": "AA==", "statement": "AA=="}
EXPORT = "\n".join(map(json.dumps, [HEAD, TWO[0] | OLD, TWO[1] | OLD | {"id": "b"}])).encode()
FILES = {
    "lines": LINES,
    "a mark of order": BOM + LINES,
    "a mark and a blank line": BOM + b"\n" + LINES,
    "lines of Windows": LINES.replace(b"\n", b"\r\n") + b"\r\n",
    "an array": json.dumps(TWO).encode(),
    "an array with a mark": BOM + json.dumps(TWO).encode(),
    "an array on many lines": json.dumps(TWO, indent=4).encode(),
    "an array after blanks": b" \r\n\t\n" + json.dumps(TWO, indent=1).encode() + b"\n\n",
    "an array in ASCII": json.dumps(TWO, ensure_ascii=True).encode(),
    "an export": EXPORT,
    "an export with a mark": BOM + EXPORT,
    "an export as an array": json.dumps([json.loads(line) for line in EXPORT.splitlines()]).encode(),
    "one fact of a list": b"\n".join(json.dumps(fact | {"ttl_s": 60, "on_conflict": "version"}).encode() for fact in TWO),
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # the server shares our output
    with serving(max_body_bytes=LIMIT) as client:
        yield client
    structlog.reset_defaults()


def bulk(client: httpx.Client, body: bytes, size: int = 10**6, **headers: str) -> list[dict[str, Any]]:
    kind = {"content-type": "application/x-ndjson"} | {name.replace("_", "-"): value for name, value in headers.items()}
    answer = client.post("/facts:bulk", content=(body[at : at + size] for at in range(0, len(body), size)), headers=kind)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def told(results: list[dict[str, Any]]) -> list[str]:
    return [result["error"]["code"] if "error" in result else "taught" for result in results]


def held(client: httpx.Client) -> list[tuple[str, str]]:
    return sorted((fact["prompt"], fact["target"]) for fact in client.get("/facts").json()["facts"])


WANTED = sorted((fact["prompt"], fact["target"]) for fact in TWO)


@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_bulk_takes_files(client: httpx.Client, name: str, packed: bool, size: int) -> None:
    body = gzip.compress(FILES[name]) if packed else FILES[name]
    results = bulk(client, body, size, **({"content_encoding": "gzip"} if packed else {}))
    assert told(results) == ["taught", "taught"] and held(client) == WANTED
    client.delete("/tenants/default").raise_for_status()


@pytest.mark.parametrize("kind", KINDS)
def test_bulk_takes_types(client: httpx.Client, kind: str) -> None:
    assert told(bulk(client, LINES, content_type=f"application/{kind}; charset=utf-8")) == ["taught", "taught"]
    client.delete("/tenants/default").raise_for_status()


@pytest.mark.parametrize("name", FILES)
def test_import_takes_files(client: httpx.Client, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", str(client.base_url))
    (file := tmp_path / "facts").write_bytes(FILES[name])
    for words, given in (([str(file)], b""), (["-"], FILES[name])):
        done = CliRunner().invoke(cli, ["facts", "import", *words], input=given)
        assert done.exit_code == 0 and "2 facts taught, 0 lines refused" in done.output, done.output
        assert held(client) == WANTED
        client.delete("/tenants/default").raise_for_status()


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (b"[", ["malformed_json"]),
        (b"[1, {}]", ["invalid_request", "invalid_request"]),
        (b"[]", []),
        (b"", []),
        (BOM, []),
        (b"\xef\xbb", ["malformed_json"]),
        (LINES + b"\n" + BOM + LINES, ["taught", "taught", "malformed_json", "taught"]),
        (b"[" + LINES.replace(b"\n", b",") + b', {"prompt": "x"}]', ["taught", "taught", "invalid_request"]),
        (b"[" * 30_000, ["malformed_json"]),
        (b"[" + b" " * 300_000 + b"]", ["body_too_large"]),
        (json.dumps(TWO[0] | {"expires_at": 5.0}).encode(), ["invalid_request"]),
        (json.dumps(TWO[0] | {"colour": 5.0}).encode(), ["invalid_request"]),
        (json.dumps(HEAD | {"colour": 5.0}).encode(), ["invalid_request"]),
    ],
)
def test_what_is_no_such_file_is_told(client: httpx.Client, body: bytes, codes: list[str]) -> None:
    for packed in (False, True):
        results = bulk(client, gzip.compress(body) if packed else body, **({"content_encoding": "gzip"} if packed else {}))
        assert told(results) == codes
        client.delete("/tenants/default").raise_for_status()


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (LINES, ["malformed_json"]),
        (gzip.compress(LINES)[:-9], ["taught", "malformed_json"]),
        (gzip.compress(LINES + b"\n") + gzip.compress(LINES), ["taught"] * 4),
        (gzip.compress(LINES + b"\n") + b"\0" * 64, ["taught"] * 2),
        (gzip.compress(LINES + b"\n") + b"garbage", ["taught", "taught", "malformed_json"]),
        (gzip.compress(b'{"prompt": "' + b"x" * 10**6 + b'"}\n' + LINES), ["body_too_large", "taught", "taught"]),
        (gzip.compress(LINES + b"\n" * (LARGE * LIMIT)), ["taught", "body_too_large"]),
    ],
)
def test_a_packed_body_has_its_limits_unpacked(client: httpx.Client, body: bytes, codes: list[str]) -> None:
    assert told(bulk(client, body, content_encoding="gzip"))[-len(codes) :] == codes
    client.delete("/tenants/default").raise_for_status()


@pytest.mark.parametrize(
    ("path", "coding"), [("/facts:bulk", "br"), ("/facts:bulk", "gzip, gzip"), ("/facts", "gzip"), ("/query", "deflate")]
)
def test_other_codings_are_refused(client: httpx.Client, path: str, coding: str) -> None:
    answer = client.post(path, content=b"x", headers={"content-type": "application/json", "content-encoding": coding})
    assert answer.status_code == 415 and coding.split(",")[0] in answer.json()["detail"]


def test_what_export_gives_is_taken_with_codes_a_thousand_at_once(tmp_path: Path) -> None:
    with hosted(tmp_path / "a") as one, hosted(tmp_path / "b") as other, hosted(tmp_path / "c") as third:
        facts = [{"prompt": f"the capital of zor number {n} is", "target": f"Kal {n}", "id": f"f{n}"} for n in range(1000)]
        for at in range(0, 1000, 500):
            assert one.post("/facts", json=facts[at : at + 500] + []).status_code == 201
        one.post("/facts", json={"prompt": "the code is", "target": "7", "id": "code", "ttl_s": 600}).raise_for_status()
        for codes in ("true", "false"):
            exported = one.get("/tenants/default/export", params={"codes": codes}).content
            head, *lines = map(json.loads, exported.splitlines())
            answer = other.post("/tenants/default/import", json={"fingerprint": head["fingerprint"], "facts": lines[:1000]})
            assert answer.status_code == 200 and answer.json()["imported"] == 1000, answer.text[:300]
            other.delete("/tenants/default").raise_for_status()
        results = bulk(third, exported)
        assert told(results) == ["taught"] * 1001 and held(third)[:10] == held(one)[:10]
        assert abs(third.get("/facts/code").json()["expires_at"] - time.time() - 600) < 100
