"""The command line, against a real server and a real store."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from app.cli import cli
from app.client import Client
from app.fact_schemas import FactImport
from app.settings import PREFIX
from app.transfer import saved
from memory.recovery import Salvaged
from tests.app.holding import fact
from tests.app.hosting import hosted
from tests.app.serving import serving

pytestmark = pytest.mark.service
PROMPT = "the capital of zor is"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # the server shares our output
    with serving() as client:
        yield str(client.base_url)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def test_teach_ask_list_forget(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", url)
    taught = run("teach", PROMPT, "Kal")
    assert taught.exit_code == 0 and "taught" in taught.output
    fact_id = taught.output.split()[1]
    asked = run("ask", PROMPT, "--tokens", "5")
    assert asked.exit_code == 0 and f"by the facts {fact_id}" in asked.output
    assert json.loads(run("ask", PROMPT, "--json").stdout)["memory"]["used"]
    assert fact_id in run("facts", "list").output
    assert "forgotten" in run("forget", fact_id).output
    again = run("forget", fact_id)
    assert again.exit_code == 1 and "fact_not_found" in again.output


def test_export_is_what_import_reads(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", url)
    ids = [run("teach", f"the colour of ship {n} is", f"shade {n}").output.split()[1] for n in range(3)]
    file = tmp_path / "facts.jsonl"
    assert "3 facts exported" in run("facts", "export", str(file)).output
    for fact_id in ids:
        run("forget", fact_id)
    file.write_text(file.read_text() + "not json\n" + json.dumps({"prompt": " ", "target": "x"}) + "\n")
    done = run("facts", "import", str(file))
    assert done.exit_code == 1 and "3 facts taught, 2 lines refused" in done.output
    assert "line 4" in done.output and "line 5" in done.output
    for fact_id in ids:
        assert run("forget", fact_id).exit_code == 0


def test_a_fact_that_was_to_expire_still_does_after_export_and_import(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it left a server, and as it was saved of a damaged memory."""
    monkeypatch.setenv("LARIMAR_URL", url)
    with Client(url) as client:
        written = client.teach("the pin of ship 7 is", "1234", id="short", ttl_s=600)
        exported, repaired = tmp_path / "facts.jsonl", tmp_path / "saved.jsonl"
        assert run("facts", "export", str(exported)).exit_code == 0
        kept = replace(fact("short", "the pin of ship 7 is", "1234"), version=1, created_at=1.5, expires_at=written.expires_at)
        over = replace(kept, id="over", expires_at=1.0)
        repaired.write_text("\n".join(['{"format": "larimar-export/1"}', *saved(Salvaged([kept, over], 0, ""))]))
        assert FactImport.model_validate_json(next(iter(saved(Salvaged([kept], 0, ""))))).created_at == 1.5
        for file, says in ((exported, "1 facts taught, 0 lines refused"), (repaired, "1 facts taught, 1 lines refused")):
            client.forget("short")
            assert says in run("facts", "import", str(file)).output
            again = client.fact("short").expires_at
            assert again is not None and written.expires_at is not None and abs(again - written.expires_at) < 5
        client.forget("short")


def test_no_server_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", "http://127.0.0.1:1")
    done = run("ask", "x")
    assert done.exit_code == 1
    assert "no server answers at http://127.0.0.1:1" in done.output and "Traceback" not in done.output


def test_keys_are_made_in_the_store_the_server_will_use() -> None:
    made = run("keys", "create", "--tenant", "acme", "--scope", "read,write", "--name", "robot", "--expires", "90d")
    assert made.exit_code == 0, made.output
    secret, key_id = made.stdout.strip(), made.stderr.split()[1].rstrip(":")
    listed = run("keys", "list").output
    assert key_id in listed and "robot" in listed and "usable until" in listed and secret not in listed
    rotated = run("keys", "rotate", key_id, "--overlap", "1m")
    assert rotated.exit_code == 0 and rotated.stdout.strip().startswith("lk_")
    assert "is revoked" in run("keys", "revoke", key_id).output
    assert "revoked" in run("keys", "list").output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create", "--tenant", "a:b"), "tenant"),
        (("create", "--tenant", "a", "--scope", "root"), "wanted one or more of read, write, admin"),
        (("create", "--tenant", "a", "--expires", "soon"), "got the duration 'soon'"),
        (("create", "--tenant", "a", "--requests", "many"), "wanted such as 600/minute"),
        (("revoke", "nothing"), "there is no key 'nothing'"),
    ],
)
def test_bad_key_commands_say_what_is_wrong(words: tuple[str, ...], says: str) -> None:
    done = run("keys", *words)
    assert done.exit_code == 1 and says in done.output and "Traceback" not in done.output


def test_the_doctor_names_what_is_wrong_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}STORE_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv(f"{PREFIX}DEVICE", "cuda:99")
    monkeypatch.setenv(f"{PREFIX}ADAPTER", __file__)
    done = run("doctor")
    assert done.exit_code == 1
    assert "LARIMAR_STORE_URL" in done.output and "LARIMAR_DEVICE=cpu" in done.output and "larimar train" in done.output
    monkeypatch.setenv(f"{PREFIX}PORT", "http")
    assert "LARIMAR_PORT" in run("doctor").output


def test_the_audit_log_is_exported_without_a_server(tmp_path: Path) -> None:
    with hosted(tmp_path) as client:
        for number in range(3):
            body = {"prompt": f"the colour of ship {number} is", "target": "red", "id": f"ship-{number}"}
            assert client.post("/facts", json=body).status_code == 201
        client.delete("/facts/ship-1")
    file = tmp_path / "audit.jsonl"
    done = run("audit-log", "export", str(file))
    assert done.exit_code == 0, done.output
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(entry["action"], entry["fact"]) for entry in entries] == [
        ("wrote", "ship-0"),
        ("wrote", "ship-1"),
        ("wrote", "ship-2"),
        ("forgot", "ship-1"),
    ]
    assert "colour" not in file.read_text() and file.stat().st_mode & 0o077 == 0
    later = [json.loads(line) for line in run("audit-log", "export", "--after", entries[1]["id"]).stdout.splitlines()]
    assert later == entries[2:]
    assert run("audit-log", "export", "--tenant", "another").stdout == ""
    again = run("audit-log", "export", str(file))
    assert again.exit_code == 1 and "is there already" in again.output
    assert "wanted the id of an entry" in run("audit-log", "export", "--after", "yesterday").output


@pytest.mark.parametrize("words", [("models", "folder"), ("models", "fetch"), ("evaluate", "zsre", "--data", "x"), ("keys", "list")])
def test_bad_settings_end_any_command_with_the_list(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setenv(f"{PREFIX}PORT", "http")
    done = run(*words)
    assert done.exit_code == 1 and "LARIMAR_PORT: got 'http', wanted a whole number" in done.output
