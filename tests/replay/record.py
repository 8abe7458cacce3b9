"""Records requests and the answers of a toy server: `python -m tests.replay.record FILE`, before a change that must leave every answer
as it is; `tests/replay/test_replay.py` sends them again. Ids, times, timings and request ids are masked."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tests.app.hosting import hosted, make_key
from tests.replay.requests import Sent, administration, all_requests

ANSWERS = Path(__file__).with_name("answers.jsonl.gz")
LONG = 30_000  # characters of an answer; of a longer one the digest is kept
DIGEST = "sha256:"
HEADERS = ("content-type", "retry-after", "larimar-version", "allow", "www-authenticate")
_TIMES = "at|created|created_at|forgotten_at|erased_at|expires_at|next_expiry|expires|revoked_at|last_used|time|timestamp|store_bytes"
_MASKED = (
    (re.compile(rf'("(?:\w+_ms|{_TIMES})": ?)-?[0-9][0-9.e+-]*'), r"\1TIME"),
    (re.compile(r'("request_id": ?)"[^"]*"'), r'\1"REQUEST"'),
    (re.compile(r'("key": ?)"[\w-]+"'), r'\1"SECRET"'),
    (re.compile(r"\blk_[A-Za-z0-9_-]{8,}"), "SECRET"),
    (re.compile(r"\b(?:chat)?cmpl-\w+"), "COMPLETION"),
    (re.compile(r'"\d{13}-\d+"'), '"ENTRY"'),
    (re.compile(r'("id": ?)"[0-9a-f]{12}"'), r'\1"KEY_ID"'),
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b"), "ULID"),
    (re.compile(r"ping - [^\n]*"), "ping"),
)


def masked(text: str, names: dict[str, str]) -> str:
    """An answer without what differs from run to run."""
    for name, value in names.items():
        if name != "MODEL":
            text = text.replace(value, name)
    for pattern, put in _MASKED:
        text = pattern.sub(put, text)
    return text


def answer(client: TestClient, one: Sent, names: dict[str, str]) -> dict[str, Any]:
    """Status, headers and masked body of one answer; a key that it makes is put in `names`."""

    def filled(text: str) -> str:
        return re.sub("KEY_ID|KEY|MODEL", lambda found: names.get(found[0], found[0]), text)

    headers = {name: filled(value) for name, value in one.headers.items()}
    path, body = filled(one.path), filled(one.body) if one.path.startswith("/v1") else one.body
    got = client.request(one.method, path, content=body.encode() if body else None, headers=headers)
    if one.path == "/admin/keys" and got.status_code == 201:
        names |= {"KEY": got.json()["key"], "KEY_ID": got.json()["id"]}
    kept = {name: got.headers[name] for name in HEADERS if name in got.headers}
    text = masked(got.text, names)
    if len(text) > LONG:
        text = f"{DIGEST}{hashlib.sha256(text.encode()).hexdigest()}"
    return {"status": got.status_code, "headers": kept, "body": text}


def exchanged(folder: Path) -> list[dict[str, Any]]:
    """Every request and its answer, of a fresh server."""
    names = dict[str, str]()
    with hosted(folder) as client:
        names["MODEL"] = client.get("/v1/models").json()["data"][0]["id"]

        def sent(requests: Iterable[Sent]) -> list[dict[str, Any]]:
            return [{"request": f"{one.method} {one.path} {one.body[:300]}", **answer(client, one, names)} for one in requests]

        found = sent(all_requests())
        names["KEY"] = make_key(client, "acme", "read", "write", "admin")  # without one nobody administers
        return found + sent(administration())


def write(found: list[dict[str, Any]], file: Path) -> None:
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = exchanged(Path(folder))
    write(found, Path(sys.argv[1]) if len(sys.argv) > 1 else ANSWERS)
    print(len(found), "requests")
