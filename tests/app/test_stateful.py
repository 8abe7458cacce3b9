"""Random requests of every kind against an account kept by a dict; what is refused leaves every byte as it was.

pytest tests/app/test_stateful.py                                              the short run, in this process
TEST_STEPS=2000 TEST_SERVER=process pytest -s tests/app/test_stateful.py      the recorded one, on the real program
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.app.account import Account, Entry, Refused
from tests.app.standing import Standing

pytestmark = pytest.mark.service
STEPS = int(os.environ.get("TEST_STEPS", "150"))
OWN_PROCESS = os.environ.get("TEST_SERVER") == "process"
PER_RUN = 50
MAX_FACTS, RESTARTS = 6, 2
TENANTS = ("one", "two")
LIMITS = {
    "api_keys": ",".join(f"key-of-{name}:{name}" for name in (*TENANTS, "crowd")),
    "memory_budget_mb": 1,
    "read_wait_s": 0.02,
    "snapshot_every": 1_000_000,  # a snapshot is taken at each orderly end, and not beside a comparison of bytes
    "snapshot_s": 86_400.0,
}

tenants = st.sampled_from(TENANTS)
rarely = st.sampled_from([False, False, False, False, True])
# Prompts in several spellings, with the form under which the server must take them for the same. The toy encoder knows the words.
PLACES = "paris rome berlin acme rockets zor kal river".split()
SPELLINGS = (str, lambda text: f"{text[0].lower()}{text[1:]}?", lambda text: text.replace(" ", "  "))
prompts = st.sampled_from(
    [(say(f"The capital of {n} is"), n) for n in PLACES for say in SPELLINGS]
    + [(f"The capital of {n} is", n) for n in ("Rome", "ROME", "Zor")]
    + [("The river is café", "café"), ("the river  is cafe\u0301:", "café"), ("The river is cafe", "cafe")]
)
targets = st.sampled_from(["red", "green, or nearly", "Ünïcode ☂", "x" * 20, " blue "])
metadata = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([1, "x", True, None, 0.5]), max_size=2)
ids = st.sampled_from(["i0", "i1", "A:b.c-d_e", "i3", "i0 ".strip().upper()])
keys = st.sampled_from(["k1", "k2", "K1"])
facts = st.fixed_dictionaries(
    {"prompt_form": prompts, "target": targets},
    optional={
        "id": ids,
        "metadata": metadata,
        "ttl_s": st.just(3600.0),
        "on_conflict": st.sampled_from(["supersede", "error", "version"]),
    },
)


def bad_requests() -> list[tuple[str, str, Any, dict[str, str], int, str]]:
    """Method, path, body, headers, and the documented status and code."""
    fact = {"prompt": "The door is", "target": "shut"}
    bodies: list[tuple[Any, int, str]] = [
        (fact | {"prompt": " \n"}, 422, "empty_text"),
        (fact | {"target": " "}, 422, "empty_text"),
        (fact | {"target": "y " * 900}, 422, "target_too_long"),
        (fact | {"prompt": "z " * 1900}, 422, "prompt_too_long"),
        (fact | {"prompt": "z" * 4001}, 422, "invalid_request"),
        (fact | {"id": "no spaces"}, 422, "invalid_request"),
        (fact | {"id": ""}, 422, "invalid_request"),
        (fact | {"ttl_s": 0}, 422, "invalid_request"),
        (fact | {"ttl_s": -1}, 422, "invalid_request"),
        (fact | {"metadata": {"a": [1]}}, 422, "invalid_request"),
        (fact | {"metadata": {str(n): n for n in range(33)}}, 422, "invalid_request"),
        (fact | {"on_conflict": "replace"}, 422, "invalid_request"),
        (fact | {"surprise": 1}, 422, "invalid_request"),
        ({"prompt": "no target"}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
        (b"{", 400, "malformed_json"),
        (b"\xff", 400, "malformed_json"),
    ]
    asked = [("POST", "/facts", body, {}, status, code) for body, status, code in bodies]
    return [
        *asked,
        ("POST", "/facts", [fact], {"Idempotency-Key": "k9"}, 422, "invalid_request"),
        ("POST", "/facts", fact, {"Idempotency-Key": "k" * 201}, 422, "invalid_request"),
        ("POST", "/facts", fact, {"Larimar-Version": "newest"}, 422, "invalid_request"),
        ("POST", "/facts", fact, {"X-API-Key": "key-of-nobody"}, 401, "unauthorized"),
        ("POST", "/facts", b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/facts", fact | {"metadata": {"a": "m" * 300_000}}, {}, 413, "body_too_large"),
        ("PATCH", "/facts/nobody", {"target": "x"}, {}, 404, "fact_not_found"),
        ("PATCH", "/facts/nobody", {"prompt": "x"}, {}, 422, "invalid_request"),
        ("DELETE", "/facts/nobody", None, {}, 404, "fact_not_found"),
        ("DELETE", "/tenants/three", None, {}, 404, "tenant_not_found"),
        ("POST", "/tenants/three/import", {"facts": [fact | {"id": "t"}]}, {}, 404, "tenant_not_found"),
        ("POST", "/query", {"prompt": "The door is", "exclude": ["nobody"]}, {}, 404, "fact_not_found"),
        ("GET", "/facts?metadata=even", None, {}, 422, "invalid_request"),
        ("PUT", "/facts", fact, {}, 405, "method_not_allowed"),
    ]


def meant(body: dict[str, Any]) -> str:
    """A fact's request as the server reads it: what is left out is as if its default were said, and 1 is not true."""
    return json.dumps({"metadata": {}, "on_conflict": "supersede"} | body, sort_keys=True)


