"""LangChain's ChatOpenAI and LlamaIndex' OpenAILike get what OpenAI's own client gets."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.app.serving import serving

pytestmark = pytest.mark.service
HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("TEST_FRAMEWORKS", HERE.parents[1] / ".frameworks")) / "bin" / "python"
PROMPT = "the capital of zor is"
CHAT: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if not PYTHON.exists():
        pytest.skip("the frameworks are not installed (make test installs them into .frameworks)")
    with serving(scope_probability=0.99) as client:
        client.post("/facts", json={"prompt": PROMPT, "target": "Kal"}).raise_for_status()
        yield f"{client.base_url}/v1"


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server, api_key="none", max_retries=0) as client:
        yield client


def asked(script: str, server: str) -> dict[str, Any]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANGSMITH_TRACING": "false"}
    command = [str(PYTHON), str(HERE / script), server, PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def chatted(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="toy", messages=CHAT, max_tokens=12, temperature=0, **more)


def test_langchain(server: str, client: openai.OpenAI) -> None:
    told, wanted = asked("ask_langchain.py", server), chatted(client)
    text = wanted.choices[0].message.content
    assert wanted.model_extra["larimar"]["used"] and text != told["off"]
    assert told["text"] == told["streamed"] == text and told["batch"] == [text, text]
    assert told["off"] == chatted(client, extra_body={"larimar": {"memory": "off"}}).choices[0].message.content
    usage = told["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (wanted.usage.prompt_tokens, wanted.usage.completion_tokens)


def test_llama_index(server: str, client: openai.OpenAI) -> None:
    told, text = asked("ask_llama_index.py", server), chatted(client).choices[0].message.content
    assert told["text"] == told["streamed"] == text != told["off"]
    completed = client.completions.create(model="toy", prompt=PROMPT, max_tokens=12, temperature=0).choices[0].text
    assert told["completed"] == told["completed_stream"] == completed
