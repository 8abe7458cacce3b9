"""Training the judge: pairs of texts that want the same answer, and beside them pairs that nearly do."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.device import training_dtype
from models.evaluation.membership_inference import area
from models.lora import LowRank, attach
from models.scope.judge import MAX_PIECES, JudgeUpdate, compared, head_of
from models.training.corpus import Corpus
from models.training.synonyms import STATED, Synonyms
from models.training.wordings import Kind, as_asked, fill, mistaken, subjects_of

OWN = ("LayerNorm", "token_type_embeddings")  # parameters that are trained themselves, beside the low-rank update
CHUNK = 32  # pairs of like length that are read together
NEIGHBOURS = 6  # relations that a near miss is chosen from
ABOUT = (  # what may be asked about that which a fact names, and is not the fact
    "How old is the {n} {of} {s}?",
    "Where does the {n} {of} {s} live?",
    "when was the {n} {of} {s} born",
    "The phone number of the {n} {of} {s} is",
    "What does the {n} {of} {s} cost or earn?",
    "Who chose the {n} {of} {s}?",
    "Since when is that the {n} {of} {s}?",
    "Where do I find the {n} {of} {s}?",
    "The {n} {of} {s} was last changed on",
    "Why is that the {n} {of} {s}?",
    "the one before the {n} {of} {s} was",
    "Who was or what was the {n} {of} {s} before?",
    "The former {n} {of} {s} is",
    "The next {n} {of} {s} will be",
    "Who does not like the {n} {of} {s}?",
    "the deputy or second {n} {of} {s} is",
    "How many people know the {n} {of} {s}?",
    "What is special about the {n} {of} {s}?",
)


@dataclass(frozen=True)
class Schedule:
    """Attributes: pairs: of a step."""

    steps: int = 1000
    pairs: int = 96
    rank: int = 16
    learning_rate: float = 1e-3
    seed: int = 0

    def rate(self, step: int) -> float:
        """Warm-up over 30 steps, then a half cosine to a thirtieth."""
        return self.learning_rate * min(1.0, (step + 1) / 30) * (0.03 + 0.97 * (0.5 + 0.5 * math.cos(math.pi * step / self.steps)))


@dataclass(frozen=True)
class Pair:
    """A fact's prompt, a question, and whether that asks for the fact."""

    prompt: str
    question: str
    same: bool


Relations = Sequence[Sequence[str]]  # wordings with {s} for the subject, of each