BAD = bad_requests()
LISTED = "/facts?history=true&limit=1000"


class Conversation(RuleBasedStateMachine):
    """Two tenants of one server. Each run begins with both erased; the server stands over all runs."""

    server: ClassVar[Standing]
    told: ClassVar[Counter[str]]
    erased_at: ClassVar[dict[str, int]]  # the tenants' versions after the run before

    def __init__(self) -> None:
        super().__init__()
        self.accounts = {name: Account(MAX_FACTS, version=self.erased_at[name]) for name in TENANTS}
        self.restarts = 0
        for name in TENANTS:
            self.erase(name)

    def teardown(self) -> None:
        self.erased_at.update({name: account.version for name, account in self.accounts.items()})

    def ask(self, tenant: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        said = {"X-API-Key": f"key-of-{tenant}", "Content-Type": "application/json"} | (headers or {})
        answer = self.server.client.request(method, path, content=content, headers=said)
        self.told[f"{method} {path.partition('?')[0].split('/')[1]} {answer.status_code}"] += 1
        return answer

    def refused(self, wanted: Refused, do: Callable[[], httpx.Response]) -> None:
        """The documented error, and every byte as it was: of the store, and of what both tenants are told."""
        before = self.state()
        answer = do()
        assert (answer.status_code, answer.json()["code"]) == (wanted.status, wanted.code), answer.text
        assert answer.json()["detail"]
        assert self.state() == before
        self.told[f"refused {wanted.code}"] += 1

    def state(self) -> tuple[dict[bytes, bytes], list[str]]:
        told = [self.ask(name, "GET", path).text for name in TENANTS for path in (f"/tenants/{name}/export?codes=true", LISTED)]
        return self.server.stored(), told

    @initialize(blocks=st.lists(st.lists(facts, min_size=3, max_size=5), min_size=2, max_size=2))
    def begin(self, blocks: list[list[dict[str, Any]]]) -> None:
        for name, block in zip(TENANTS, blocks, strict=True):
            self.teach_several(name, block)

    @rule(tenant=tenants, some=st.lists(st.tuples(facts, st.none() | keys), min_size=1, max_size=3))
    def teach(self, tenant: str, some: list[tuple[dict[str, Any], str | None]]) -> None:
        for fact, key in some:
            self.teach_one(tenant, fact, key)

    def teach_one(self, tenant: str, fact: dict[str, Any], key: str | None) -> None:
        account, (prompt, form) = self.accounts[tenant], fact["prompt_form"]
        body = {name: value for name, value in fact.items() if name != "prompt_form"} | {"prompt": prompt}
        headers = {} if key is None else {"Idempotency-Key": key}
        key = key or ""

        def ask() -> httpx.Response:
            return self.ask(tenant, "POST", "/facts", body, headers)

        if key in account.spent:
            self.refused(Refused(409, "idempotency_key_spent"), ask)
            return
        if key in account.answers:
            known, answered = account.answers[key]
            if known != meant(body):
                self.refused(Refused(422, "idempotency_key_reused"), ask)
            else:
                before = self.state()
                assert ask().json() | {"timings": 0} == answered | {"timings": 0} and self.state() == before
            return
        on_conflict = body.get("on_conflict", "supersede")
        if (wanted := account.refusal(body.get("id"), form, on_conflict)) is not None:
            self.refused(wanted, ask)
            return
        answer = ask()
        assert answer.status_code == 201, answer.text
        told = answer.json()
        assert ("ttl_s" in body) == (told["expires_at"] is not None) and told["id"] == body.get("id", told["id"])
        entry = Entry(told["id"], prompt, form, body["target"], body.get("metadata", {}), 0, "ttl_s" in body, key=key)
        assert told["supersedes"] == account.write(entry, on_conflict)
        assert told["version"] == account.version == int(answer.headers["Larimar-Version"])
        if key:
            account.answers[key] = (meant(body), told)

    @rule(tenant=tenants, block=st.lists(facts, min_size=1, max_size=5))
    def teach_several(self, tenant: str, block: list[dict[str, Any]]) -> None:
        account = self.accounts[tenant]
        bodies = [{k: v for k, v in f.items() if k != "prompt_form"} | {"prompt": f["prompt_form"][0]} for f in block]
        answer = self.ask(tenant, "POST", "/facts", bodies)
        lines, refusals = answer.json(), 0
        for fact, body, line in zip(block, bodies, lines, strict=True):
            form, on_conflict = fact["prompt_form"][1], body.get("on_conflict", "supersede")
            if (wanted := account.refusal(body.get("id"), form, on_conflict)) is not None:
                assert (line["error"]["status"], line["error"]["code"]) == (wanted.status, wanted.code)
                refusals += 1
                continue
            assert line["error"] is None and line["id"] == body.get("id", line["id"]), line
            entry = Entry(line["id"], body["prompt"], form, body["target"], body.get("metadata", {}), 0, "ttl_s" in body)
            assert line["supersedes"] == account.write(entry, on_conflict)
            assert line["version"] == account.version
        assert answer.status_code == (207 if refusals else 201)

    @rule(tenant=tenants, number=st.integers(0, 30), changed=st.fixed_dictionaries({}, optional={"target": targets, "metadata": metadata}))
    def patch(self, tenant: str, number: int, changed: dict[str, Any]) -> None:
        account = self.accounts[tenant]
        fact_id = [*account.entries, "i9"][number % (len(account.entries) + 1)]
        entry = account.entries.get(fact_id)
        if entry is None or entry.until:
            self.refused(Refused(404, "fact_not_found"), lambda: self.ask(tenant, "PATCH", f"/facts/{fact_id}", changed))
            return
        answer = self.ask(tenant, "PATCH", f"/facts/{fact_id}", changed)
        account.revise(fact_id, **changed)
        assert (answer.status_code, answer.json()["version"]) == (200, account.version), answer.text

    @rule(tenant=tenants, number=st.integers(0, 30))
    def forget(self, tenant: str, number: int) -> None:
        """One of the tenant's facts, or of the other's, which is as if there were none."""
        account = self.accounts[tenant]
        known = [fact_id for name in (tenant, TENANTS[tenant == "one"]) for fact_id in self.accounts[name].entries]
        fact_id = [*known, "i9"][number % (len(known) + 1)]
        if fact_id not in account.entries:
            self.refused(Refused(404, "fact_not_found"), lambda: self.ask(tenant, "DELETE", f"/facts/{fact_id}"))
            return
        receipt = self.ask(tenant, "DELETE", f"/facts/{fact_id}").json()
        account.forget(fact_id)
        assert receipt["version"] == account.version and receipt["residual"] < 1e-8

    @rule(tenant=tenants, prompt=prompts, restart=st.booleans())
    def expire(self, tenant: str, prompt: tuple[str, str], restart: bool) -> None:
        """A fact that lives a moment, here or over the end of the server, is gone and takes what it superseded along."""
        account, (text, form) = self.accounts[tenant], prompt
        if account.refusal(None, form, "supersede") is not None:
            return
        told = self.ask(tenant, "POST", "/facts", {"prompt": text, "target": "brief", "ttl_s": 0.15}).json()
        account.write(Entry(told["id"], text, form, "brief", {}, 0, True), "supersede")
        if restart and self.restarts < RESTARTS:
            self.restart(kill=True)
        deadline = time.monotonic() + 20
        while told["id"] in {fact["id"] for fact in self.listed(tenant, LISTED)} or self.server.due(time.time()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        account.forget(told["id"])

    @rule(tenant=tenants, numbers=st.lists(st.integers(0, len(BAD) - 1), min_size=2, max_size=5))
    def ask_badly(self, tenant: str, numbers: list[int]) -> None:
        for method, path, body, headers, status, code in map(BAD.__getitem__, numbers):
            self.refused(Refused(status, code), partial(self.ask, tenant, method, path, body, headers))

    @rule(tenant=tenants)
    def ask_for_the_future(self, tenant: str) -> None:
        version = self.accounts[tenant].version
        assert self.ask(tenant, "GET", "/facts", headers={"Larimar-Version": str(version)}).status_code == 200
        late = {"Larimar-Version": str(version + 1)}
        self.refused(Refused(503, "version_not_reached"), lambda: self.ask(tenant, "GET", "/facts", headers=late))

    @rule(source=tenants, into=tenants, codes=st.booleans(), empty=rarely)
    def move(self, source: str, into: str, codes: bool, empty: bool) -> None:
        """An export, taken over by the same tenant or the other one, erased before or not."""
        export = self.ask(source, "GET", f"/tenants/{source}/export?codes={str(codes).lower()}").text
        head, *lines = map(json.loads, export.splitlines())
        entries = sorted(self.accounts[source].current(), key=lambda entry: entry.version)
        assert (head["version"], [line["id"] for line in lines]) == (self.accounts[source].version, [e.id for e in entries])
        if empty:
            self.erase(into)
        if not lines:
            return
        answer = self.ask(into, "POST", f"/tenants/{into}/import", {"fingerprint": head["fingerprint"], "facts": lines})
        account = self.accounts[into]
        for entry, outcome in zip(entries, answer.json()["outcomes"], strict=True):
            if (wanted := account.refusal(entry.id, entry.form, "supersede")) is not None:
                assert outcome["error"].startswith(wanted.code)
                continue
            assert outcome["error"] is None, outcome
            account.write(Entry(entry.id, entry.prompt, entry.form, entry.target, entry.metadata, 0, entry.expires), "supersede")
            assert outcome["version"] == account.version

    @rule(tenant=tenants, sure=rarely)
    def erase(self, tenant: str, sure: bool = True) -> None:
        if not sure:
            return
        account = self.accounts[tenant]
        account.erase()
        answer = self.ask(tenant, "DELETE", f"/tenants/{tenant}").json()
        assert answer["version"] == account.version, answer

    @rule()
    def evict(self) -> None:
        """A memory as large as the budget comes, and the others go; whoever asks for them next gets them from the store."""
        assert self.ask("crowd", "GET", "/facts?limit=1").status_code == 200
        assert "\nlarimar_loaded_tenants 1.0\n" in self.ask("crowd", "GET", "/metrics").text

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        self.restarts += 1
        self.server.end(signal.SIGKILL if kill else signal.SIGTERM)
        self.server.start()
        self.told["restart"] += 1

    @rule(tenant=tenants, back=st.integers(0, 12), prompt=prompts)
    def look_back(self, tenant: str, back: int, prompt: tuple[str, str]) -> None:
        """The facts there were at any version, and no reading names another."""
        account = self.accounts[tenant]
        version = max(0, account.version - back)
        wanted = {entry.id for entry in account.as_of(version)}
        assert {fact["id"] for fact in self.listed(tenant, f"/facts?as_of={version}")} == wanted
        read = self.ask(tenant, "POST", "/query", {"prompt": prompt[0], "as_of": version}).json()
        assert {fact["id"] for fact in read["facts"]} <= wanted and bool(read["facts"]) == bool(wanted)

    @invariant()
    def holds(self) -> None:
        self.told["steps"] += 1
        for name, account in self.accounts.items():
            answer = self.ask(name, "GET", LISTED)
            assert int(answer.headers["Larimar-Version"]) == account.version
            told = [
                (f["id"], f["prompt"], f["target"], f["metadata"], f["version"], f["expires_at"] is not None, f["superseded_at"] or 0)
                for f in answer.json()["facts"]
            ]
            wanted = [(e.id, e.prompt, e.target, e.metadata, e.version, e.expires, e.until) for e in account.entries.values()]
            assert told == sorted(wanted)

    def listed(self, tenant: str, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(tenant, "GET", path).json()["facts"]
        return found


@pytest.fixture
def server() -> Iterator[Standing]:
    """With a third tenant of its own whose memory alone fills the budget."""
    with tempfile.TemporaryDirectory(prefix="larimar-") as folder:
        server = Standing(Path(folder), own_process=OWN_PROCESS, **LIMITS)
        server.start()
        try:
            for start in range(0, 600, 100):
                crowd = [{"prompt": f"Seat {n} is for", "target": f"guest {n}"} for n in range(start, start + 100)]
                answer = server.client.post("/facts", json=crowd, headers={"X-API-Key": "key-of-crowd"})
                assert answer.status_code == 201, answer.text
            server.end()
            server.start(tenant_max_facts=MAX_FACTS)
            yield server
        finally:
            server.end()


def test_the_server_keeps_its_account(server: Standing) -> None:
    Conversation.server, Conversation.told, Conversation.erased_at = server, Counter(), dict.fromkeys(TENANTS, 0)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis'
        Conversation,
        settings=settings(
            max_examples=-(-STEPS // PER_RUN),
            stateful_step_count=PER_RUN,
            deadline=None,
            database=None,
            derandomize=STEPS < 1000,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(json.dumps(dict(sorted(Conversation.told.items())), indent=1))
    assert Conversation.told["steps"] >= STEPS
