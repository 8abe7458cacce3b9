"""The episodic memory of one tenant: its pages, its facts, and what is in scope.

No I/O and no locks: one thread works on it. Live changes and replayed ones go through `apply`, so a replayed memory has
the bits of the live one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from memory import snapshot
from memory.change import Change
from memory.directory import Directory
from memory.errors import BadKey, DuplicateId, FactNotFound, VersionConflict
from memory.fact import Fact, normalise
from memory.page import Page, PageSettings
from memory.query import Query, Reading
from memory.scope import Scope, ScopeDecision

SPOKE = 8  # how many facts a reading names


@dataclass(frozen=True, eq=False)
class Sheet:
    """A page, the ids of its rows, and the version that its stored bytes cover (0: not stored)."""

    page: Page
    ids: tuple[str, ...] = ()
    covered: int = 0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A change worked out but not yet made.

    Attributes:
        sheet: the page after the change.
        residual: of forgetting (Page.without); 0 for a plain write.
        erase: log versions whose entries hold what the change forgets.
        stored: the page's new bytes, where its stored ones hold what the change forgets.
    """

    sheet: Sheet
    residual: float
    erase: tuple[int, ...]
    stored: bytes | None


class EpisodicMemory:
    """All facts of one tenant.

    Args:
        dim: D, width of the address keys.
        settings: of every page.
        scope: the detector.
        device: where the pages' algebra runs.
    """

    def __init__(self, dim: int, settings: PageSettings, scope: Scope, device: torch.device | str = "cpu") -> None:
        self.dim, self.settings, self.scope, self.device = dim, settings, scope, device
        self.version = 0
        self._sheets: dict[int, Sheet] = {}
        self._facts: dict[str, Fact] = {}
        self._page_of: dict[str, int] = {}
        self._by_prompt: dict[str, str] = {}
        self._directory = Directory(dim)
        self._dirty: set[int] = set()

    @classmethod
    def restore(
        cls,
        dim: int,
        settings: PageSettings,
        scope: Scope,
        *,
        pages: Mapping[int, bytes],
        changes: Sequence[Change],
        version: int,
        device: torch.device | str = "cpu",
    ) -> EpisodicMemory:
        """The memory of a snapshot and a log.

        Raises:
            CorruptPage: a page's bytes are damaged.
        """
        memory = cls(dim, settings, scope, device)
        for index in sorted(pages):
            page, facts, covered = snapshot.from_bytes(pages[index], settings, dim, device)
            memory._sheets[index] = Sheet(page, tuple(f.id for f in facts), covered)
            for fact in facts:
                memory._index(fact, index)
        for change in changes:
            sheet = memory._sheets.get(change.page)
            if sheet is None or change.version > sheet.covered:
                memory.apply(change)
        memory.version = version
        return memory

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def pages(self) -> int:
        return len(self._sheets)

    @property
    def size_bytes(self) -> int:
        """Bytes of the pages' rows in use."""
        return sum(sheet.page.size_bytes for sheet in self._sheets.values())

    def get(self, fact_id: str) -> Fact:
        """Raises FactNotFound."""
        try:
            return self._facts[fact_id]
        except KeyError:
            raise FactNotFound(fact_id) from None

    def facts(self, after: str = "", limit: int = 100) -> list[Fact]:
        """Facts in the order of their ids, those behind `after`."""
        ids = sorted(fact_id for fact_id in self._facts if fact_id > after)
        return [self._facts[fact_id] for fact_id in islice(ids, limit)]

    def plan_write(self, fact: Fact) -> Change:
        """The change that writes a fact; it supersedes the one with the same prompt.

        A fact goes to the page of its nearest neighbour, so that facts that interfere are solved together, while that page
        has room; else to the last page, else to a new one. A superseded fact gives its place.

        Raises:
            DuplicateId: the id is taken.
            BadKey: the key does not fit this memory.
        """
        if fact.id in self._facts:
            raise DuplicateId(fact.id)
        if fact.key.shape != (self.dim,) or not bool(torch.isfinite(fact.key).all()):
            raise BadKey(f"an address key has shape {tuple(fact.key.shape)}, this memory needs ({self.dim},), all finite")
        version = self.version + 1
        old = self._by_prompt.get(normalise(fact.prompt))
        forgets = (old,) if old is not None else ()
        page = self._page_of[old] if old is not None else self._allocate(fact)
        return Change(version, "write", page, replace(fact, version=version), forgets)

    def _allocate(self, fact: Fact) -> int:
        for neighbour, _ in self._directory.nearest(fact.key[None], 1)[0]:
            if not self._sheets[page := self._page_of[neighbour]].page.full:
                return page
        last = max(self._sheets, default=0)
        return last if last not in self._sheets or not self._sheets[last].page.full else last + 1

    def plan_forget(self, fact_id: str) -> Change:
        """The change that forgets a fact. Raises FactNotFound."""
        self.get(fact_id)
        return Change(self.version + 1, "forget", self._page_of[fact_id], None, (fact_id,))

    def prepare(self, change: Change) -> Prepared:
        """Work out a change that forgets, without making it: the store must erase before the change is acknowledged."""
        sheet = self._sheets[change.page]
        after, residual = self._after(sheet, change)
        gone = [self._facts[i] for i in change.forgets if i in self._facts]
        if any(fact.version <= sheet.covered for fact in gone):
            after = replace(after, covered=change.version)
            stored = self._bytes(after, change.version, change.fact)
        else:
            stored = None
        return Prepared(after, residual, tuple(f.version for f in gone), stored)

    def apply(self, change: Change, prepared: Prepared | None = None) -> float:
        """Make a committed change; returns the residual of what it forgot.

        Raises:
            VersionConflict: the change does not follow this memory's version (replayed logs may have gaps).
        """
        if change.version <= self.version:
            raise VersionConflict(self.version, change.version - 1)
        residual = 0.0
        if prepared is not None:
            sheet, residual = prepared.sheet, prepared.residual
        else:
            sheet = self._sheets.get(change.page) or Sheet(Page(self.settings, self.dim, device=self.device))
            sheet, residual = self._after(sheet, change)
        for fact_id in change.forgets:
            self._drop(fact_id)
        if change.fact is not None:
            self._index(change.fact, change.page)
        self._sheets[change.page] = sheet
        self.version = change.version
        if prepared is None or prepared.stored is None:
            self._dirty.add(change.page)
        else:
            self._dirty.discard(change.page)
        return residual

    def _after(self, sheet: Sheet, change: Change) -> tuple[Sheet, float]:
        """The sheet after a change. A plain write works on the page in place; one that forgets leaves the sheet as it is."""
        page, ids, residual = sheet.page, sheet.ids, 0.0
        if change.forgets:  # solved afresh even if the forgotten fact is unknown: its log entry may be erased
            rows = [row for row, fact_id in enumerate(ids) if fact_id in change.forgets]
            page, residual = page.without(rows)
            ids = tuple(fact_id for fact_id in ids if fact_id not in change.forgets)
        if change.fact is not None:
            page.write(change.fact.key, change.fact.code)
            ids = (*ids, change.fact.id)
        return Sheet(page, ids, sheet.covered), residual

    def read(self, queries: Sequence[Query], exclude: Collection[str] = ()) -> Reading:
        """Read with the query that fits best; `exclude` answers as if those facts were forgotten.

        A prompt may say several things; each of its sentences is a query, and the best score wins.

        Raises:
            FactNotFound: an excluded id is unknown.
        """
        for fact_id in exclude:
            self.get(fact_id)
        left = len(self) - len(set(exclude))
        keys = torch.stack([query.key for query in queries])
        nearest = self._directory.nearest(keys, self.scope.candidates + len(set(exclude)))
        best: tuple[ScopeDecision, Query] | None = None
        for query, found in zip(queries, nearest, strict=True):
            candidates = [(self._facts[i], s) for i, s in found if i not in exclude][: self.scope.candidates]
            decision = self.scope.decide(query.text, candidates, left)
            if best is None or decision.score > best[0].score:
                best = (decision, query)
        assert best is not None, "a prompt gives at least one query"
        decision, query = best
        if decision.fact is None:
            return Reading(False, decision.score, decision.threshold, 0.0, 1.0, None, (), query.text)
        sheet = self._sheets[self._page_of[decision.fact.id]]
        rows = [row for row, fact_id in enumerate(sheet.ids) if fact_id in exclude]
        page = sheet.page.without(rows)[0] if rows else sheet.page
        ids = [fact_id for fact_id in sheet.ids if fact_id not in exclude]
        # The fact's own key, not the query's: scope has said which fact is meant, and a readout at a stored key is the
        # least noisy one. Weights and variance are those of the query.
        readout = page.read(query.key)
        recalled = page.read(decision.fact.key)
        order = readout.weights.abs().argsort(descending=True)[:SPOKE].tolist()
        spoke = tuple((ids[row], float(readout.weights[row])) for row in order)
        return Reading(
            decision.in_scope,
            decision.score,
            decision.threshold,
            decision.similarity,
            readout.variance,
            recalled.code,
            spoke,
            query.text,
        )

    def dirty_pages(self) -> dict[int, bytes]:
        """Bytes of the pages changed since they were stored, as of this version."""
        return {i: self._bytes(self._sheets[i], self.version) for i in sorted(self._dirty)}

    def mark_stored(self, pages: Collection[int], version: int) -> None:
        """These pages were stored as of `version`, or are already stored newer."""
        for index in pages:
            sheet = self._sheets[index]
            if sheet.covered < version:
                self._sheets[index] = replace(sheet, covered=version)
        if version == self.version:
            self._dirty -= set(pages)

    def checksum(self) -> str:
        """SHA-256 over all pages and facts: equal memories, bit for bit, have equal checksums."""
        digest = hashlib.sha256(str(self.version).encode())
        for index in sorted(self._sheets):
            sheet = self._sheets[index]
            facts = [self._facts[fact_id] for fact_id in sheet.ids]
            digest.update(f"{index}:{snapshot.digest(sheet.page, facts)}".encode())
        return digest.hexdigest()

    def _bytes(self, sheet: Sheet, version: int, incoming: Fact | None = None) -> bytes:
        facts = [incoming if incoming and incoming.id == i else self._facts[i] for i in sheet.ids]
        return snapshot.to_bytes(sheet.page, facts, version)

    def _index(self, fact: Fact, page: int) -> None:
        self._facts[fact.id], self._page_of[fact.id] = fact, page
        self._by_prompt[normalise(fact.prompt)] = fact.id
        self._directory.add(fact.id, fact.key)

    def _drop(self, fact_id: str) -> None:
        fact = self._facts.pop(fact_id, None)
        if fact is not None:
            self._page_of.pop(fact_id)
            self._directory.remove(fact_id)
            if self._by_prompt.get(normalise(fact.prompt)) == fact_id:
                del self._by_prompt[normalise(fact.prompt)]
