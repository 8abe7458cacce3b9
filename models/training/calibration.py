"""Fitting what turns a reader's log-odds into probabilities, and the threshold, on facts that it was not trained on.

Each file is one memory, as a tenant would have it; each question meets the candidates that the service would read.
The weights minimise −log p of the fact that answers, or of "none of them" for near misses, both kinds with equal weight.
The threshold is the lowest at which at most a given share of the near misses is let in.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.encoder import Encoder
from models.evaluation.everyday import EverydayFact, read_facts
from models.model_files import ScopeParts
from models.scope.conversation import as_before
from models.scope.decision import BY_ADDRESS, BY_STATEMENT, FIRST, Calibration, Features, Weights, choose, is_unfinished, probabilities
from models.scope.reader import Pair, PairReader

Keys = Callable[[Sequence[str]], Tensor]
SHIPPED = sorted((Path(__file__).parent / "data" / "calibration").iterdir())  # which nothing is trained on
LET_IN, MAY_LET_IN = 0.05, 0.15  # shares of near misses at the threshold, and at that of "maybe"


@dataclass(frozen=True)
class Ask:
    """A question of a memory.

    Attributes:
        fact: index of the one that answers; None for a near miss.
        also: of others that are asked for as well.
    """

    question: str
    fact: int | None
    form: str
    before: str = ""
    also: tuple[int, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Facts as (prompt, statement), and what is asked of them."""

    name: str
    facts: Sequence[tuple[str, str]]
    asks: Sequence[Ask]


@dataclass
class Row:
    """An ask and its candidates, in the order in which they are read."""

    ask: Ask
    candidates: list[int]
    prompts: list[str]
    features: list[Features] = field(default_factory=list)

    @property
    def right(self) -> int | None:
        """The candidate that answers; None if none does, or if it was not found."""
        return self.candidates.index(self.ask.fact) if self.ask.fact in self.candidates else None


def everyday(path: Path) -> Memory:
    """A file of everyday facts as one memory."""
    facts = read_facts(path)
    stored: dict[str, str] = {}
    for fact in facts:
        for sentence in fact.text:
            stored.setdefault(sentence, sentence)
        if not fact.text:
            stored.setdefault(fact.statement, fact.prompt)
    place = {statement: n for n, statement in enumerate(stored)}
    asks = [Ask(q, place[f.statement], _form(f)) for f in facts for q in f.questions]
    asks += [Ask(q, None, _form(f)) for f in facts for q in f.near]
    return Memory(path.name.split(".")[0], [(prompt, statement) for statement, prompt in stored.items()], asks)


def _form(fact: EverydayFact) -> str:
    head, colon, _ = fact.domain.partition(":")
    return head if colon and len(head) == 2 else fact.form


