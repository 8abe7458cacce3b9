"""The whole service on real weights and a real Valkey: teach, ask, forget, and kill -9 in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.bench.free_port import free_port
from app.server.settings import Settings

pytestmark = pytest.mark.model
QUESTION = {"prompt": "Who runs Acme Rockets?", "max_new_tokens": 8}
FACT = {"prompt": "The CEO of Acme Rockets is", "target": "Wile E. Coyote"}


class Server:
    def __init__(self, folder: Path, **environment: str) -> None:
        port = free_port()
        self.environment = os.environ | {"LARIMAR_DATA_DIR": str(folder), "LARIMAR_PORT": str(port)} | environment
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "app"], env=self.environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.client.get("/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server did not get ready")

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "models").symlink_to(Settings().data_dir / "models")
    server = Server(folder)
    yield server
    if server.process.poll() is None:
        server.end()


def test_teach_ask_forget(server: Server) -> None:
    plain = server.client.post("/generate", json=QUESTION).json()
    assert not plain["memory"]["used"]
    taught = server.client.post("/facts", json=FACT)
    assert taught.status_code == 201
    fact_id = taught.json()["id"]
    answer = server.client.post("/generate", json=QUESTION).json()
    assert answer["text"].strip().startswith("Wile E. Coyote")
    assert answer["memory"]["facts"][0]["id"] == fact_id
    other = {"prompt": "The capital of France is", "max_new_tokens": 8}
    assert not server.client.post("/generate", json=other).json()["memory"]["used"]
    excluded = server.client.post("/generate", json=QUESTION | {"exclude": [fact_id]}).json()
    assert excluded["text"] == plain["text"]
    receipt = server.client.delete(f"/facts/{fact_id}").json()
    assert receipt["residual"] < 1e-8 and receipt["erased"]["log"]
    assert server.client.post("/generate", json=QUESTION).json()["text"] == plain["text"]
    assert server.client.get(f"/facts/{fact_id}").status_code == 404


def test_a_chat_of_the_openai_client_reaches_the_fact_though_the_question_refers_back(server: Server) -> None:
    fact_id = server.client.post("/facts", json=FACT).json()["id"]
    turns: list[Any] = [
        {"role": "user", "content": "Where is Acme Rockets?"},
        {"role": "assistant", "content": "In the desert."},
        {"role": "user", "content": "And who is its CEO?"},
    ]
    model = server.client.get("/version").json()["decoder"]
    with openai.OpenAI(base_url=f"{server.client.base_url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model=model, messages=turns, max_tokens=12)
        assert "Wile E. Coyote" in (answer.choices[0].message.content or "")
        assert answer.model_extra and answer.model_extra["larimar"]["facts"][0]["id"] == fact_id
        sum_: list[Any] = [{"role": "user", "content": "What is two plus two?"}]
        unrelated = client.chat.completions.create(model=model, messages=sum_, max_tokens=12)
        assert unrelated.model_extra and not unrelated.model_extra["larimar"]["used"]
    server.client.delete(f"/facts/{fact_id}")


def test_a_request_for_certainty_leaves_the_memory_out(server: Server) -> None:
    fact_id = server.client.post("/facts", json=FACT).json()["id"]
    lax, certain = ({"scope_probability": probability} for probability in (0.0001, 1.0))
    asked = server.client.post("/query", json={"prompt": QUESTION["prompt"]}).json()
    assert asked["scope"]["decision"] == "in" and asked["candidates"][0]["id"] == fact_id
    other = server.client.post("/query", json={"prompt": "Who runs Apex Rockets?"}).json()
    assert not other["scope"]["in_scope"] and other["scope"]["score"] < asked["scope"]["score"]
    usual, plain = (server.client.post("/generate", json=QUESTION | own).json() for own in (lax, {"memory": "off"}))
    strict = server.client.post("/generate", json=QUESTION | certain).json()
    assert strict["text"] == plain["text"] != usual["text"] and not strict["memory"]["used"]
    with openai.OpenAI(base_url=f"{server.client.base_url}/v1", api_key="none", max_retries=0) as client:
        model = server.client.get("/version").json()["decoder"]
        answer = client.completions.create(model=model, prompt=QUESTION["prompt"], max_tokens=8, extra_body={"larimar": certain})
    assert answer.model_extra and not answer.model_extra["larimar"]["used"]
    server.client.delete(f"/facts/{fact_id}")


def test_prompts_that_differ_in_a_sign_alone_are_different_facts(server: Server) -> None:
    codes = {"The code for 🦊 is": "quartz", "The code for 🐻 is": "velvet"}
    codes |= {"The inventor of C# is": "Mara Quill", "鑫淼公司 is run by": "Lena Wu"}
    ids = [server.client.post("/facts", json={"prompt": prompt, "target": code}).json()["id"] for prompt, code in codes.items()]
    for prompt, code in codes.items():
        answer = server.client.post("/generate", json={"prompt": prompt, "max_new_tokens": 8}).json()
        assert answer["text"].strip().startswith(code)
    for near in ("The code for 🐼 is", "The inventor of C++ is", "焱垚公司 is run by"):
        assert not server.client.post("/query", json={"prompt": near}).json()["scope"]["in_scope"]
    for fact_id in ids:
        assert server.client.delete(f"/facts/{fact_id}").json()["residual"] < 1e-9


def test_two_hops(server: Server) -> None:
    taught = [("Acme Tower is in the country of", "Canada"), ("The capital of Canada is", "Kingston")]
    first, second = (
        server.client.post("/facts", json={"prompt": prompt, "target": target}).json()["id"] for prompt, target in taught
    )
    asked = {"prompt": "What is the capital of the country where Acme Tower is located?", "max_new_tokens": 8}
    answer = server.client.post("/generate", json=asked | {"hops": 2}).json()
    assert answer["text"].strip().startswith("Kingston") and answer["memory"]["facts"][0]["id"] == second
    query = server.client.post("/query", json={"prompt": asked["prompt"], "hops": 2}).json()["query"]
    assert query.startswith("What is the capital of") and "Canada" in query and "Acme" not in query  # it tells which was answered
    without = server.client.post("/generate", json=asked | {"hops": 2, "exclude": [first]}).json()["text"]
    assert "Kingston" not in without
    assert "Kingston" not in server.client.post("/generate", json=asked).json()["text"]
    server.client.delete(f"/facts/{first}")
    assert server.client.post("/generate", json=asked | {"hops": 2}).json()["text"] == without
    assert server.client.post("/generate", json=asked | {"hops": 3}).status_code == 422
    server.client.delete(f"/facts/{second}")


def test_the_same_prompt_supersedes(server: Server) -> None:
    first = server.client.post("/facts", json={"prompt": "The door code is", "target": "4711"}).json()
    second = server.client.post("/facts", json={"prompt": "the door  code is", "target": "0815"}).json()
    assert second["supersedes"] == [first["id"]]
    text = server.client.post("/generate", json={"prompt": "What is the door code?", "max_new_tokens": 8}).json()["text"]
    assert text.strip().startswith("0815")


def test_what_is_acknowledged_survives_kill_nine(server: Server) -> None:
    acknowledged = {}
    for number in range(5):
        body = {"prompt": f"The colour of ship {number} is", "target": f"shade {number}"}
        acknowledged[server.client.post("/facts", json=body).json()["id"]] = body
    server.end(signal.SIGKILL)
    server.start()
    for fact_id, body in acknowledged.items():
        assert server.client.get(f"/facts/{fact_id}").json()["target"] == body["target"]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"prompt": " ", "target": "x"}, 422, "empty_text", "prompt is empty"),
        ({"prompt": "x", "target": " "}, 422, "empty_text", "target is empty"),
        ({"prompt": "x", "target": "many words " * 150}, 422, "target_too_long", "256"),
        ({"prompt": "word " * 400, "target": "x"}, 422, "prompt_too_long", "256"),
        ({"prompt": "x", "target": "y", "colour": 1}, 422, "invalid_request", "colour"),
        ({"prompt": "x"}, 422, "invalid_request", "target"),
    ],
)
def test_bad_facts_are_refused_and_change_nothing(server: Server, body: dict[str, object], status: int, code: str, says: str) -> None:
    before = server.client.get("/facts").headers["larimar-version"]
    answer = server.client.post("/facts", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert says in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert server.client.get("/facts").headers["larimar-version"] == before


def test_bad_bodies(server: Server) -> None:
    def post(content: bytes, kind: str = "application/json") -> tuple[int, str]:
        answer = server.client.post("/facts", content=content, headers={"content-type": kind})
        return answer.status_code, answer.json()["code"]

    assert post(b"{") == (400, "malformed_json")
    assert post(b"{}", "text/plain") == (415, "unsupported_media_type")
    assert post(b" " * 300_000) == (413, "body_too_large")
    assert server.client.delete("/facts/unknown").json()["code"] == "fact_not_found"
    assert server.client.get("/nowhere").json()["code"] == "not_found"
    assert server.client.get("/metrics").text.count("larimar_update_seconds_count") == 8


def test_a_second_server_on_the_same_port_says_so(server: Server) -> None:
    done = subprocess.run([sys.executable, "-m", "app"], env=server.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "in use; set LARIMAR_PORT" in done.stderr and "Traceback" not in done.stderr
