"""What users expect of a fact store, asked of a real server over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.server.settings import Settings
from memory.store.byte_search import Needle, files_with
from tests.app.server.test_main import Server

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("facts")
    (folder / "models").symlink_to(Settings().data_dir / "models")
    keys = ",".join(f"key-of-{name}:{name}" for name in ("one", "two", "small", "moved"))
    server = Server(folder, LARIMAR_API_KEYS=keys, LARIMAR_READ_WAIT_S="0.3", LARIMAR_TENANT_MAX_FACTS="60")
    yield server
    server.end()


@pytest.fixture
def one(server: Server) -> Iterator[httpx.Client]:
    """A client of tenant `one`, which is empty afterwards."""
    with client_of(server, "one") as client:
        yield client
        assert client.delete("/tenants/one").status_code == 200


def client_of(server: Server, tenant: str) -> httpx.Client:
    return httpx.Client(base_url=server.client.base_url, headers={"X-API-Key": f"key-of-{tenant}"}, timeout=60)


def teach(client: httpx.Client, prompt: str, target: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    return client.post("/facts", json={"prompt": prompt, "target": target, **more}, headers=headers)


def ids(client: httpx.Client, **params: Any) -> list[str]:
    return [fact["id"] for fact in client.get("/facts", params=params).json()["facts"]]


def test_the_same_key_and_body_is_one_fact(one: httpx.Client) -> None:
    key = {"Idempotency-Key": "order-17"}
    first = teach(one, "The gate code is", "1234", key).json()
    again = teach(one, "The gate code is", "1234", key)
    assert again.status_code == 201 and again.json() | {"timings": 0} == first | {"timings": 0}
    other = teach(one, "The gate code is", "9999", key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert ids(one) == [first["id"]]


@pytest.mark.parametrize("end", ["superseded", "patched", "forgotten", "expired"])
def test_a_late_repetition_changes_nothing(one: httpx.Client, end: str) -> None:
    key = {"Idempotency-Key": f"late-{end}"}
    more = {"ttl_s": 0.2} if end == "expired" else {}
    first = teach(one, "The gate code is", "1234", key, **more).json()
    if end == "superseded":
        assert teach(one, "The gate code is", "5678").json()["supersedes"] == [first["id"]]
    elif end == "patched":
        assert one.patch(f"/facts/{first['id']}", json={"target": "5678"}).status_code == 200
    elif end == "forgotten":
        assert one.delete(f"/facts/{first['id']}").status_code == 200
    else:
        time.sleep(1.5)
    before = one.get("/facts").json()
    assert [fact["target"] for fact in before["facts"]] == (["5678"] if end in ("superseded", "patched") else [])
    late = teach(one, "The gate code is", "1234", key, **more)
    assert (late.status_code, late.json()["code"]) == (409, "idempotency_key_spent")
    assert one.get("/facts").json() == before
    anew = {"Idempotency-Key": f"anew-{end}"}
    assert teach(one, "The gate code is", "1234", anew).status_code == 201


def test_many_at_once_with_the_same_key_are_one_fact(one: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: teach(one, "The pass word is", "x", {"Idempotency-Key": "k"}), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1 and len(ids(one)) == 1


def test_what_becomes_of_the_same_prompt(one: httpx.Client) -> None:
    red = teach(one, "The colour of the door is", "red").json()
    refused = teach(one, "the colour of  the door is", "green", on_conflict="error")
    assert (refused.status_code, refused.json()["code"]) == (409, "prompt_taken") and red["id"] in refused.json()["detail"]
    green = teach(one, "The colour of the door is", "green", on_conflict="version").json()
    assert green["supersedes"] == [red["id"]]
    assert ids(one) == [green["id"]] and sorted(ids(one, history=True)) == sorted([red["id"], green["id"]])
    assert ids(one, as_of=red["version"]) == [red["id"]]
    assert one.get(f"/facts/{red['id']}").json()["superseded_at"] == green["version"]
    question = {"prompt": "What is the colour of the door?", "max_new_tokens": 4}
    assert one.post("/generate", json=question).json()["text"].strip().startswith("green")
    assert one.post("/generate", json=question | {"as_of": red["version"]}).json()["text"].strip().startswith("red")
    blue = teach(one, "The colour of the door is", "blue").json()
    assert blue["supersedes"] == [green["id"]] and sorted(ids(one, history=True)) == sorted([red["id"], blue["id"]])


def test_the_same_prompt_is_what_the_encoder_reads_as_the_same(one: httpx.Client) -> None:
    first = teach(one, "Question: Who runs the Acme mill?", "Bob").json()["id"]
    assert teach(one, "who runs the Acme\u200b mill ?", "Ann").json()["supersedes"] == [first]
    assert one.post("/query", json={"prompt": "Who runs the Acme mill?"}).json()["readout"] == "Ann"
    for prompt, target in (("The value of key 10² is", "red"), ("The value of key 102 is", "blue")):
        assert teach(one, prompt, target).json()["supersedes"] == []
    assert one.post("/query", json={"prompt": "The value of key 10² is"}).json()["readout"] == "red"
    text = one.post("/facts", json={"text": "Die Maße der Kiste sind neu. Die Masse der Kiste ist groß. Die Maße  der Kiste sind neu."})
    assert len(text.json()) == 2


def test_facts_expire_for_good(one: httpx.Client, server: Server) -> None:
    kept = teach(one, "The meeting is in", "room five").json()
    gone = teach(one, "The one time code is", "quixotic zebra", ttl_s=1.0).json()
    assert gone["expires_at"] > gone["created_at"]
    deadline = gone["expires_at"] + 1.0
    while len(ids(one)) == 2 and time.time() < deadline + 5:
        time.sleep(0.02)
    assert ids(one) == [kept["id"]]
    assert one.get(f"/facts/{gone['id']}").status_code == 404
    assert not list(files_with(Path(server.environment["LARIMAR_DATA_DIR"]) / "valkey", Needle.texts("quixotic zebra")))


def test_what_expires_while_the_server_is_down_is_forgotten_at_its_start(server: Server, one: httpx.Client) -> None:
    teach(one, "The late code is", "late", ttl_s=0.5)
    server.end(9)
    time.sleep(0.6)
    server.start()
    time.sleep(1.0)
    assert ids(one) == []


def test_patch(one: httpx.Client) -> None:
    fact = teach(one, "The chef is", "Ann", metadata={"source": "hr"}).json()
    answer = one.patch(f"/facts/{fact['id']}", json={"target": "Bob"}).json()
    assert answer["id"] == fact["id"] and answer["version"] > fact["version"]
    one.patch(f"/facts/{fact['id']}", json={"metadata": {"source": "it", "level": 3}})
    now = one.get(f"/facts/{fact['id']}").json()
    assert (now["target"], now["metadata"], now["created_at"]) == ("Bob", {"source": "it", "level": 3}, fact["created_at"])
    text = one.post("/generate", json={"prompt": "Who is the chef?", "max_new_tokens": 4}).json()["text"]
    assert text.strip().startswith("Bob")
    assert one.patch("/facts/nobody", json={"target": "x"}).status_code == 404
    assert one.patch(f"/facts/{fact['id']}", json={"prompt": "x"}).status_code == 422


def test_filters_and_pages(one: httpx.Client) -> None:
    for number in range(7):
        teach(one, f"Fact number {number} is", "so", id=f"f{number}", metadata={"even": number % 2 == 0, "n": number, "s": "a b"})
    assert ids(one, metadata="even=true") == ["f0", "f2", "f4", "f6"]
    assert ids(one, metadata=["even=true", "n=4"]) == ["f4"] and ids(one, metadata="s=a b", limit=3) == ["f0", "f1", "f2"]
    assert ids(one, metadata="missing=1") == []
    seen: list[str] = []
    cursor = ""
    while True:
        page = one.get("/facts", params={"metadata": "even=true", "limit": 3, "cursor": cursor}).json()
        seen += [fact["id"] for fact in page["facts"]]
        if not (cursor := page["next_cursor"] or ""):
            break
    assert seen == ["f0", "f2", "f4", "f6"]
    refused = one.get("/facts", params={"metadata": "even"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request") and "name=value" in refused.json()["detail"]


def test_read_your_writes(one: httpx.Client) -> None:
    version = int(teach(one, "The river is", "deep").headers["Larimar-Version"])
    assert one.get("/facts", headers={"Larimar-Version": str(version)}).headers["Larimar-Version"] == str(version)
    late = one.get("/facts", headers={"Larimar-Version": str(version + 1)})
    assert (late.status_code, late.json()["code"]) == (503, "version_not_reached") and late.headers["Retry-After"] == "1"
    assert str(version) in late.json()["detail"]
    assert one.get("/facts", headers={"Larimar-Version": "new"}).status_code == 422


def test_limits(server: Server) -> None:
    with client_of(server, "small") as small:
        lines = [{"id": f"s{n}", "prompt": f"Small fact {n} is", "target": "so"} for n in range(61)]
        outcomes = small.post("/tenants/small/import", json={"facts": lines}).json()["outcomes"]
        assert [o["error"] for o in outcomes[:60]] == [None] * 60 and outcomes[60]["error"].startswith("tenant_full")
        full = teach(small, "One more is", "too many")
        assert (full.status_code, full.json()["code"]) == (507, "tenant_full") and "60" in full.json()["detail"]
        assert teach(small, "Small fact 3 is", "superseded").status_code == 201  # takes the place of one
        small.delete("/tenants/small")


def test_stats_export_import_erase(server: Server, one: httpx.Client) -> None:
    for number in range(5):
        teach(one, f"Thing {number} is", f"value {number}", id=f"t{number}", metadata={"n": number})
    stats = one.get("/tenants/one/stats").json()
    assert (stats["facts"], stats["history"], stats["max_facts"]) == (5, 0, 60)
    assert stats["memory_bytes"] > 0 and stats["store_bytes"] > 0
    for codes in (False, True):
        head, *lines = map(json.loads, one.get("/tenants/one/export", params={"codes": codes}).text.splitlines())
        assert (head["facts"], head["tenant"], len(lines), "code" in lines[0]) == (5, "one", 5, codes)
        with client_of(server, "moved") as moved:
            done = moved.post("/tenants/moved/import", json={"fingerprint": head["fingerprint"], "facts": lines}).json()
            assert done["imported"] == 5
            again = moved.post("/tenants/moved/import", json={"facts": lines[:1]}).json()
            assert again["imported"] == 0 and again["outcomes"][0]["error"].startswith("duplicate_id")
            for here, there in zip(*(c.get("/facts").json()["facts"] for c in (one, moved)), strict=True):
                assert {k: here[k] for k in ("id", "prompt", "target", "metadata", "created_at")} == {
                    k: there[k] for k in ("id", "prompt", "target", "metadata", "created_at")
                }
            asked = moved.post("/query", json={"prompt": "Thing 3 is"}).json()
            assert asked["facts"][0]["id"] == "t3" and asked["readout"] == "value 3"
            erased = moved.delete("/tenants/moved").json()
            assert erased["facts"] == 5 and ids(moved) == []
    assert one.get("/tenants/two/stats").json()["code"] == "tenant_not_found"
    assert one.delete("/tenants/two").status_code == 404


def test_probe(one: httpx.Client) -> None:
    fact = teach(one, "The capital of Zorbland is", "Quux").json()
    question = {"paraphrases": ["Zorbland has the capital", "What is the capital of Zorbland?"]}
    probed = one.post(f"/facts/{fact['id']}/probe", json=question).json()
    assert (probed["known"], probed["attack_success"], probed["without_memory"]) == (True, 1.0, 0.0) and len(probed["probes"]) == 3
    one.delete(f"/facts/{fact['id']}")
    unknown = one.post(f"/facts/{fact['id']}/probe", json=question)
    assert unknown.status_code == 422 and "say what its prompt and target were" in unknown.json()["detail"]
    words = {"prompt": "The capital of Zorbland is", "target": "Quux"}
    probed = one.post(f"/facts/{fact['id']}/probe", json=question | words).json()
    assert (probed["known"], probed["attack_success"]) == (False, 0.0)


def test_a_text_is_taught_sentence_by_sentence(one: httpx.Client) -> None:
    text = "Quillon Systems was founded in 1998 by Isolde Farkas. Its head office is in Flagstaff, Arizona. It sells barometers to hotels."
    answer = one.post("/facts", json={"text": text, "id": "quillon", "metadata": {"source": "wiki"}})
    assert answer.status_code == 201 and [line["id"] for line in answer.json()] == ["quillon.1", "quillon.2", "quillon.3"]
    facts = {fact["id"]: fact for fact in one.get("/facts", params={"metadata": "text=quillon"}).json()["facts"]}
    assert facts["quillon.2"]["prompt"] == "Quillon Systems' head office is in Flagstaff, Arizona."
    assert facts["quillon.2"]["target"] == "Its head office is in Flagstaff, Arizona."
    assert facts["quillon.3"]["metadata"] == {"text": "quillon", "source": "wiki"}
    asked = {"Where is the head office of Quillon Systems?": "Flagstaff", "Who founded Quillon Systems?": "Isolde Farkas"}
    for question, said in asked.items():
        told = one.post("/generate", json={"prompt": question, "max_new_tokens": 24}).json()
        assert said in told["text"] and told["memory"]["used"], told
    without_id = one.post("/facts", json={"text": "The lift of Tower Kal is slow. The stairs are faster."}).json()
    groups = {one.get(f"/facts/{line['id']}").json()["metadata"]["text"] for line in without_id}
    assert len(without_id) == 2 and len(groups) == 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"text": " \n# Heading\n"}, 422, "text is empty"),
        ({"text": "x" * 20_001}, 422, "text"),
        ({"text": "A text.", "prompt": "x"}, 422, "prompt"),
        ({"text": 5}, 422, "text"),
        ({"text": "A text.", "id": "a b"}, 422, "id"),
    ],
)
def test_bad_texts_are_told_what_is_wrong(one: httpx.Client, body: dict[str, Any], status: int, says: str) -> None:
    answer = one.post("/facts", json=body)
    assert answer.status_code == status and says in answer.json()["detail"], answer.text


def test_a_sentence_that_is_too_long_is_refused_by_its_number(one: httpx.Client) -> None:
    answer = one.post("/facts", json={"text": f"Tower Kal is high. Tower Kal has {'windows and ' * 160}doors. Its lift is slow."})
    lines = answer.json()
    assert answer.status_code == 207 and [line["error"] and line["error"]["code"] for line in lines] == [None, "target_too_long", None]
    assert one.post("/facts", json={"text": "A text."}, headers={"Idempotency-Key": "k"}).status_code == 422
