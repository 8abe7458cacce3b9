"""Edit success, paraphrase and neighbourhood of one system on one record.

s          P(target) > P(truth) by mean token log-probability (for neighbours: P(right answer) > P(target))
exact      every token of the target is the greedy choice, teacher-forced
generated  free greedy generation starts with the target
unchanged  greedy generation of 16 tokens is the plain model's
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from models.evaluation.examiner import Examiner
from models.evaluation.records import Record
from models.evaluation.systems import Ask, System

UNCHANGED_TOKENS = 16
Row = dict[str, dict[str, float]]  # examined → measure → rate in [0, 1]


def examine(examiner: Examiner, system: System, records: Sequence[Record]) -> list[Row]:
    """One row a record; measures that the record's format has no answer for are left out."""
    asked = [_Asked(system, record) for record in records]
    rows: list[Row] = [{} for _ in records]
    for name in ("edit", "rephrase"):
        _taught(examiner, name, asked, rows)
    _neighbours(examiner, asked, rows)
    return rows


class _Asked:
    """A record and what a system makes of its prompts."""

    def __init__(self, system: System, record: Record) -> None:
        self.record = record
        neighbours = [prompt for prompt, _ in record.neighbours]
        asks = system.ask(record, [record.prompt, *record.rephrases, *neighbours])
        self.of = {"edit": asks[:1], "rephrase": asks[1 : 1 + len(record.rephrases)]}
        self.neighbours = list(zip(record.neighbours, asks[1 + len(record.rephrases) :], strict=True))


def _taught(examiner: Examiner, name: str, asked: Sequence[_Asked], rows: list[Row]) -> None:
    flat = [(row, a.record, ask) for row, a in enumerate(asked) for ask in a.of[name]]
    asks = [ask for _, _, ask in flat]
    longest = max((len(examiner.model.decoder.answer_tokens(a.record.target)) for a in asked), default=0)
    forced = examiner.force(asks, [record.target for _, record, _ in flat])
    said = examiner.say(asks, max(UNCHANGED_TOKENS, 8 * -(-(longest + 4) // 8)))
    measured: list[dict[str, list[float]]] = [{} for _ in rows]
    for (row, record, _), f, text in zip(flat, forced, said, strict=True):
        measured[row].setdefault("exact", []).append(f.exact)
        measured[row].setdefault("generated", []).append(text.strip().startswith(record.target.strip()))
    against = [(row, record, ask, f) for (row, record, ask), f in zip(flat, forced, strict=True) if record.truth]
    truths = examiner.force([ask for _, _, ask, _ in against], [record.truth for _, record, _, _ in against])
    for (row, _, _, f), truth in zip(against, truths, strict=True):
        measured[row].setdefault("s", []).append(f.mean_log_prob > truth.mean_log_prob)
    for examined, values in zip(rows, measured, strict=True):
        examined[name] = {measure: _mean(v) for measure, v in values.items()}


def _neighbours(examiner: Examiner, asked: Sequence[_Asked], rows: list[Row]) -> None:
    flat = [(row, a.record, prompt, truth, ask) for row, a in enumerate(asked) for (prompt, truth), ask in a.neighbours]
    said = examiner.say([ask for *_, ask in flat], UNCHANGED_TOKENS)
    plain = examiner.say([Ask(prompt) for _, _, prompt, _, _ in flat], UNCHANGED_TOKENS)
    measured: list[dict[str, list[float]]] = [{} for _ in rows]
    for (row, *_), text, untouched in zip(flat, said, plain, strict=True):
        measured[row].setdefault("unchanged", []).append(text == untouched)
    against = [item for item in flat if item[3]]
    right = examiner.force([ask for *_, ask in against], [truth for _, _, _, truth, _ in against])
    wrong = examiner.force([ask for *_, ask in against], [record.target for _, record, *_ in against])
    for (row, *_), r, w in zip(against, right, wrong, strict=True):
        measured[row].setdefault("s", []).append(r.mean_log_prob > w.mean_log_prob)
    for examined, values in zip(rows, measured, strict=True):
        examined["neighbourhood"] = {measure: _mean(v) for measure, v in values.items()}


def _mean(values: Iterable[float]) -> float:
    found = [float(v) for v in values]
    return sum(found) / len(found)


def summarise(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> Row:
    """Mean over records of every measure that was taken."""
    out: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for examined, measures in row.items():
            for measure, value in measures.items():
                out.setdefault(examined, {}).setdefault(measure, []).append(value)
    return {examined: {measure: _mean(values) for measure, values in measures.items()} for examined, measures in out.items()}