@dataclass(frozen=True)
class Pairs:
    """Draws pairs; the same generator state gives the same ones."""

    corpus: Corpus
    kinds: Sequence[Kind]
    synonyms: Synonyms

    def draw(self, rng: random.Random, count: int) -> list[Pair]:
        """`count` pairs, about two fifths of which want the same."""
        pairs: list[Pair] = []
        while len(pairs) < count:
            pairs += self._stated(rng) if rng.random() < 0.06 else self._worded(rng, *self._group(rng))
        rng.shuffle(pairs)
        return pairs[:count]

    def _group(self, rng: random.Random) -> tuple[Relations, list[str]]:
        """Relations that are near neighbours, and subjects that all of them fit, more or less."""
        odds = rng.random()
        if odds < 0.93:
            return self._of_kind(rng)
        worded, known = self.corpus.worded("templates" if odds < 0.97 else "relations")
        several = sorted(name for name, own in worded.items() if len(own) > 1)
        if not several:
            return self._of_kind(rng)
        names = rng.sample(several, min(5, len(several)))
        relations = [[text.replace("[X]", "{s}").replace("{}", "{s}") for text in worded[name]] for name in names]
        return relations, list(dict.fromkeys(subject for subject, _ in rng.sample(known[names[0]], min(12, len(known[names[0]])))))

    def _of_kind(self, rng: random.Random) -> tuple[Relations, list[str]]:
        kind = rng.choice(self.kinds)
        return kind.relations, list(subjects_of(rng, kind, self.corpus))

    def _worded(self, rng: random.Random, relations: Relations, subjects: Sequence[str]) -> list[Pair]:
        pairs = []
        for _ in range(NEIGHBOURS):
            subject, relation = rng.choice(subjects), rng.randrange(len(relations))
            if len(relations[relation]) < 2:
                continue
            one, other = rng.sample(list(relations[relation]), 2)
            prompt = fill(one, subject)
            pairs.append(Pair(prompt, self._noise(rng, fill(other, subject)), same=True))
            like = mistaken(rng, subject, subjects) if len(subjects) > 1 else None
            if close := self.synonyms.close(rng, one):
                pairs.append(Pair(prompt, self._noise(rng, fill(close, subject)), same=True))
                if like:
                    pairs.append(Pair(prompt, self._noise(rng, fill(close, like)), same=False))
            near = rng.sample(range(len(relations)), min(NEIGHBOURS, len(relations)))
            if others := [wording for number in near if number != relation for wording in relations[number]]:
                for wording in (max(others, key=lambda text: _overlap(one, text) + 0.15 * rng.random()), rng.choice(others)):
                    if rng.random() < 0.3:  # so that a synonym alone says nothing
                        wording = self.synonyms.close(rng, wording) or wording
                    pairs.append(Pair(prompt, self._noise(rng, fill(wording, subject)), same=False))
            if rng.random() < 0.35 and (named := next(filter(None, map(STATED.match, relations[relation])), None)):
                about = rng.choice(ABOUT).replace("{n}", named["noun"]).replace("{of}", named["of"])
                pairs.append(Pair(prompt, self._noise(rng, fill(about, subject)), same=False))
            odds = rng.random()
            if odds < 0.55 and len(subjects) > 1:
                stranger = (like if odds < 0.35 else None) or rng.choice([name for name in subjects if name != subject])
                wording = rng.choice(relations[relation]) if rng.random() < 0.67 else one
                pairs.append(Pair(prompt, self._noise(rng, fill(wording, stranger)), same=False))
            elif odds < 0.8:
                pairs.append(Pair(prompt, self._noise(rng, fill(other, subject).lower()), same=True))
        return pairs

    def _stated(self, rng: random.Random) -> list[Pair]:
        """A question and the statement that answers it, and the most alike of others."""
        pairs = []
        for texts in rng.sample(self.corpus.stated, min(6, len(self.corpus.stated))):
            if len(texts) > 1:
                one, other = rng.sample(list(texts), 2)
                pairs.append(Pair(one, self._noise(rng, other), same=True))
                near = max(rng.sample(self.corpus.stated, min(40, len(self.corpus.stated))), key=lambda s: _overlap(one, s[0]))
                if near != texts:
                    pairs.append(Pair(one, self._noise(rng, rng.choice(near)), same=False))
        return pairs

    def _noise(self, rng: random.Random, text: str) -> str:
        """As people ask: behind another sentence, in lower case, with a slip of the keys."""
        return as_asked(rng, text, self.corpus.sentences, behind=0.12, stopped=0.06, slipped=0.27)


def _overlap(some: str, others: str) -> float:
    """How many words of a text another has, by about how many that has."""
    ours, theirs = (set(text.casefold().replace("?", "").replace(".", "").split()) for text in (some, others))
    return len(ours & theirs) / (len(theirs) + 3)