def dialogues(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> list[Memory]:
    """Dialogues as JSON lines, each with a memory of its own: what the last message asks after the turns before it.

    Args:
        wanted: which domains are taken.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not wanted(row["domain"]):
            continue
        facts = [(fact["prompt"], f"{fact['prompt']} {fact['target']}") for fact in row["facts"]]
        first, *others = row["answers"] or [None]
        ask = Ask(row["messages"][-1]["content"], first, row["kind"], as_before(row["messages"][:-1]), tuple(others))
        found.append(Memory("dialogues", facts, [ask]))
    return found


def counterfact(path: Path, count: int, together: bool, seed: int = 0) -> list[Memory]:
    """CounterFact's records, each in a memory of its own or all together: rephrases answer, neighbourhood prompts do not."""
    with gzip.open(path, "rt") as lines:
        rows = [r for r in {r["prompt"].casefold(): r for r in map(json.loads, lines)}.values() if r["target_new"]]
    rows = random.Random(seed).sample(rows, count)
    facts = [(r["prompt"], f"{r['prompt']} {r['target_new']}") for r in rows]
    asks = [[Ask(r["rephrase_prompt"], n, "rephrase"), Ask(r["locality_prompt"], None, "neighbour")] for n, r in enumerate(rows)]
    if together:
        return [Memory(f"counterfact {count}", facts, [ask for pair in asks for ask in pair])]
    alone = [[Ask(a.question, None if a.fact is None else 0, a.form) for a in pair] for pair in asks]
    return [Memory("counterfact 1", [fact], pair) for fact, pair in zip(facts, alone, strict=True)]


def candidates(memory: Memory, address: Keys, statement: Keys) -> list[Row]:
    """What the service would read for each ask, and how near it lies."""
    prompts, statements = [p for p, _ in memory.facts], [s for _, s in memory.facts]
    asked = [ask.question for ask in memory.asks]
    by_address = address(asked) @ address(prompts).T  # (asks, facts)
    by_statement = statement([f"{a.before} {a.question}".strip() for a in memory.asks]) @ statement(statements).T
    rows = []
    for ask, near, like in zip(memory.asks, by_address, by_statement, strict=True):
        nearest = (row.topk(min(count, len(row))).indices.tolist() for row, count in ((like, BY_STATEMENT), (near, BY_ADDRESS)))
        found = dict.fromkeys(index for indices in nearest for index in indices)
        order = sorted(found, key=lambda i: -max(float(near[i]), float(like[i])))
        row = Row(ask, order, [prompts[i] for i in order])
        row.features = [Features(0.0, float(near[i]), float(like[i])) for i in order]
        rows.append(row)
    return rows


def read_rows(memory: Memory, rows: Sequence[Row], reader: PairReader, together: int = 256) -> None:
    """Put the reader's log-odds into the rows."""
    wanted = [(row, n, Pair(row.ask.question, memory.facts[i][1], row.ask.before)) for row in rows for n, i in enumerate(row.candidates)]
    for at in range(0, len(wanted), together):
        part = wanted[at : at + together]
        for (row, n, _), judged in zip(part, reader([pair for _, _, pair in part]), strict=True):
            row.features[n] = Features(judged.answers, row.features[n].address, row.features[n].statement)


def unfinished(row: Row) -> list[bool]:
    own = is_unfinished(row.ask.question)
    return [own and is_unfinished(prompt) for prompt in row.prompts]


def fit(rows: Sequence[Row]) -> Calibration:
    """Weights for both branches by maximum likelihood."""
    usable = [row for row in rows if row.features and (row.ask.fact is None or row.right is not None)]
    names = ("scale", "address", "statement", "bias")
    params = torch.zeros(2, 4, dtype=torch.float64)
    params[:, 0] = 1.0
    params.requires_grad_()
    width = max(len(row.features) for row in usable)
    seen = torch.zeros(len(usable), width, 4, dtype=torch.float64)
    branch = torch.zeros(len(usable), width, dtype=torch.long)
    there = torch.zeros(len(usable), width, dtype=torch.bool)
    target = torch.zeros(len(usable), dtype=torch.long)
    for n, row in enumerate(usable):
        for k, (f, b) in enumerate(zip(row.features, unfinished(row), strict=True)):
            seen[n, k] = torch.tensor([f.answers, f.address, f.statement, 1.0])
            branch[n, k], there[n, k] = int(b), True
        target[n] = 0 if row.right is None else row.right + 1
    weight = torch.where(target > 0, 1 / (target > 0).sum(), 1 / (target == 0).sum())
    optimiser = torch.optim.LBFGS([params], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        z = (seen * params[branch]).sum(-1).masked_fill(~there, -torch.inf)
        chosen = torch.cat([torch.zeros(len(z), 1, dtype=z.dtype), z], 1).log_softmax(1).gather(1, target[:, None])[:, 0]
        out = -(weight * chosen).sum() / 2 + 1e-3 * (params[:, 1:3] ** 2).sum()
        out.backward()  # type: ignore[no-untyped-call]  # torch's
        return out

    optimiser.step(loss)  # type: ignore[no-untyped-call]  # torch's
    question, unfinished_ = (Weights(**dict(zip(names, map(float, row), strict=True))) for row in params.detach())
    return Calibration(question, unfinished_)


@dataclass(frozen=True)
class Tally:
    """Shares of questions read rightly, answered with another fact, and of near misses let in."""

    right: float
    wrong: float
    let_in: float
    questions: int
    near: int


def _logits(row: Row, calibration: Calibration) -> tuple[list[int], list[float]]:
    """The candidates that are near enough to be read, and their logits."""
    kept = [n for n, f in enumerate(row.features) if max(f.address, f.statement) >= calibration.nearness]
    return kept, [calibration.logit(row.ask.question, row.prompts[n], row.features[n]) for n in kept]


def outcome(row: Row, calibration: Calibration, threshold: float) -> tuple[bool, bool]:
    """Whether the row is in scope, and with the fact that answers."""
    kept, logits = _logits(row, calibration)
    chosen = choose(logits, threshold)
    spoke = chosen.index is not None and chosen.probability >= threshold
    said = row.candidates[kept[chosen.index]] if chosen.index is not None else None
    return spoke, spoke and said is not None and said in (row.ask.fact, *row.ask.also)


def tally(rows: Iterable[Row], calibration: Calibration, threshold: float | None = None) -> Tally:
    least = calibration.threshold if threshold is None else threshold
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        spoke, right = outcome(row, calibration, least)
        if row.ask.fact is None:
            counts["near"] += 1
            counts["let"] += spoke
        else:
            counts["asked"] += 1
            counts["right"] += right
            counts["wrong"] += spoke and not right
    asked, near = max(1, counts["asked"]), max(1, counts["near"])
    return Tally(100 * counts["right"] / asked, 100 * counts["wrong"] / asked, 100 * counts["let"] / near, counts["asked"], counts["near"])


def threshold_for(rows: Sequence[Row], calibration: Calibration, let_in: float) -> float:
    """The lowest probability at which at most this share of the near misses is let in."""
    near = [row for row in rows if row.ask.fact is None]
    highest = []
    for row in near:
        _, logits = _logits(row, calibration)
        rounds = probabilities(logits[:FIRST]), probabilities(logits)  # it is let in by the first, or else by both together
        highest.append(max(max(found, default=0.0) for found in rounds))
    highest.sort(reverse=True)
    allowed = int(let_in * len(highest))
    return round(min(0.99, highest[allowed] + 1e-3), 3) if allowed < len(highest) else 0.01


def calibrated(
    scope: ScopeParts,
    encoder: Encoder,
    data: Sequence[Path],
    *,
    counterfact: Path | None,
    check: Sequence[Path],
    let_in: float,
    asks: int | None,
    rows: Path | None,
    say: Callable[[str], None],
) -> Calibration:
    """Fit a calibration on files of everyday facts, say what it does on them and on those it has not seen, by form.

    Args:
        counterfact: records for the branch of unfinished statements; without them it is that of questions.
        check: files that nothing is fitted on; of each at most `asks` questions are asked, drawn from all.
        rows: where every ask is written, with what was read of it.
    """

    def read(memory: Memory, count: int | None = None) -> list[Row]:
        asks = memory.asks if count is None or count >= len(memory.asks) else random.Random(0).sample(memory.asks, count)
        found = candidates(replace(memory, asks=asks), encoder.keys, scope.statements.meanings)
        read_rows(memory, found, scope.reader)
        say(f"{memory.name}: {len(memory.facts)} facts, {len(found)} questions read")
        return found

    sets = {path: read(everyday(path)) for path in data}
    fitted = [row for found in sets.values() for row in found]
    records = [row for memory in counterfact_memories(counterfact) for row in read(memory)] if counterfact else []
    calibration = replace(fit([*fitted, *records]), nearness=nearness_for(fitted))
    hashes = {path.name: sha256(path) for path in data}
    about: dict[str, Any] = {"reader": scope.reader.fingerprint, "encoder": encoder.fingerprint, "data": hashes}
    calibration = replace(
        calibration,
        threshold=threshold_for(fitted, calibration, let_in),
        maybe=threshold_for(fitted, calibration, MAY_LET_IN),
    )
    errors = [(share / 100, tally(fitted, calibration, share / 100)) for share in range(5, 100, 5)]
    about["errors"] = [{"threshold": t} | {n: round(v, 1) for n, v in asdict(e).items()} for t, e in errors]
    calibration = replace(calibration, about=about)
    unseen = {path: read(everyday(path), asks) for path in check}
    groups = [*((path.name, found) for path, found in (sets | unseen).items()), *([("counterfact", records)] if records else [])]
    for name, found in groups:
        for form in ["", *sorted({row.ask.form for row in found})]:
            some = [row for row in found if not form or row.ask.form == form]
            t = tally(some, calibration)
            say(f"{name} {form or 'all'}: right {t.right:.1f}, wrong {t.wrong:.1f} of {t.questions}; let in {t.let_in:.1f} of {t.near}")
    if rows is not None:
        with rows.open("w", encoding="utf-8") as file:
            for name, found in groups:
                file.writelines(json.dumps(_told(name, row, calibration), ensure_ascii=False) + "\n" for row in found)
    return calibration


def counterfact_memories(path: Path, count: int = 300) -> list[Memory]:
    """Records in memories of their own, and the same together."""
    return [*counterfact(path, count, together=False), *counterfact(path, count, together=True)]


def nearness_for(rows: Sequence[Row]) -> float:
    """The cosine that all but one in five hundred of the facts that answer lie above."""
    near = sorted(max(f.address, f.statement) for row in rows if row.right is not None for f in [row.features[row.right]])
    return round(near[len(near) // 500], 3) if near else 0.0


def _told(name: str, row: Row, calibration: Calibration) -> dict[str, object]:
    spoke, right = outcome(row, calibration, calibration.threshold)
    read = [[c, *f] for c, f in zip(row.prompts, ((x.answers, x.address, x.statement) for x in row.features), strict=True)]
    asked = {"file": name, "form": row.ask.form, "question": row.ask.question, "near": row.ask.fact is None}
    return asked | {"in_scope": spoke, "right": right, "read": read}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
