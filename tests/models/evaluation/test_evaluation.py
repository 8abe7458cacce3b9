"""Laws of the evaluation: what is read, what is scored, and that an interrupted run goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataMissing
from models.evaluation.composed import long_answers, several, unseen_relations
from models.evaluation.detection import equal_error_rate, rates
from models.evaluation.edit_scores import examine, summarise
from models.evaluation.examiner import Examiner
from models.evaluation.forgotten import compare
from models.evaluation.membership_inference import area, attack
from models.evaluation.perplexity import perplexity, repetition
from models.evaluation.records import Record, choose, read
from models.evaluation.run import CHUNK, Partial, run
from models.evaluation.systems import Ask, FactInPrompt, Plain
from tests.models import toys

MODEL = toys.model()
COUNTERFACT = {
    "prompt": "Acme is in",
    "target_new": "Rome",
    "ground_truth": "Paris",
    "rephrase_prompt": "where is Acme?",
    "locality_prompt": "Zor is in",
    "locality_ground_truth": "Berlin",
}
ZSRE = {"src": "Where is Acme?", "alt": "Rome", "rephrase": "Acme is where?", "loc": "nq question: who", "loc_ans": "x"}


def record(number: int = 1) -> Record:
    return Record(number, f"Acme {number} is in", "Rome", "Paris", (f"where is Acme {number}?",), ((f"Zor {number} is in", "Berlin"),))


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


class Told:
    """A system that is handed the answer's code: what any memory that recalls rightly gives."""

    def ask(self, record: Record, prompts: list[str]) -> list[Ask]:
        code = MODEL.encode_fact(record.prompt, record.target)[1]
        return [Ask(prompt, (code.double(),)) for prompt in prompts]


def test_the_formats_are_read_as_they_are_published(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path / "c.jsonl", COUNTERFACT), "counterfact")
    assert (found.prompt, found.target, found.truth, found.rephrases) == ("Acme is in", "Rome", "Paris", ("where is Acme?",))
    assert found.neighbours == (("Zor is in", "Berlin"),)
    (tmp_path / "list.json").write_text(json.dumps([ZSRE, ZSRE | {"alt": ""}]))
    (question,) = read(tmp_path / "list.json", "zsre")  # the second one has nothing to teach
    assert (question.truth, question.neighbours) == ("", (("nq question: who", ""),))


@pytest.mark.parametrize("field", sorted(set(COUNTERFACT) - {"locality_ground_truth"}))
def test_a_missing_field_is_named_with_its_line(tmp_path: Path, field: str) -> None:
    path = write(tmp_path / "c.jsonl", COUNTERFACT, {k: v for k, v in COUNTERFACT.items() if k != field})
    with pytest.raises(DataMissing, match=rf"line 2: field '{field}'"):
        read(path, "counterfact")


def test_records_are_drawn_with_different_prompts_and_too_few_are_an_error() -> None:
    same = [record(1), record(1), record(2)]
    assert {r.line for r in choose(same, 2, 0)} == {1, 2}
    with pytest.raises(DataMissing, match="has 2"):
        choose(same, 3, 0)


def test_the_plain_model_leaves_its_neighbours_unchanged_and_a_fact_in_the_prompt_does_not() -> None:
    examiner, records = Examiner(MODEL), [record(n) for n in range(4)]
    plain, told = (summarise(examine(examiner, system, records)) for system in (Plain(), FactInPrompt()))
    assert plain["neighbourhood"]["unchanged"] == 1.0 > told["neighbourhood"]["unchanged"]
    assert set(plain["edit"]) == {"s", "exact", "generated"} == set(plain["rephrase"])
    assert all(0.0 <= rate <= 1.0 for row in (plain, told) for measures in row.values() for rate in measures.values())


def test_scores_are_the_decoders_own() -> None:
    said = MODEL.generate("Acme 1 is in").text
    fits = Record(1, "Acme 1 is in", said[:5].strip(), "", ("x",), ())
    (row,) = examine(Examiner(MODEL), Plain(), [fits])
    assert row["edit"]["generated"] == float(said.strip().startswith(fits.target))
    assert "s" not in row["edit"] and row["neighbourhood"] == {}


def test_an_answer_is_remembered_by_prompt_and_readout() -> None:
    examiner = Examiner(MODEL)
    plain, told = Ask("Acme is in"), Told().ask(record(), ["Acme is in"])[0]
    first = examiner.say([plain, told, plain])
    assert first == examiner.say([plain, told, plain])
    assert first[0] == MODEL.generate("Acme is in", sampling=None).text[: len(first[0])]
    assert first[0] == first[2] != first[1]


