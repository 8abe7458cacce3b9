"""Every example of docs/api.md, executed in its order; every route has one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.http.problems import _BY_STATUS, INVALID, MALFORMED, TABLE, describe
from tests.app.hosting import hosted, make_key

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "api.md").read_text()


@dataclass(frozen=True)
class Example:
    method: str
    path: str
    headers: dict[str, str]
    body: str
    status: int
    wanted: dict[str, Any]


def example(block: str) -> Example:
    first, *middle, last = block.strip().split("\n")
    method, path = first.split(" ", 1)
    headers = {"Content-Type": "application/json"} if any(line[0] in "[{" for line in middle) else {}
    headers |= dict(line.split(": ", 1) for line in middle if line[0] not in "[{")
    status, _, wanted = last.removeprefix("→ ").partition(" ")
    body = "\n".join(line for line in middle if line[0] in "[{")
    return Example(method, path, headers, body, int(status), json.loads(wanted or "{}"))


EXAMPLES = [example(block) for block in re.findall(r"```http\n(.*?)```", PAGE, re.DOTALL)]


def execute(client: TestClient, one: Example, names: dict[str, str]) -> dict[str, Any]:
    def filled(text: str) -> str:
        return re.sub("|".join(rf"\b{name}\b" for name in names), lambda found: names[found[0]], text)

    headers = {name: filled(value) for name, value in one.headers.items()}
    answer = client.request(one.method, filled(one.path), content=filled(one.body) or None, headers=headers)
    assert answer.status_code == one.status, (one.method, one.path, answer.text)
    found = answer.json() if answer.headers["content-type"].endswith(("/json", "+json")) else {}
    assert {name: found[name] for name in one.wanted} == one.wanted, (one.method, one.path, found)
    return found if isinstance(found, dict) else {}


@pytest.mark.service
def test_the_pages_examples_are_true(tmp_path: Path) -> None:
    names = {"KEY": "", "ID": "", "MODEL": ""}
    with hosted(tmp_path) as client:
        names["MODEL"] = client.get("/v1/models").json()["data"][0]["id"]
        for one in EXAMPLES:
            if one.path.startswith("/admin/") and not names["KEY"]:  # from here on the server has one
                names["KEY"] = make_key(client, "root", "admin")
            found = execute(client, one, names)
            if "key" in found:
                names["ID"] = found["id"]
        paths = client.app.openapi()["paths"]  # type: ignore[attr-defined]  # a FastAPI
    routes = {(method.upper(), re.sub(r"\{\w+\}", "x", path)) for path, methods in paths.items() for method in methods}
    shown = {(one.method, one.path.partition("?")[0]) for one in EXAMPLES}
    assert not {route for route in routes if not any(matches(route, call) for call in shown)}


def matches(route: tuple[str, str], shown: tuple[str, str]) -> bool:
    pattern = "/".join("[^/]+" if part == "x" else re.escape(part) for part in route[1].split("/"))
    return route[0] == shown[0] and re.fullmatch(pattern, shown[1]) is not None


def test_troubleshooting_has_every_code_and_no_other() -> None:
    problems = [*TABLE.values(), INVALID, MALFORMED, describe(RuntimeError())]
    known = {(problem.code, problem.status) for problem in problems} | {(code, status) for status, code in _BY_STATUS.items()}
    told = re.findall(r"^### `(\w+)` \((\d+)\)$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert {(code, int(status)) for code, status in told} == known
    assert len(told) == len(known)
