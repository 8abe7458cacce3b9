"""Lessons as a server would meet them, a loss that pulls where it should, and a short run on small made weights."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.everyday import read_facts
from models.scope.reader import Pair, Reader, ReaderUpdate, Row
from models.training import reader_training
from models.training.reader_training import (
    Dialogues,
    Embed,
    Everyday,
    Lesson,
    Mixture,
    Pairs,
    Schedule,
    kept_out,
    loss_of,
    span_target,
    train,
    varied,
)
from models.weights import Weights, fingerprint
from tests.models import toys

TOWNS = ("rome", "paris", "berlin", "zor", "kal", "acme")
LINES = [
    f"P|towns|the {thing} of {town} is|{town} {thing}|what is the {thing} of {town}?;;who runs the {thing} of {town};;{town} {thing}"
    f"|what is the {other} of {town}?;;does the {thing} of {town} do"
    for thing, other in (("capital", "river"), ("river", "capital"))
    for town in TOWNS
]
TEXT = [
    "T|firm|Acme Rockets was founded in Rome. It runs a red river in Kal. On Mondays it is closed.",
    "F|a red river|what does acme run?|who is it?",
]


@dataclass
class InOrder:
    """Finds the same statements near everything."""

    def nearest(self, questions: Sequence[str], statements: Sequence[str], count: int = 16) -> list[list[int]]:
        return [list(range(min(count, len(statements)))) for _ in questions]


@pytest.fixture
def hand(tmp_path: Path) -> Path:
    folder = tmp_path / "hand"
    (folder / "everyday").mkdir(parents=True)
    (folder / "everyday" / "towns.txt").write_text("\n".join([*LINES, *TEXT]) + "\n")
    facts = [{"prompt": f"the head of {town} is", "target": "kal"} for town in TOWNS[:4]]
    texts = (("user", "where is rome?"), ("assistant", "red"), ("user", "who runs rome?"))
    said = [{"role": role, "content": text} for role, text in texts]
    rows = [{"domain": f"d{n}", "kind": "k", "facts": facts, "messages": said, "answers": [n % 4] if n % 3 else []} for n in range(12)]
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def everyday(hand: Path, seed: int = 0) -> Everyday:
    return Everyday([hand / "everyday" / "towns.txt"], InOrder(), random.Random(seed))  # type: ignore[arg-type]


def test_a_lesson_has_the_fact_that_answers_first_and_others_of_its_memory_behind(hand: Path) -> None:
    source = everyday(hand)
    facts = {fact.statement: fact for fact in read_facts(hand / "everyday" / "towns.txt")}
    sentences = {sentence for fact in facts.values() for sentence in (fact.text or (fact.statement,))}
    lessons = [lesson for _ in range(40) for lesson in source.epoch()]
    asked = [lesson for lesson in lessons if lesson.same is None]
    assert len(asked) == 40 * len(source) and len(lessons) > len(asked)
    for lesson in asked:
        assert lesson.right in ((0,), ()) and 1 <= len(lesson.facts) <= 4 and len({*lesson.facts}) == len(lesson.facts)
        assert len(lesson.facts) >= 2 or not lesson.right  # who is right has a rival
        for fact in lesson.facts[1:]:
            assert fact in sentences
        if lesson.right:
            own = next(fact for statement, fact in facts.items() if lesson.facts[0].endswith(statement))
            assert lesson.span is not None and lesson.facts[0][slice(*lesson.span)] == own.target
        else:
            assert lesson.span is None
    shown = {lesson.facts[0] for lesson in asked if lesson.right}
    assert any("Rome. Acme Rockets runs" in fact for fact in shown), "a sentence is now and then shown behind the one before it"
    same = [lesson for lesson in lessons if lesson.same is not None]
    assert {lesson.same for lesson in same} == {True, False} and all(len(lesson.facts) == 1 for lesson in same)


def test_lessons_are_the_same_for_the_same_seed(hand: Path) -> None:
    assert [*everyday(hand, 1).epoch()] == [*everyday(hand, 1).epoch()] != [*everyday(hand, 2).epoch()]


def test_a_dialogues_right_facts_come_first_and_its_turns_before(hand: Path) -> None:
    rows = [json.loads(line) for line in (hand / "dialogues.jsonl").read_text().splitlines()]
    lessons = [*Dialogues(rows, random.Random(0)).epoch()]
    assert len(lessons) == len(rows) and {lesson.right for lesson in lessons} == {(0,), ()}
    assert {lesson.before for lesson in lessons} == {"where is rome? – red"} and all(2 <= len(lesson.facts) <= 4 for lesson in lessons)


@given(st.integers(0, 9999), st.text(min_size=0, max_size=60))
def test_any_question_may_be_typed_otherwise(seed: int, question: str) -> None:
    if question.strip():
        assert isinstance(varied(random.Random(seed), question, often=1.0), str)
        assert varied(random.Random(seed), question, often=0.0) == question


def test_a_tenth_of_the_dialogues_is_kept_out() -> None:
    left_out = [kept_out(f"domain {n}") for n in range(1000)]
    assert 50 < sum(left_out) < 150 and left_out == [kept_out(f"domain {n}") for n in range(1000)]


def test_sources_are_drawn_by_their_shares_and_read_again_when_they_end(hand: Path, tmp_path: Path) -> None:
    with gzip.open(path := tmp_path / "pairs.jsonl.gz", "wt") as file:
        file.write(json.dumps({"query": "who?", "fact": "ann", "answers": True}) + "\n")
    mixture = Mixture([(everyday(hand), 3), (Pairs(path, random.Random(0)), 1)], random.Random(0))
    drawn = [*islice(mixture, 2000)]
    assert 400 < sum(lesson == Lesson("who?", ("ann",), (0,)) for lesson in drawn) < 600 and min(mixture.rounds) > 5


def pulled(lesson: Lesson) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Gradients of the loss by the log-odds and by the spans' scores, and the loss, at log-odds of 0."""
    rows = [Row([1, 2], slice(0, 1), slice(1, 4), [(0, 3), (4, 7), (8, 9)]) for _ in lesson.facts]
    odds = torch.zeros(len(lesson.facts), 2, requires_grad=True)
    spans = [torch.zeros(3, 2, requires_grad=True) for _ in lesson.facts]
    loss = loss_of([lesson], rows, odds, spans)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's
    assert odds.grad is not None
    return odds.grad, [span.grad if span.grad is not None else torch.zeros(3, 2) for span in spans], loss.detach()


