"""Reading a memory with a prompt, as the service does it and as the evaluation examines it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.service import fact_of
from memory.episodic import EpisodicMemory
from memory.page import PageSettings
from memory.query import Detector, Query, Reading
from memory.scope.two_hops import best, bridges
from models.evaluation.records import Record
from models.evaluation.systems import Ask, in_prompt
from models.model import Model


def queries(model: Model, prompt: str) -> list[Query]:
    """The prompt's sentences with their address keys. Raises EmptyText."""
    return [Query(*asked) for asked in model.encode_query(prompt)]


class Recall:
    """A memory under examination: what `POST /facts` and `POST /generate` do, without HTTP and store.

    Args:
        settings, scope: as the server has them.
        write_s: seconds of every write, encoding included, are appended here.
    """

    def __init__(self, model: Model, settings: PageSettings, scope: Detector) -> None:
        self.model, self.settings, self.scope = model, settings, scope
        self.memory = self._empty()
        self.write_s: list[float] = []
        self._count = 0

    def _empty(self) -> EpisodicMemory:
        return EpisodicMemory(self.model.key_dim, self.settings, self.scope, self.model.device)

    def teach(self, record: Record) -> str:
        """Write a record's fact; returns its id."""
        started = time.perf_counter()
        encoded = self.model.encode_fact(record.prompt, record.target)
        self._count += 1
        fact = fact_of(encoded, f"fact-{self._count:06}", record.prompt, record.target, 0.0)
        change = self.memory.plan_write(fact)
        self.memory.apply([change])
        self.write_s.append(time.perf_counter() - started)
        return fact.id

    def forget(self, fact_id: str) -> float:
        """Forget a fact; returns the residual."""
        change = self.memory.plan_forget(fact_id)
        return self.memory.apply([change])

    def read(self, prompt: str, hops: int = 1) -> Reading:
        """A reading; with two hops also of the questions that the prompt becomes with the answer of a first fact in it."""
        asked = queries(self.model, prompt)
        reading = self.memory.read(asked)
        if hops > 1 and (texts := bridges(self.memory, asked)):
            further = self.memory.read([Query(q.text, q.key, None, q.statement) for q in self.model.encode_texts(texts)])
            reading = best(reading, further)
        return reading

    def prepare(self, record: Record) -> None:
        """Make sure that the record's fact is in the memory; here all of them are taught beforehand."""

    def ask(self, record: Record, prompts: Sequence[str]) -> list[Ask]:
        self.prepare(record)
        return self.asks(prompts)

    def asks(self, prompts: Sequence[str], hops: int = 1) -> list[Ask]:
        """What the decoder gets for each prompt, with the memory as it is."""
        return [Ask(prompt, self.read(prompt, hops).readouts) for prompt in prompts]


class RecallOne(Recall):
    """A memory that holds the record's fact alone."""

    def prepare(self, record: Record) -> None:
        self.memory = self._empty()
        self.teach(record)


class Retrieved:
    """The fact that the memory's own keys and scope find, put before the prompt as text: retrieval with scope."""

    def __init__(self, recall: Recall) -> None:
        self.recall = recall

    def ask(self, record: Record, prompts: Sequence[str]) -> list[Ask]:
        self.recall.prepare(record)
        return [Ask(self._augmented(prompt)) for prompt in prompts]

    def _augmented(self, prompt: str) -> str:
        reading = self.recall.read(prompt)
        facts = [self.recall.memory.get(fact_id) for fact_id, _ in reading.recalled]
        return in_prompt([(fact.prompt, fact.target) for fact in facts], prompt)
