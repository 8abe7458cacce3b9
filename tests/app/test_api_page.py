"""Every example of docs/api.md, executed in its order."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.app.hosting import hosted

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"```http\n([A-Z]+) (\S+)\n(?:([\[{].*)\n)?→ (\d+) ?(.*)\n```", PAGE)


@pytest.mark.service
def test_the_pages_examples_are_true(tmp_path: Path) -> None:
    assert len(EXAMPLES) == PAGE.count("```http")
    with hosted(tmp_path) as client:
        for method, path, body, status, wanted in EXAMPLES:
            answer = client.request(method, path, json=json.loads(body) if body else None)
            assert answer.status_code == int(status), (method, path, answer.text)
            found = answer.json()
            assert {name: found[name] for name in json.loads(wanted)} == json.loads(wanted) if wanted else True, (method, path, found)
