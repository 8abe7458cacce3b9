"""Calibration: what is fitted to rows that are drawn by known weights, and what the threshold promises."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from models.model_files import ScopeParts
from models.scope.decision import BY_ADDRESS, BY_STATEMENT, Calibration, Features, Weights, probabilities
from models.scope.reader import Judgement, Pair
from models.training.calibration import (
    Ask,
    Row,
    calibrated,
    candidates,
    counterfact_memories,
    dialogues,
    everyday,
    fit,
    nearness_for,
    outcome,
    read_rows,
    tally,
    threshold_for,
)
from tests.models import toys

TRUE = Weights(0.5, 2.0, 1.0, -1.5)


def drawn(count: int, seed: int = 0, weights: Weights = TRUE) -> list[Row]:
    """Rows whose right candidate, or none, is drawn by the probabilities that the weights give."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        found = [Features(rng.gauss(-2, 4), rng.uniform(0, 1), rng.uniform(0, 1)) for _ in range(rng.randint(1, 6))]
        logits = [weights.logit(seen) for seen in found]
        chosen = rng.choices([None, *range(len(found))], [1 - sum(probabilities(logits)), *probabilities(logits)])[0]
        rows.append(Row(Ask("Who?", chosen, "pair"), [*range(len(found))], ["Fact?"] * len(found), found))
    return rows


def test_the_weights_that_rows_were_drawn_by_are_found() -> None:
    found, other = fit(drawn(4000)), fit(drawn(4000, 1, replace(TRUE, scale=2.0)))
    assert found.question.scale == pytest.approx(TRUE.scale, rel=0.25)
    assert found.question.address > found.question.statement > 0
    assert other.question.scale > 2.5 * found.question.scale
    assert found.unfinished.scale == pytest.approx(1.0)  # no row was of that kind


def test_beginnings_of_statements_are_fitted_by_themselves() -> None:
    questions, beginnings = drawn(2000), drawn(2000, 1, replace(TRUE, scale=0.1))
    for row in beginnings:
        row.ask, row.prompts = replace(row.ask, question="the head of it is"), ["the boss is"] * len(row.prompts)
    found = fit([*questions, *beginnings])
    assert found.question.scale > 2 * found.unfinished.scale > 0


@pytest.mark.parametrize("share", [0.02, 0.05, 0.15, 0.5])
def test_the_threshold_is_the_lowest_that_lets_in_no_more_than_its_share(share: float) -> None:
    rows, calibration = drawn(1500), Calibration(TRUE)
    threshold = threshold_for(rows, calibration, share)
    assert 0 < threshold < 1 and tally(rows, calibration, threshold).let_in <= 100 * share
    assert tally(rows, calibration, threshold - 0.05).let_in > 100 * share or threshold <= 0.06
    higher, lower = tally(rows, calibration, 0.9), tally(rows, calibration, 0.1)
    assert higher.right <= lower.right and higher.let_in <= lower.let_in and higher.questions == lower.questions


def test_an_outcome_is_that_of_the_candidate_chosen() -> None:
    row = Row(Ask("Who?", 7, "pair", also=(9,)), [4, 7, 9], ["a?"] * 3, [Features(-9, 0.9, 0.9), Features(9, 0.5, 0.2), Features(-9, 0, 0)])
    assert outcome(row, Calibration(), 0.5) == (True, True) and row.right == 1
    assert outcome(row, Calibration(nearness=0.6), 0.5) == (False, False)  # it is not read
    row.features[2] = Features(99, 0, 0)
    assert outcome(row, Calibration(), 0.5) == (True, True)  # another that is asked for as well
    row.features[0] = Features(999, 0, 0)
    assert outcome(row, Calibration(), 0.5) == (True, False)
    lost = Row(Ask("Who?", 1, "pair"), [4], ["a?"], [Features(-9, 0.9, 0.9)])
    assert lost.right is None and outcome(lost, Calibration(), 0.5) == (False, False)


def test_nearness_leaves_one_in_five_hundred_behind() -> None:
    rows = drawn(3000)
    near = nearness_for(rows)
    right = [row.features[row.right] for row in rows if row.right is not None]
    lost = sum(max(seen.address, seen.statement) < near for seen in right)
    assert lost <= len(right) / 500 + 1 and nearness_for([]) == 0.0


