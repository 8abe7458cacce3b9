"""The decision: what probabilities of candidates must hold, and how a calibration is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.scope.decision import FIRST, Calibration, Features, Weights, choose, is_unfinished, needs_more, probabilities

LOGIT = st.floats(-60, 60)
LOGITS = st.lists(LOGIT, min_size=1, max_size=9)
THRESHOLD = st.floats(0.01, 1)


@given(LOGITS)
def test_candidates_and_none_of_them_share_one(logits: list[float]) -> None:
    found = probabilities(logits)
    assert all(0 <= p <= 1 for p in found) and sum(found) <= 1 + 1e-9
    if max(logits) < 0:
        assert max(found) <= 0.5  # none of them is likelier than any


@given(LOGITS, st.floats(0.1, 20), st.data())
def test_who_is_likelier_by_itself_is_likelier_and_a_rival_takes_from_it(logits: list[float], more: float, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(logits) - 1))
    raised = [*logits]
    raised[at] += more
    before, after = probabilities(logits), probabilities(raised)
    assert after[at] >= before[at] and all(now <= then for n, (now, then) in enumerate(zip(after, before, strict=True)) if n != at)
    assert all(now <= then for now, then in zip(probabilities([*logits, 0.0]), before, strict=False))
    assert probabilities([2.0]) > probabilities([2.0, 2.0])  # strictly: a rival as good leaves less than half
    assert probabilities([2.0, 2.0])[0] < 0.5


@given(LOGITS, THRESHOLD)
def test_the_second_round_is_read_only_where_the_first_has_nothing(logits: list[float], threshold: float) -> None:
    first, chosen = logits[:FIRST], choose(logits, threshold)
    assert needs_more(first, threshold) == (max(probabilities(first)) < threshold)
    assert len(chosen.probabilities) == (len(logits) if needs_more(first, threshold) else len(first))
    assert chosen.index is not None and chosen.probability == max(chosen.probabilities) == chosen.probabilities[chosen.index]


def test_nothing_is_chosen_of_nothing() -> None:
    assert choose([], 0.5).index is None and needs_more([], 0.5) and probabilities([]) == []


@given(st.floats(0, 1), THRESHOLD, THRESHOLD, st.none() | THRESHOLD)
def test_a_decision_is_in_from_the_threshold_and_maybe_below_it(p: float, threshold: float, maybe: float, own: float | None) -> None:
    told, least = Calibration(threshold=threshold, maybe=maybe).decision(p, own), threshold if own is None else own
    assert (told == "in") == (p >= least)
    assert (told == "maybe") == (least > p >= maybe)


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [("The capital of France is", True), ("loan period", True), ("Who runs it?", False), ("It runs.", False), ("“It runs.”", False),
     ("谁？", False), ("कौन है।", False), ("wait…", False), ("", True)],
)  # fmt: skip
def test_a_beginning_has_no_mark_that_ends_a_sentence(text: str, unfinished: bool) -> None:
    assert is_unfinished(text) == unfinished


def test_two_beginnings_are_weighed_otherwise_than_a_question() -> None:
    calibration, seen = Calibration(Weights(bias=1.0), Weights(bias=-1.0)), Features(0.5, 0.9, 0.8)
    assert calibration.logit("Who runs it?", "The head of it is", seen) == 1.5 == calibration.logit("it runs", "Who runs it?", seen)
    assert calibration.logit("The boss of it is", "The head of it is", seen) == -0.5
    assert Weights(2.0, 0.5, 0.25, -1.0).logit(seen) == pytest.approx(1.0 + 0.45 + 0.2 - 1.0)


def test_a_calibration_is_read_as_it_was_written_and_fits_one_reader(tmp_path: Path) -> None:
    written = Calibration(Weights(0.5, 1.0, 2.0, -3.0), Weights(0.25), 0.625, 0.125, 0.3, {"reader": "r", "errors": [{"threshold": 0.5}]})
    written.save(path := tmp_path / "calibration.json")
    assert Calibration.load(path) == written
    assert written.fits("r") and not written.fits("s") and not Calibration().fits("r")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "larimar-calibration/0"}))
    with pytest.raises(ValueError, match="no calibration of format"):
        Calibration.load(path)
