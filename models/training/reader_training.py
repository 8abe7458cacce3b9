"""Training the reader: a low-rank update of a public sentence encoder, and a head, from questions beside facts.

A *lesson* is one question beside a few facts of the same memory, as a server would see them: the fact that answers it (or
none), and the nearest others. The loss is half the cross-entropy of choosing among those facts and none (none has log-odds
0), half the binary one of each pair; spans and "ask the same" have losses of their own where a lesson knows them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from models.encoder import read
from models.evaluation.everyday import EverydayFact, read_facts
from models.scope.conversation import as_before
from models.scope.reader import Head, Pair, PairTokenizer, ReaderUpdate, Row
from models.scope.transformer import Transformer
from models.training.encoder_training import vectors
from models.weights import Weights

HAND = Path(__file__).parent / "data"  # facts, questions and dialogues that were written by hand
KEPT_OUT = ("assistant", "helpdesk", "texts_2", "languages_2")  # whole files by other hands: never trained on, never tuned on
RANK = 32
SCALE = 2.0
SAVED = 200  # steps between two checkpoints
FIRST_LAYER = 3  # layers below it stay as they are
_STOP = frozenset(
    "what who where when which how is are was were do does did the a an of in on for to by at with can could will would should "
    "i we my our it its that this there from has have had be been and".split()
)
_AUXILIARY = re.compile(r"^(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had|may|must|am)\b", re.I)


def training_files() -> list[Path]:
    """The files of everyday facts in English that are trained on."""
    return [path for path in sorted((HAND / "everyday").glob("*.txt")) if path.stem not in KEPT_OUT and "language" not in path.stem]


class Source(Protocol):
    """Lessons, read to their end and then again."""

    def epoch(self) -> Iterator[Lesson]: ...


@dataclass(frozen=True)
class Lesson:
    """One question beside facts.

    Attributes:
        facts: statements; right: which of them answer.
        span: of the first right fact, the characters that answer.
        same: instead of all that, whether the question and `facts[0]` ask the same.
    """

    question: str
    facts: tuple[str, ...]
    right: tuple[int, ...] = ()
    span: tuple[int, int] | None = None
    before: str = ""
    same: bool | None = None


OPENERS = ("Do you know ", "Can you tell me ", "Quick question: ", "Hi, ", "Please tell me ", "I need to know ", "hey, ", "Question: ")


def _slip(rng: random.Random, text: str) -> str:
    at = rng.randrange(3, len(text) - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _openers(q: str) -> str:
    return q[0].lower() + q[1:] if q.split()[0].lower() in _STOP else q


def varied(rng: random.Random, q: str, often: float = 0.4) -> str:
    """A question as somebody types it in a hurry, or politely; most often as it is. Style says nothing of the label: both
    kinds of question pass through here."""
    if rng.random() >= often:
        return q
    draw = rng.random()
    if draw < 0.3:
        return q.lower().rstrip("?. ")
    if draw < 0.5:
        return q.lower()
    if draw < 0.65 and len(q) > 14:
        return _slip(rng, q)
    if draw < 0.8 and q.isascii():
        return rng.choice(OPENERS) + _openers(q)
    if draw < 0.88 and q.isascii():
        kept = [word for word in re.findall(r"[\w'-]+", q) if word.lower() not in _STOP]
        return " ".join(kept).lower() if len(kept) >= 3 else q
    return q.upper() if draw < 0.9 else q


class Everyday:
    """Lessons of hand-written facts; each file is one memory. Negatives are the nearest facts of that memory by cosine."""

    def __init__(self, files: Sequence[Path], embed: Embed, rng: random.Random) -> None:
        self.rng = rng
        self.facts: list[tuple[EverydayFact, int]] = []
        self.statements: list[list[str]] = []
        self.near: dict[tuple[int, str], list[int]] = {}
        for number, path in enumerate(files):
            facts = read_facts(path)
            found = dict.fromkeys(s for fact in facts for s in (fact.text or (fact.statement,)))
            statements = list(found)
            questions = list(dict.fromkeys(q for fact in facts for q in (*fact.questions, *fact.near)))
            self.near |= {(number, q): row for q, row in zip(questions, embed.nearest(questions, statements), strict=True)}
            self.statements.append(statements)
            self.facts += [(fact, number) for fact in facts]
        self.domains = [{f.statement: f.domain for f, n in self.facts if n == number} for number in range(len(files))]

    def __len__(self) -> int:
        return sum(len(fact.questions) + len(fact.near) for fact, _ in self.facts)

    def epoch(self) -> Iterator[Lesson]:
        asked = ((fact, number, qs, right) for fact, number in self.facts for right, qs in ((True, fact.questions), (False, fact.near)))
        work = [(fact, number, q, right) for fact, number, qs, right in asked for q in qs]
        self.rng.shuffle(work)
        for fact, number, q, right in work:
            yield self._lesson(fact, number, q, right)
            if self.rng.random() < 0.06:
                yield self._same(fact)

    def _lesson(self, fact: EverydayFact, number: int, q: str, right: bool) -> Lesson:
        rng, own = self.rng, set(fact.text or (fact.statement,))
        others = [s for s in (self.statements[number][i] for i in self.near[number, q]) if s not in own]
        shown, shift = fact.statement, 0
        if fact.text and (at := fact.text.index(fact.statement)) and rng.random() < 0.15:
            shown, shift = f"{fact.text[at - 1]} {fact.statement}", len(fact.text[at - 1]) + 1
        facts = [shown]
        if fact.text and len(fact.text) > 1 and rng.random() < (0.8 if right else 0.25):
            facts.append(rng.choice([s for s in fact.text if s != fact.statement]))
        if right:
            facts.append(rng.choice(others[:3]))
            if rng.random() < 0.4:
                facts.append(rng.choice(others[3:]))
        elif rng.random() < 0.35:
            same = [s for s in others if self.domains[number].get(s) == fact.domain]
            facts += same[:1]
        if not right and rng.random() < 0.05 and len(facts) > 1:
            facts.pop(0)
        span = fact.span and (fact.span[0] + shift, fact.span[1] + shift)
        return Lesson(varied(rng, q), tuple(facts), (0,) if right else (), span if right else None)

    def _same(self, fact: EverydayFact) -> Lesson:
        """Whether two texts ask the same: of one fact's, those that want its target; near misses want another."""
        rng = self.rng
        asking = [q for q in fact.questions if not _AUXILIARY.match(q)]
        if fact.form != "text":
            asking.append(fact.prompt)
        if rng.random() < 0.5 and len(asking) > 1:
            one, other = rng.sample(asking, 2)
            return Lesson(varied(rng, one), (other,), same=True)
        one, other = rng.choice(asking or fact.questions), rng.choice(fact.near)
        return Lesson(one, (other,), same=False) if rng.random() < 0.5 else Lesson(varied(rng, other), (one,), same=False)