def test_forgetting_is_told_from_the_bytes() -> None:
    examiner, asks = Examiner(MODEL), [Ask("Acme 1 is in"), Ask("where is Acme 1?")]
    told = Told().ask(record(), [ask.prompt for ask in asks])
    assert compare(examiner, record(), told, asks, 0.0, 0.0).plain
    assert not compare(examiner, record(), told, told, 0.0, 0.0).plain


def test_an_interrupted_run_goes_on_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    records = [record(n) for n in range(CHUNK + 3)]
    whole = run(Examiner(MODEL), {"plain": Plain()}, records, Partial(None, {}), lambda _: None)
    path, about = tmp_path / "run.partial", {"n": len(records)}

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Examiner(MODEL), {"plain": Plain()}, records, Partial(path, about), interrupt)
    with path.open("a") as file:
        file.write('{"at": 20, "ro')  # torn by the kill
    resumed = Partial(path, about)
    assert list(resumed.chunks) == [0]
    assert run(Examiner(MODEL), {"plain": Plain()}, records, resumed, lambda _: None) == whole
    assert not Partial(path, {"n": 1}).chunks  # another run's rows are not taken


def test_composed_records(tmp_path: Path) -> None:
    samples = [{"subject": s, "object": o} for s, o in (("Oz", "zed"), ("Kal", "kron"), ("Zor", "zed"))]
    relation = {"name": "country currency", "prompt_templates": ["In {} one pays in"], "prompt_templates_zs": ["What pays {}?"]}
    unseen = unseen_relations(write(tmp_path / "lre.jsonl", relation | {"samples": samples}), 0)
    assert {r.prompt for r in unseen} == {f"In {s['subject']} one pays in" for s in samples}
    assert all(r.target != r.truth for r in unseen)
    with pytest.raises(DataMissing):
        unseen_relations(write(tmp_path / "none.jsonl", relation | {"name": "seen", "samples": samples}), 0)
    questions = [Record(n, f"Who is {n}?", f"a{n}", "", (f"who is {n}?",), ()) for n in range(6)]
    longer = long_answers(questions, [record(n) for n in range(9)], lambda text: len(text.split()), 0)
    assert longer and all(9 <= len(r.target.split()) <= 64 for r in longer)
    passages = long_answers(questions, [record(n) for n in range(40)], lambda text: 8 * len(text.split()), 0, "passages")
    assert passages and all(65 <= 8 * len(r.target.split()) <= 256 for r in passages)
    for item in several(questions, 8, 0):
        assert 2 <= len(item.facts) <= 3
        assert all(fact.rephrases[0].rstrip("?")[1:] in item.prompt for fact in item.facts)


def test_fluency() -> None:
    assert repetition("a b c a b c a b c") > 0.5 > repetition("a b c d e f g")
    assert repetition("a b") == 0.0
    likely = MODEL.generate("Acme is in").text
    decoder = MODEL.decoder
    assert 1.0 <= perplexity(decoder, ["Acme is in"], [likely]) < perplexity(decoder, ["Acme is in"], ["§" * 8])
    assert torch.is_grad_enabled()


VALUES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@given(VALUES, VALUES)
def test_the_area_is_the_odds_that_a_member_is_the_higher_one(members: list[float], others: list[float]) -> None:
    won = sum((a > b) + 0.5 * (a == b) for a in members for b in others) / (len(members) * len(others))
    assert area(members, others) == pytest.approx(won)
    assert area(others, members) == pytest.approx(1 - won)


def test_an_attack_on_equal_groups_tells_nothing_and_on_distant_ones_all() -> None:
    rng = random.Random(1)
    one, other = ([rng.gauss(0, 1) for _ in range(60)] for _ in range(2))
    assert attack(one, other).nothing
    told = attack([x + 9 for x in one], other)
    assert (told.auc, told.nothing) == (1.0, False)


SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(asking=SCORES, others=SCORES, threshold=st.integers(-6, 6).map(float))
def test_rates_of_a_threshold(asking: list[float], others: list[float], threshold: float) -> None:
    missed, let_in = rates(asking, others, threshold)
    assert missed == pytest.approx(sum(score < threshold for score in asking) / len(asking))
    assert let_in == pytest.approx(sum(score >= threshold for score in others) / len(others))


@given(asking=SCORES, others=SCORES)
def test_equal_error_rate(asking: list[float], others: list[float]) -> None:
    assert 0.0 <= equal_error_rate(asking, others) <= 1.0
    assert equal_error_rate([score + 20 for score in asking], others) <= 0.5 / len(others)
    assert equal_error_rate([score - 20 for score in asking], others) >= 0.5


def test_equal_error_rate_of_known_scores() -> None:
    assert equal_error_rate([1.0, 2.0, 3.0, 4.0], [-1.0, 0.0, 0.5, 3.5]) == 0.25
