"""Experiments on a toy model: what must hold for any."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from app.experiments import ablations
from app.experiments.cleanup import cleanup, slot_kept
from app.experiments.context import context
from app.experiments.editing import editing
from app.experiments.evolution import evolution
from app.experiments.figures import plot
from app.experiments.retention import retention
from app.experiments.scope import scope
from app.experiments.selective import selective
from app.experiments.setup import Setup
from app.experiments.untouched import untouched
from memory.page import PageSettings
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


def found(setup: Setup, name: str) -> Any:
    assert setup.json_file is not None
    return json.loads(setup.json_file.read_text())[name]


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


def test_own_words_are_in_scope_and_what_is_taught_itself_is_no_neighbour(setup: Setup) -> None:
    scope(setup)
    figures = found(setup, "scope")
    assert list(figures) == ["1", "24"]
    for size, row in figures.items():
        assert row["missed"] == 0.0 and row["asking"] == row["others"] == setup.n
        assert {point["threshold"] for point in row["curve"]} > {row["threshold"]}
        missed, let_in = ([point[name] for point in row["curve"]] for name in ("missed", "let_in"))
        assert missed == sorted(missed) and let_in == sorted(let_in, reverse=True), size


def test_recorded_figures_are_drawn_and_always_the_same(setup: Setup, tmp_path: Path) -> None:
    for name, experiment in (("scope", scope), ("retention", retention), ("context", context)):
        given = replace(setup.with_memory_of(8), json_file=tmp_path / "figures" / f"{name}.json")
        given.__dict__["model"] = setup.model
        experiment(given)
    made = plot(tmp_path / "figures", tmp_path / "one")
    assert [path.name for path in made] == ["scope.svg", "retention.svg", "context.svg"]
    again = plot(tmp_path / "figures", tmp_path / "two")
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in again]


def test_text_that_scope_leaves_alone_is_the_plain_decoders(setup: Setup, tmp_path: Path) -> None:
    words = "what runs the red river of zor now does acme rockets please where is it".split()
    lines = [" ".join((words * 9)[shift : shift + 100]) for shift in range(6)]
    (tmp_path / "text.txt").write_text("= heading =\n" + "\n".join(lines))
    given = replace(setup, data=tmp_path / "text.txt", fill=setup.data, n=6)
    given.__dict__["model"] = setup.model
    untouched(given)
    figures = found(setup, "untouched")
    assert figures["same"] >= 1.0 - figures["answered"]
    if not figures["answered"]:
        assert figures["with the memory"] == figures["plain"]
    with pytest.raises(DataMissing, match="--fill"):
        replace(given, fill=None).filling()


def test_facts_in_the_prompt_take_room_and_facts_in_the_memory_do_not(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.model, "context_tokens", setup.model.longest_prefix + 472)
    given = setup.with_memory_of(16)
    context(given)
    rows = found(setup, "context")
    assert [row["facts"] for row in rows] == [1, 4, 16]
    tokens = [row["prompt"]["tokens"] for row in rows]
    assert tokens[2] > 3 * tokens[1] > 6 * tokens[0] / 2
    assert [row["prompt"]["fits"] for row in rows] == [1.0, 1.0, 0.0] and rows[2]["prompt"]["edit"] == 0.0
    assert all(0.0 <= row[name][examined] <= 1.0 for row in rows for name in ("larimar", "prompt") for examined in ("edit", "rephrase"))


def test_half_of_a_memory_is_forgotten_and_the_other_half_stays(setup: Setup) -> None:
    given = replace(setup, pages=PageSettings(slots=8))
    given.__dict__["model"] = setup.model
    selective(given)
    rows = found(setup, "selective")["rows"]
    assert [row["facts"] for row in rows] == [4, 8, 16, 24]
    for row in rows:
        assert row["before"]["prompt"] == row["retained"]["prompt"] == 1.0 and row["forgotten"]["prompt"] == 0.0
        assert row["residual"] < 1e-8


def test_theory_says_how_noisy_a_readout_may_be(setup: Setup) -> None:
    code, token, draws = setup.model.code, ord("n"), 2000
    clean, generator, chances = code.encode([token]), torch.Generator().manual_seed(0), list[float]()
    for deviation in (0.01, 0.8, 1.2, 1.6, 2.4):
        spoiled = (clean + deviation * torch.randn(len(clean), generator=generator) for _ in range(draws))
        chances.append(slot_kept(code, token, deviation))
        counted = sum(code.clean(readout)[:1] == [token] for readout in spoiled) / draws
        assert abs(counted - chances[-1]) < 0.1, deviation
    assert abs(chances[0] - 1.0) < 1e-9 and chances == sorted(chances, reverse=True) and chances[-1] < 0.5


def test_facts_that_fit_are_read_back_and_more_are_not(setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.experiments.cleanup.LOADS", (0.5, 1.0, 2.0))
    given = replace(setup, pages=PageSettings(slots=12), json_file=tmp_path / "figures" / "cleanup.json")
    given.__dict__["model"] = setup.model
    cleanup(given)
    told = json.loads((tmp_path / "figures" / "cleanup.json").read_text())["cleanup"]
    half, full, twice = told["by_load"]
    assert [row["facts"] for row in told["by_load"]] == [6, 12, 24]
    assert half["right"] == 1.0 and half["root_mean_square"] < 0.1 and half["theory"] == full["theory"] == 0.0
    assert twice["theory"] == 0.5**0.5 and twice["root_mean_square"] > half["root_mean_square"]
    assert [path.name for path in plot(tmp_path / "figures", tmp_path / "pictures")] == ["cleanup.svg"]


def test_with_all_parts_an_ablation_is_the_evaluation(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "_frozen", lambda setup: setup.model)  # it would load real weights
    table = ablations.ablations(setup)
    rows = found(setup, "ablations")
    assert table.row_count == len(rows) > 10
    given = replace(setup, experiment="counterfact")
    given.__dict__["model"] = setup.model
    editing(given)
    assert rows["all parts"] == found(setup, "systems")["larimar"]
    assert rows["readouts not cleaned up"] != rows["all parts"] != rows["no pointer"]


@pytest.mark.parametrize("experiment", [retention, evolution])
def test_too_few_facts_are_told(setup: Setup, experiment: Any) -> None:
    few = Setup("x", setup.data, n=8, facts_in_memory=100)
    few.__dict__["model"] = setup.model
    with pytest.raises(DataMissing, match="100"):
        experiment(few)