class Pairs:
    """Lessons of one pair each, from JSON lines of fact, query and answers."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            self.rows = [json.loads(line) for line in lines]
        self.rng = rng

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self) -> Iterator[Lesson]:
        self.rng.shuffle(self.rows)
        for row in self.rows:
            yield Lesson(row["query"], (row["fact"],), (0,) if row["answers"] else ())


def kept_out(domain: str) -> bool:
    """Whether the dialogues of a domain are left out of training: a tenth of the domains."""
    return hashlib.sha256(domain.encode()).digest()[0] % 10 == 0


class Dialogues:
    """Lessons of dialogues: the last message after the turns before it, beside all facts of the dialogue."""

    def __init__(self, rows: Sequence[dict[str, Any]], rng: random.Random) -> None:
        self.rows, self.rng = list(rows), rng

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self) -> Iterator[Lesson]:
        self.rng.shuffle(self.rows)
        for row in self.rows:
            facts = [(f"{f['prompt']} {f['target']}", n in row["answers"]) for n, f in enumerate(row["facts"])]
            self.rng.shuffle(facts)
            facts.sort(key=lambda f: not f[1])
            facts = facts[: self.rng.choice((2, 3, 4))]
            last = row["messages"][-1]["content"]
            right = tuple(n for n, (_, answers) in enumerate(facts) if answers)
            before = as_before(row["messages"][:-1])
            yield Lesson(varied(self.rng, last, 0.25), tuple(f for f, _ in facts), right, before=before)


class Mixture:
    """Draws lessons from several sources, each by its share, each read to its end before it begins again."""

    def __init__(self, sources: Sequence[tuple[Source, float]], rng: random.Random) -> None:
        self.sources, self.shares = [s for s, _ in sources], [w for _, w in sources]
        self.rng, self.rounds = rng, [0] * len(sources)
        self._open: list[Iterator[Lesson]] = [iter(()) for _ in sources]

    def __iter__(self) -> Iterator[Lesson]:
        while True:
            k = self.rng.choices(range(len(self.sources)), self.shares)[0]
            lesson = next(self._open[k], None)
            if lesson is None:
                self._open[k] = self.sources[k].epoch()
                self.rounds[k] += 1
                lesson = next(self._open[k])
            yield lesson


class Embed:
    """Texts to unit vectors (n, d) of a small sentence encoder: what is near by meaning, as a server finds its candidates.

    Args:
        kept: a folder that keeps what was found near, since it takes minutes; None: nothing is kept.
    """

    def __init__(self, folder: Path, kept: Path | None = None) -> None:
        self.trunk, self.tokenizer = read(folder)
        self.kept = kept

    def nearest(self, questions: Sequence[str], statements: Sequence[str], count: int = 16) -> list[list[int]]:
        """For each question the nearest statements, nearest first."""
        name = hashlib.sha256(json.dumps([questions, statements, count]).encode()).hexdigest()[:24]
        path = None if self.kept is None else self.kept / f"near-{name}.json"
        if path is not None and path.is_file():
            found: list[list[int]] = json.loads(path.read_text())
            return found
        found = (self(questions) @ self(statements).T).topk(min(count, len(statements))).indices.tolist()
        if path is not None:
            path.write_text(json.dumps(found))
        return found

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.zeros(len(texts), self.trunk.config.hidden_size)
        for at in range(0, len(order), 64):
            part = order[at : at + 64]
            out[part] = vectors(self.trunk, self.tokenizer, [texts[i] for i in part], fast=True)
        return out


def span_target(row: Row, span: tuple[int, int]) -> tuple[int, int] | None:
    """First and last piece of the fact that the characters touch."""
    inside = [n for n, (a, b) in enumerate(row.offsets) if a < span[1] and b > span[0]]
    return (inside[0], inside[-1]) if inside else None


def loss_of(lessons: Sequence[Lesson], rows: Sequence[Row], odds: Tensor, spans: Sequence[Tensor], smooth: float = 0.03) -> Tensor:
    """Mean loss of a step's lessons. `odds` (n, 2) and `spans` are of `rows`, which are the lessons' pairs in order."""
    losses: list[Tensor] = []
    at = 0
    for lesson in lessons:
        own = odds[at : at + len(lesson.facts)]
        if lesson.same is not None:
            losses.append(binary_cross_entropy_with_logits(own[0, 1], torch.tensor((1 - 2 * smooth) * lesson.same + smooth)))
        else:
            answers = own[:, 0]
            right = torch.zeros(len(answers))
            right[list(lesson.right)] = 1.0
            pointwise = binary_cross_entropy_with_logits(answers, right * (1 - 2 * smooth) + smooth)
            against_none = torch.cat([torch.zeros(1), answers]).log_softmax(0)
            chosen = against_none[[n + 1 for n in lesson.right]].logsumexp(0) if lesson.right else against_none[0]
            losses.append(0.5 * pointwise * len(answers) ** 0.5 - 0.5 * chosen)
            if lesson.span is not None and lesson.right and (wanted := span_target(rows[at + lesson.right[0]], lesson.span)):
                scores = spans[at + lesson.right[0]]
                losses[-1] = losses[-1] + 0.1 * cross_entropy(scores.T, torch.tensor(wanted))
        at += len(lesson.facts)
    return torch.stack(losses).mean()


class Learner:
    """What is trained: factors beside the trunk's products, and the head."""

    def __init__(self, trunk: Transformer, tokenizer: PairTokenizer, rank: int = RANK, first: int = FIRST_LAYER) -> None:
        self.trunk, self.tokenizer, self.head = trunk, tokenizer, Head(trunk.width)
        self.factors: dict[str, Tensor] = {}
        for name, (out, into) in trunk.shapes().items():
            if int(name.split(".")[0]) >= first:
                self.factors[f"{name}.a"] = (torch.randn(rank, into) / into**0.5).requires_grad_()
                self.factors[f"{name}.b"] = torch.zeros(out, rank).requires_grad_()

    def scaled(self) -> dict[str, Tensor]:
        return {n: (f * SCALE if n.endswith(".b") else f).bfloat16() for n, f in self.factors.items()}

    def __call__(self, rows: Sequence[Row]) -> tuple[Tensor, list[Tensor]]:
        factors = self.scaled()
        texts = [row.ids for row in rows]
        said: tuple[Tensor, list[Tensor]] = self.head(self.trunk(texts, factors), rows)
        return said

    @torch.no_grad()
    def odds(self, pairs: Sequence[Pair], which: int = 0, batch: int = 32) -> list[float]:
        rows = [self.tokenizer(pair) for pair in pairs]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        out = [0.0] * len(rows)
        for at in range(0, len(order), batch):
            part = order[at : at + batch]
            for i, value in zip(part, self([rows[i] for i in part])[0][:, which].tolist(), strict=True):
                out[i] = value
        return out

    def update(self, about: dict[str, Any]) -> ReaderUpdate:
        """What was learnt so far."""
        factors = {n: f.detach().contiguous() for n, f in self.scaled().items()}
        return ReaderUpdate(factors, {n: p.detach().clone() for n, p in self.head.state_dict().items()}, about)

    @torch.no_grad()
    def resume(self, update: ReaderUpdate) -> None:
        """Go on from an update of the same rank and layers."""
        for name, factor in self.factors.items():
            factor.copy_(update.factors[name].float() / (SCALE if name.endswith(".b") else 1.0))
        self.head.load_state_dict(dict(update.head))


