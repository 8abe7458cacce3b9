"""Everyday facts are asked as a server asks them, and what is counted is what was read."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from app.experiments.everyday_facts import Share, everyday_facts
from app.server.model_loading import scope_of
from memory.scope.rules import Scope
from tests.models import toys

FACTS = """\
P|town|the capital of red is|blue|the capital of red is;;the capital of red|the river of zor is
P|de:town|the river of kal is|acme|the river of kal is|the capital of rome is
T|town|The rome of acme is zor. The kal of red is blue.
F|zor|The rome of acme is zor.|The capital of kal is
"""


@pytest.mark.parametrize(
    ("share", "low", "high"),
    [(Share(0, 10), 0.0, 0.2775), (Share(8, 10), 0.4902, 0.9433), (Share(10, 10), 0.7225, 1.0), (Share(0, 0), 0.0, 1.0)],
)
def test_intervals_are_wilsons(share: Share, low: float, high: float) -> None:
    assert share.wilson() == pytest.approx((low, high), abs=1e-4)


def test_each_file_is_a_memory_and_every_question_a_row(tmp_path: Path) -> None:
    model = toys.model()
    first, second, rows = tmp_path / "first.txt", tmp_path / "second.txt", tmp_path / "rows.jsonl"
    first.write_text(FACTS)
    second.write_text("P|town|the river of zor is|rome|the river of zor is|the capital of red is\n")
    table = everyday_facts([first, second], model, scope_of(model), rows)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["file"], row["near"]) for row in found].count(("first", False)) == 4 and len(found) == 9
    assert {row["language"] for row in found} == {"en", "de"} and {row["form"] for row in found} == {"pair", "text"}
    asked = [row for row in found if not row["near"]]
    assert all(row["right"] for row in asked), "a fact's own words find it, a text's sentence too"
    text = Console(width=200, file=(out := StringIO()))
    text.print(table)
    assert "form pair" in out.getvalue() and "language de" in out.getvalue() and "100.0 [" in out.getvalue()


def test_a_near_miss_that_is_in_scope_is_let_in_and_another_fact_is_wrong(tmp_path: Path) -> None:
    """Without any scope everything is answered by the nearest fact."""
    file, rows = tmp_path / "facts.txt", tmp_path / "rows.jsonl"
    lines = (
        "P|town|the capital of red is|blue|the river of kal is|the river of zor is",
        "P|town|the river of kal is|acme|the river of kal is|x",
    )
    file.write_text("\n".join(lines) + "\n")
    everyday_facts([file], toys.model(), Scope(threshold=-9.0), rows)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["near"], row["in_scope"], row["right"]) for row in found] == [
        (False, True, False),
        (True, True, False),
        (False, True, True),
        (True, True, False),
    ]
