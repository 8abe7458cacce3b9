"""Experiments on a toy model: what must hold for any."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from app.experiments.evolution import evolution
from app.experiments.retention import retention
from app.experiments.setup import Setup
from models.errors import DataMissing
from tests.models import toys

WORDS = ("red", "blue", "zor", "kal", "acme", "rome")


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """30 facts whose prompts the toy encoder tells apart."""
    lines = [
        {
            "prompt": f"the {kind} of {one} is {other}",
            "rephrase_prompt": f"the {kind} of {one} is {other}",
            "target_new": f"{kind[0]}{one[0]}{other}",
            "ground_truth": "x",
            "subject": one,
            "locality_prompt": "where is it",
            "locality_ground_truth": "here",
        }
        for kind in ("capital", "river")
        for one, other in combinations(WORDS, 2)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr("app.experiments.evolution.CHANGES", 120)
    monkeypatch.setattr("app.experiments.evolution.EVERY", 40)
    made = Setup("x", tmp_path / "data.jsonl", n=8, facts_in_memory=24, json_file=tmp_path / "found.json")
    made.__dict__["model"] = toys.model()
    return made


def found(setup: Setup, name: str) -> list[dict[str, Any]]:
    assert setup.json_file is not None
    rows: list[dict[str, Any]] = json.loads(setup.json_file.read_text())[name]
    return rows


def test_every_fact_is_retained_however_many_follow(setup: Setup) -> None:
    table = retention(setup)
    rows = found(setup, "retention")
    assert [row["facts"] for row in rows] == [1, 10, 24] and table.row_count == 3
    assert all(row[group]["prompt"] == 1.0 for row in rows for group in ("first", "last", "any"))


def test_what_is_held_on_the_way_is_recalled_and_pages_stay_exact(setup: Setup) -> None:
    evolution(setup)
    rows = found(setup, "evolution")
    assert [row["changes"] for row in rows] == [40, 80, 120]
    for row in rows:
        assert row["prompt"] == 1.0 and row["residual"] < 1e-8
        assert row["write"] + row["update"] + row["forget"] == row["changes"] + 1 and row["facts"] == row["write"] - row["forget"]


@pytest.mark.parametrize("experiment", [retention, evolution])
def test_too_few_facts_are_told(setup: Setup, experiment: Any) -> None:
    few = Setup("x", setup.data, n=8, facts_in_memory=100)
    few.__dict__["model"] = setup.model
    with pytest.raises(DataMissing, match="100"):
        experiment(few)