@dataclass(frozen=True)
class Schedule:
    """Attributes: pairs: of a step; shares: of everyday facts, answerable sentences, question pairs and dialogues in the mixture."""

    minutes: float = 90.0
    rate: float = 4e-4
    warm: int = 60
    floor: float = 0.02
    pairs: int = 32
    shares: tuple[float, float, float, float] = (80, 7, 4, 9)
    seed: int = 0
    threads: int = 2

    def learning_rate(self, step: int, share: float) -> float:
        """Warm-up over `warm` steps, then a half cosine over the time to `floor` of the rate."""
        return self.rate * min(1.0, (step + 1) / self.warm) * (self.floor + (1 - self.floor) * (0.5 + 0.5 * math.cos(math.pi * share)))


def train(
    base: Weights,
    near: Path,
    data: Path,
    out: Path,
    schedule: Schedule,
    report: Callable[[str], None],
    *,
    start: Path | None = None,
) -> None:
    """Train a reader's update and write it every `SAVED` steps, and at the end.

    Args:
        base: the public weights it is of.
        near: folder of the sentence encoder that finds the negatives.
        data: folder with the public scope_answerable and scope_question_pairs.
        start: an update to go on from.
    """
    torch.set_num_threads(schedule.threads)
    torch.manual_seed(schedule.seed)
    rng, out_folder = random.Random(schedule.seed), out.parent
    out_folder.mkdir(parents=True, exist_ok=True)
    learner = Learner(Transformer(base.folder), PairTokenizer(base.folder))
    if start is not None:
        learner.resume(ReaderUpdate.load(start))
    files, dialogues_file = training_files(), HAND / "dialogues.jsonl"
    everyday = Everyday(files, Embed(near, out_folder), rng)
    report(f"{len(everyday.facts)} facts, {len(everyday)} questions")
    public = [data / "scope_answerable.jsonl.gz", data / "scope_question_pairs.jsonl.gz"]
    rows = [json.loads(line) for line in dialogues_file.read_text(encoding="utf-8").splitlines()]
    dialogues = Dialogues([row for row in rows if not kept_out(row["domain"])], rng)
    sources: list[Source] = [everyday, *(Pairs(path, rng) for path in public), dialogues]
    mixture = Mixture(list(zip(sources, schedule.shares, strict=True)), rng)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (*files, *public, dialogues_file)}
    about = {"weights": base.folder.name, "weights_fingerprint": base.fingerprint, "data": hashes, "schedule": asdict(schedule)}
    params = [*learner.factors.values(), *learner.head.parameters()]
    groups = [{"params": list(learner.factors.values()), "k": 1.0}, {"params": list(learner.head.parameters()), "k": 2.0}]
    optimiser = torch.optim.AdamW(groups, lr=schedule.rate, weight_decay=0.01, betas=(0.9, 0.98))
    stream, began, step, seen, running = iter(mixture), time.monotonic(), 0, 0, 0.0
    while (share := (time.monotonic() - began) / 60 / schedule.minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate(step, share) * group["k"]
        lessons: list[Lesson] = []
        while sum(len(lesson.facts) for lesson in lessons) < schedule.pairs:
            lessons.append(next(stream))
        batch = [learner.tokenizer(Pair(lesson.question, fact, lesson.before)) for lesson in lessons for fact in lesson.facts]
        loss = loss_of(lessons, batch, *learner(batch))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        step, seen = step + 1, seen + len(batch)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 25 == 0:
            report(f"step {step}, {seen} pairs, loss {running:.4f}, {(time.monotonic() - began) / 60:.1f} min, rounds {mixture.rounds}")
        if step % SAVED == 0:
            learner.update(about | {"steps": step, "pairs": seen}).save(out)
    learner.update(about | {"steps": step, "pairs": seen}).save(out)
    report(f"{out}: {step} steps, {seen} pairs")
