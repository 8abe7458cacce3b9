"""What an experiment is run with: options of the command line, the model, the memory, and where results go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.experiments.recall import Recall, RecallOne
from app.server.model_loading import model_of, scope_of
from app.server.settings import Settings
from memory.page import PageSettings
from models.errors import DataMissing
from models.evaluation.composed import LENGTHS, long_answers, unseen_relations
from models.evaluation.records import TARGET, Record, choose, read
from models.evaluation.run import Partial
from models.model import Model
from models.training.corpus import read_records

T = TypeVar("T")
console = Console(stderr=True)


@dataclass(frozen=True)
class Setup:
    """Options that experiments share.

    Attributes:
        data: the file of records; fill: a CounterFact file with more facts for the memory.
        n: records examined; facts_in_memory: 1 gives every record a memory of its own.
        systems: those that `editing` compares.
        json_file: results go here, those of an unfinished run beside it.
    """

    experiment: str
    data: Path
    n: int
    facts_in_memory: int = 1
    fill: Path | None = None
    systems: tuple[str, ...] = ("larimar",)
    seed: int = 0
    json_file: Path | None = None
    decoder: str | None = None
    adapter: Path | None = None
    pages: PageSettings = field(default_factory=PageSettings)

    @cached_property
    def model(self) -> Model:
        """The model that the settings and options name. Raises ModelError."""
        settings, changed = self.settings, dict[str, Any]()
        if self.decoder and self.decoder != settings.decoder:
            changed = {"decoder": self.decoder, "adapter": None}  # LARIMAR_ADAPTER belongs to LARIMAR_DECODER
        if self.adapter:
            changed["adapter"] = self.adapter
        return model_of(settings.model_copy(update=changed), console.print)

    @cached_property
    def settings(self) -> Settings:
        return Settings()

    @property
    def about(self) -> dict[str, Any]:
        """What makes the run: an interrupted one is only gone on with by its like."""
        return {
            "experiment": self.experiment,
            "n": self.n,
            "facts_in_memory": self.facts_in_memory,
            "decoder": self.model.name,
            "adapter": self.adapter.name if self.adapter else "shipped",
            "fingerprint": self.model.fingerprint[:16],
            "data": self.data.name,
            "scope": {"reader": self.settings.reader, "probability": self.settings.scope_probability},
            "compared": list(self.systems),
            "seed": self.seed,
        }

    def form(self) -> str:
        """The data's format, by the fields of its first record: one of FORMATS. Raises DataMissing."""
        for _, raw in read_records(self.data):
            return next((form for form, field in TARGET.items() if field in raw), "private")
        raise DataMissing(f"{self.data} holds no record")

    def with_memory_of(self, facts: int) -> Setup:
        """The same with so many facts in the memory, and the model that is loaded already."""
        other = replace(self, facts_in_memory=facts)
        other.__dict__["model"] = self.model
        return other

    def records(self, form: str) -> tuple[list[Record], list[Record]]:
        """The examined records, and all facts of the memory, the examined ones first (none where each record has its own).

        Raises:
            DataMissing: a bad file, or too few records.
        """
        own = self._read(form)
        examined = choose(own, self.n, self.seed)
        if self.facts_in_memory == 1:
            return examined, []
        if self.facts_in_memory < self.n:
            raise DataMissing(
                f"a memory of {self.facts_in_memory} facts cannot hold the {self.n} examined: raise --facts-in-memory or lower --n"
            )
        taken = {record.prompt.casefold() for record in examined}
        pool = [r for r in [*own, *(read(self.fill, "counterfact") if self.fill else [])] if r.prompt.casefold() not in taken]
        others = choose(pool, min(self.facts_in_memory - self.n, len({r.prompt.casefold() for r in pool})), self.seed)
        if len(others) < self.facts_in_memory - self.n:
            raise DataMissing(
                f"{self.facts_in_memory} facts with different prompts are needed, there are {self.n + len(others)}: add --fill FILE"
            )
        return examined, [*examined, *others]

    def filling(self) -> list[Record]:
        """The facts of the --fill file that go into the memory. Raises DataMissing."""
        if self.fill is None:
            raise DataMissing("facts for the memory are taken from a CounterFact file: name it with --fill")
        return choose(read(self.fill, "counterfact"), self.facts_in_memory, self.seed)

    def all_records(self, form: str) -> list[Record]:
        """As many records with different prompts as facts are to be in the memory, in an order of the seed.

        Raises:
            DataMissing: a bad file, or too few records.
        """
        return choose([record for record in self._read(form) if record.rephrases], self.facts_in_memory, self.seed)

    def _read(self, form: str) -> list[Record]:
        if form == "relations":
            return unseen_relations(self.data, self.seed)
        if form in LENGTHS:
            if self.fill is None:
                raise DataMissing("long answers are made of CounterFact statements: name the file with --fill")
            texts = read(self.fill, "counterfact")
            return long_answers(read(self.data, "zsre"), texts, lambda a: len(self.model.decoder.answer_tokens(a)), self.seed, form)
        return read(self.data, form)

    def recall(self, taught: Sequence[Record], *, quiet: bool = False) -> Recall:
        """A memory that holds `taught`; without any, one that holds each examined record alone."""
        recall = (Recall if taught else RecallOne)(self.model, self.pages, scope_of(self.model, self.settings))
        for record in taught if quiet else steps("teaching", taught):
            recall.teach(record)
        return recall

    def partial(self) -> Partial:
        file = self.json_file
        return Partial(file.with_name(file.name + ".partial") if file else None, self.about)

    def unkept(self) -> Partial:
        """As `partial`, in no file."""
        return Partial(None, self.about)

    def write(self, result: Mapping[str, Any]) -> None:
        """Write the result as JSON, if a file was named."""
        if self.json_file is not None:
            self.json_file.parent.mkdir(parents=True, exist_ok=True)
            self.json_file.write_text(json.dumps(self.about | dict(result), indent=1) + "\n")


def steps(what: str, items: Sequence[T]) -> Iterator[T]:
    """The items, with a progress bar."""
    if not items:
        return
    with bar(what, len(items)) as report:
        for number, item in enumerate(items, 1):
            yield item
            report(number)


@contextmanager
def bar(what: str, total: int) -> Iterator[Any]:
    """A progress bar; gives a function that is told how much is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