def test_the_loss_pulls_up_what_answers_and_down_what_does_not() -> None:
    right, spans, _ = pulled(Lesson("q", ("a", "b", "c"), (1,), span=(4, 7)))
    assert right[1, 0] < 0 < min(right[0, 0], right[2, 0]) and not right[:, 1].any()
    assert not spans[0].any() and not spans[2].any()
    assert (spans[1][1] < 0).all() and (spans[1][0] > 0).all() and (spans[1][2] > 0).all()
    nothing, spans, _ = pulled(Lesson("q", ("a", "b")))
    assert (nothing[:, 0] > 0).all() and not any(span.any() for span in spans)
    several, _, _ = pulled(Lesson("q", ("a", "b", "c"), (0, 1)))
    assert max(several[0, 0], several[1, 0]) < 0 < several[2, 0]
    for same in (True, False):
        grads, _, _ = pulled(Lesson("q", ("a",), same=same))
        assert not grads[:, 0].any() and (grads[0, 1] < 0) == same


def test_a_steps_loss_is_the_mean_of_its_lessons() -> None:
    lessons = [Lesson("q", ("a", "b"), (0,)), Lesson("q", ("a",), same=True), Lesson("q", ("a", "b", "c"))]
    rows = [Row([1, 2], slice(0, 1), slice(1, 2), [(0, 3)])] * 6
    torch.manual_seed(0)
    odds, spans = torch.randn(6, 2), [torch.zeros(1, 2)] * 6
    alone = [loss_of([lesson], rows, odds[at : at + len(lesson.facts)], spans) for lesson, at in zip(lessons, (0, 2, 3), strict=True)]
    assert float(loss_of(lessons, rows, odds, spans)) == pytest.approx(sum(map(float, alone)) / 3, rel=1e-5)


def test_a_span_is_the_pieces_that_it_touches() -> None:
    row = Row([], slice(0, 0), slice(0, 3), [(0, 3), (4, 7), (8, 9)])
    assert [span_target(row, span) for span in ((0, 3), (4, 9), (5, 6), (3, 4), (2, 5))] == [(0, 0), (1, 2), (1, 1), None, (0, 1)]


def test_what_is_near_is_found_once_and_kept(tmp_path: Path) -> None:
    folder, questions = toys.encoder_folder(tmp_path / "near", "bert"), ["who runs rome", "red river"]
    statements = ["red river", "paris is blue", "who runs rome", "kal"]
    found = Embed(folder, tmp_path).nearest(questions, statements, 2)
    assert [row[0] for row in found] == [2, 0] and len(found[0]) == 2
    (kept,) = tmp_path.glob("near-*.json")
    kept.write_text(json.dumps([[3], [3]]))
    assert Embed(folder, tmp_path).nearest(questions, statements, 2) == [[3], [3]]
    assert Embed(folder).nearest(questions, statements, 2) == found


def test_a_run_writes_an_update_that_is_served_and_gone_on_from(hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_training, "HAND", hand)
    monkeypatch.setattr(reader_training, "SAVED", 1)
    for name in ("scope_answerable", "scope_question_pairs"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"query": f"who runs {town}", "fact": f"zor runs {town}", "answers": True}) + "\n" for town in TOWNS)
    folder = toys.encoder_folder(tmp_path / "base")
    base, said = Weights(folder, fingerprint(folder)), list[str]()
    out, schedule = tmp_path / "runs" / "reader.safetensors", Schedule(minutes=0.02, rate=1e-2, warm=1, pairs=8, threads=1)
    train(base, toys.encoder_folder(tmp_path / "near", "bert"), tmp_path, out, schedule, said.append)
    update = ReaderUpdate.load(out)
    update.check(base.fingerprint)
    assert update.about["steps"] >= 2 and update.about["pairs"] >= 16 and {"towns.txt", "dialogues.jsonl"} < update.about["data"].keys()
    assert said[0] == f"{len(read_facts(hand / 'everyday' / 'towns.txt'))} facts, {2 * 30 + 2} questions"
    assert all(factor.dtype == torch.bfloat16 for factor in update.factors.values())
    assert {name.split(".")[0] for name in update.factors} == {"3"}  # layers below stay as they are
    assert any(factor.float().abs().max() > 0 for name, factor in update.factors.items() if name.endswith(".b"))
    pairs = [Pair("who runs rome", "zor runs rome"), Pair("what is the river of kal", "the river of paris is red", "where is kal")]
    judged = Reader(folder, update)(pairs)

    again = tmp_path / "again.safetensors"
    still = Schedule(minutes=0.005, rate=0.0, warm=1, pairs=8, threads=1)
    train(base, tmp_path / "near", tmp_path, again, still, said.append, start=out)
    assert Reader(folder, ReaderUpdate.load(again))(pairs) == judged
    train(base, tmp_path / "near", tmp_path, again, schedule, said.append, start=out)
    assert Reader(folder, ReaderUpdate.load(again))(pairs) != judged