FACTS = [
    f"P|d|the {thing} of {town} is|{colour}|what is the {thing} of {town}?;;{town} {thing}|who runs {town}?;;what is the acme of {town}?"
    for thing in ("capital", "river")
    for town, colour in (("rome", "red"), ("paris", "blue"), ("berlin", "kal"), ("zor", "acme"))
]


class Words:
    """A reader by shared words: what a question shares with a fact, less what it says beyond it."""

    fingerprint = "words"

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        def odds(pair: Pair) -> float:
            asked, fact = ({word.strip("?.") for word in text.split()} - {"what", "is", "the", "of"} for text in (pair.question, pair.fact))
            return 4.0 * len(asked & fact) - 4.0 * len(asked - fact) - 6.0

        return [Judgement(odds(pair)) for pair in pairs]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path := tmp_path / "facts.txt").write_text("\n".join(FACTS) + "\n")
    return path


def test_candidates_are_those_that_a_server_would_read(file: Path) -> None:
    memory, of = everyday(file), toys.encoder()
    rows = candidates(memory, of.keys, of.meanings)
    assert len(rows) == len(memory.asks) == 32
    address = of.keys([ask.question for ask in memory.asks]) @ of.keys([prompt for prompt, _ in memory.facts]).T
    for row, near in zip(rows, address, strict=True):
        assert {*near.topk(BY_ADDRESS).indices.tolist()} <= {*row.candidates} and len(row.candidates) >= BY_STATEMENT
        cosines = [max(seen.address, seen.statement) for seen in row.features]
        assert cosines == sorted(cosines, reverse=True) and row.prompts == [memory.facts[n][0] for n in row.candidates]
    read_rows(memory, rows, Words(), together=5)
    judged = {(row.ask.question, n): seen.answers for row in rows for n, seen in zip(row.candidates, row.features, strict=True)}
    wanted = Words()([Pair(question, memory.facts[n][1]) for question, n in judged])
    assert [*judged.values()] == [judgement.answers for judgement in wanted]


def test_a_calibration_names_what_it_was_fitted_for_and_its_errors(file: Path, tmp_path: Path) -> None:
    of, told = toys.encoder(), list[str]()
    scope = ScopeParts(Words(), Calibration(), of)
    more = {"counterfact": None, "check": [file], "let_in": 0.05, "asks": None, "rows": tmp_path / "rows.jsonl", "say": told.append}
    made = calibrated(scope, of, [file], **more)  # type: ignore[arg-type]
    assert made.fits("words") and made.about["encoder"] == of.fingerprint and made.about["data"].keys() == {"facts.txt"}
    assert made.maybe <= made.threshold and len(made.about["errors"]) == 19
    rates = [error["let_in"] for error in made.about["errors"]]
    assert rates == sorted(rates, reverse=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 32 and sum(row["in_scope"] and row["near"] for row in rows) <= 0.05 * 16
    assert sum(row["right"] for row in rows if not row["near"]) >= 12
    assert any(line.startswith("facts.txt all: right") for line in told)
    made.save(path := tmp_path / "calibration.json")
    assert Calibration.load(path) == Calibration.load(path) and Calibration.load(path).threshold == made.threshold


def test_counterfact_is_read_alone_and_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"town {n} lies in", "target_new": "Kal", "rephrase_prompt": f"where is town {n}", "locality_prompt": f"lake {n} is in"}
        for n in range(310)
    ]
    with gzip.open(path := tmp_path / "records.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    *alone, together = counterfact_memories(path)
    assert len(alone) == len(together.facts) == 300 and len(together.asks) == 600
    assert all(ask.fact in (0, None) for memory in alone for ask in memory.asks)
    for ask in together.asks:
        assert ask.fact is None or together.facts[ask.fact][0].split()[1] == ask.question.split()[-1]


def test_a_dialogue_is_a_memory_of_its_own(tmp_path: Path) -> None:
    facts = [{"prompt": "The head is", "target": "Ann"}, {"prompt": "The boss is", "target": "Bob"}]
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Who is head?"}]
    rows = [{"domain": "a", "kind": "k", "facts": facts, "messages": said, "answers": answers} for answers in ([0, 1], [])]
    (path := tmp_path / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both, none = dialogues(path)
    assert both.asks == [Ask("Who is head?", 0, "k", "Hi – Yes?", (1,))] and none.asks[0].fact is None
    assert both.facts[1] == ("The boss is", "The boss is Bob") and dialogues(path, lambda domain: domain == "b") == []
