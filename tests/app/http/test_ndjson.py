"""Lines of JSON are one line each, whatever is in them."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from app.http.fact_schemas import Exported
from app.http.ndjson import line_of


@given(st.text())
@example("a\u2028b\u2029c\x85d\x0b\x0c\x1c\x1d\x1e\r\n")
def test_what_is_told_in_a_line_stays_in_it(text: str) -> None:
    line = line_of({"text": text})
    assert line.splitlines() == [line] and json.loads(line) == {"text": text}


@given(st.text(min_size=1))
@example("one\u2028two")
def test_a_fact_is_exported_as_one_line_and_read_back(text: str) -> None:
    fact = Exported(id="a", prompt=text, target=text, metadata={"a": None, "b": text}, created_at=1.5, version=3)
    line = line_of(fact)
    assert line.splitlines() == [line] and Exported.model_validate_json(line) == fact and "expires_at" not in line