def separation(
    odds: Callable[[Sequence[tuple[str, str]]], list[float]], kinds: Sequence[Kind], synonyms: Synonyms, seed: int = 0
) -> dict[str, float]:
    """Areas under the ROC curve of pairs of one want, against another subject, a name that is like the subject's, and another relation;
    and of pairs of one want in nearly the same words, against the relation in the most alike words (`close`)."""
    rng, same = random.Random(f"judge:{seed}"), list[tuple[str, str]]()
    close, alike = list[tuple[str, str]](), list[tuple[str, str]]()
    strangers, namesakes, neighbours = list[tuple[str, str]](), list[tuple[str, str]](), list[tuple[str, str]]()
    for kind in kinds:
        for relation in kind.relations:
            for _ in range(3):
                subject, stranger = rng.sample(kind.subjects, 2)
                one, other = rng.sample(relation, 2)
                rest = [own for own in kind.relations if own is not relation]
                prompt, neighbour = fill(one, subject), rng.choice(rest)
                if near := synonyms.close(rng, one):
                    close.append((prompt, fill(near, subject)))
                    alike.append((prompt, fill(max((text for own in rest for text in own), key=lambda text: _overlap(one, text)), subject)))
                same.append((prompt, fill(other, subject)))
                strangers.append((prompt, fill(rng.choice([one, other]), stranger)))
                neighbours.append((prompt, fill(rng.choice(neighbour), subject)))
                if like := mistaken(rng, subject, kind.subjects):
                    namesakes.append((prompt, fill(other, like)))
    wanted, others = odds(same), {"subject": strangers, "name": namesakes, "relation": neighbours}
    found = {name: area(wanted, odds(pairs)) for name, pairs in others.items() if pairs}
    return found | ({"close": area(odds(close), odds(alike))} if close else {})


def train(
    trunk: nn.Module,
    tokenizer: Any,
    pairs: Pairs,
    held_out: Sequence[Kind],
    schedule: Schedule,
    report: Callable[[dict[str, Any]], None],
    start: JudgeUpdate | None = None,
) -> JudgeUpdate:
    """Train on a frozen trunk, which is left with layers of the training's own.

    Args:
        start: a judge of the same rank to go on from; None begins from nothing.
        report: told step and loss, and every 100 steps the separation on kinds that are not trained on.
    """
    trunk.requires_grad_(False)
    added = attach(trunk, schedule.rank, schedule.seed)
    own = {name: parameter.requires_grad_() for name, parameter in trunk.named_parameters() if any(part in name for part in OWN)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        head = head_of(int(trunk.config.hidden_size))  # type: ignore[arg-type, union-attr]  # transformers'
    if start is not None:
        trunk.load_state_dict(start.own, strict=False)
        head.load_state_dict(start.head)
        for name, layer in added.items():
            layer.a.data, layer.b.data = (factor.clone() for factor in start.low_rank.factors[name])
    trained = [parameter for part in (trunk, head) for parameter in part.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.01)

    is_fast = training_dtype(next(trunk.parameters()).device) == torch.bfloat16

    def odds(rows: Sequence[tuple[str, str]], *, fast: bool = False) -> Tensor:
        texts = [a for a, _ in rows], [b for _, b in rows]
        tokens = tokenizer(*texts, padding=True, truncation=True, max_length=MAX_PIECES, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
            hidden = trunk(**tokens).last_hidden_state.float()  # (n, T, d)
        second = tokens["attention_mask"] * tokens["token_type_ids"]
        first = tokens["attention_mask"] - second
        u, v = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for mask in (first, second))
        found: Tensor = head(compared(u, v))[:, 0]
        return found

    @torch.no_grad()
    def told(rows: Sequence[tuple[str, str]]) -> list[float]:
        return torch.cat([odds(rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]).tolist()

    rng, started = random.Random(f"judging:{schedule.seed}"), time.perf_counter()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        drawn = sorted(pairs.draw(rng, schedule.pairs), key=lambda pair: len(pair.prompt) + len(pair.question))
        optimizer.zero_grad()
        total = 0.0
        for at in range(0, len(drawn), CHUNK):
            chunk = drawn[at : at + CHUNK]
            wanted = torch.tensor([float(pair.same) for pair in chunk])
            found = odds([(pair.prompt, pair.question) for pair in chunk], fast=is_fast)
            loss = nn.functional.binary_cross_entropy_with_logits(found, wanted, reduction="sum") / len(drawn)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            total += loss.item()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        record = {"step": step + 1, "loss": total, "seconds": time.perf_counter() - started}
        if (step + 1) % 100 == 0 or step + 1 == schedule.steps:
            record |= separation(told, held_out, pairs.synonyms)
        report(record)
    low_rank = LowRank({name: (layer.a.detach(), layer.b.detach()) for name, layer in added.items()})
    return JudgeUpdate(low_rank, {n: p.detach() for n, p in own.items()}, {n: p.detach() for n, p in head.state_dict().items()})
