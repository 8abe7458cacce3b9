"""The episodic memory of one tenant: its pages, its facts, and what is in scope.

No I/O and no locks: one thread works on it. Live changes and replayed ones go through `apply`, so a replayed memory has
the bits of the live one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import torch

from memory import snapshot
from memory.change import Change, size_bytes
from memory.directory import Directory
from memory.errors import BadKey, DuplicateId, FactNotFound, MemoryError_, VersionConflict
from memory.fact import Fact, normalise
from memory.page import Page, PageSettings
from memory.placement import Placement
from memory.query import Query, Reading
from memory.scope import Scope, ScopeDecision

SPOKE = 8  # how many facts a reading names
ASKED = 3  # how many facts one prompt may ask for
SOLVE_AT = 16  # so many new facts of a page are cheaper solved at once than bordered one by one
BLOCK_BYTES = 900_000  # of a block's facts: it is committed by one command, and no command passes 1 MiB


@dataclass(frozen=True, eq=False)
class Sheet:
    """A page, the ids of its rows, and the version that its stored bytes cover (0: not stored)."""

    page: Page
    ids: tuple[str, ...] = ()
    covered: int = 0


@dataclass(frozen=True, eq=False)
class Prepared:
    """The pages that changes forget from, worked out but not yet put in place.

    Attributes:
        sheets: each such page after the changes.
        residuals: of forgetting, by page (Page.without).
        erase: log versions whose entries hold what the changes forget.
        stored: new bytes of those pages whose stored ones hold what the changes forget.
    """

    sheets: Mapping[int, Sheet]
    residuals: Mapping[int, float]
    erase: tuple[int, ...]
    stored: Mapping[int, bytes]


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
        for _, block in groupby(changes, lambda change: change.block or change.version):
            if news := [change for change in block if change.version > memory._covered(change.page)]:
                memory.apply(news)
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
        """The change that writes one fact, as `plan_block`. Raises DuplicateId, BadKey."""
        (planned,) = self.plan_block([fact])
        if isinstance(planned, MemoryError_):
            raise planned
        return planned

    def plan_block(self, facts: Sequence[Fact]) -> list[Change | MemoryError_]:
        """The changes that write the first of `facts` in one commit. Each supersedes the fact with the same prompt.

        Returns:
            An outcome for each fact that the block takes, at least one: its change, or why it is refused (DuplicateId,
            BadKey). The block ends before a fact that would supersede one of its own, and at BLOCK_BYTES.
        """
        refusals: list[MemoryError_ | None] = []
        taken: dict[str, Fact] = {}  # by prompt
        size = 0
        for fact in facts:
            refusal = self._refusal(fact, taken)
            if refusal is None:
                prompt, size = normalise(fact.prompt), size + size_bytes(fact)
                if taken and (prompt in taken or size > BLOCK_BYTES):
                    break
                taken[prompt] = fact
            refusals.append(refusal)
        changes = iter(self._changes(taken))
        return [next(changes) if refusal is None else refusal for refusal in refusals]

    def _refusal(self, fact: Fact, taken: Mapping[str, Fact]) -> MemoryError_ | None:
        if fact.id in self._facts or any(fact.id == other.id for other in taken.values()):
            return DuplicateId(fact.id)
        if fact.key.shape != (self.dim,) or not bool(torch.isfinite(fact.key).all()):
            return BadKey(f"an address key has shape {tuple(fact.key.shape)}, this memory needs ({self.dim},), all finite")
        if fact.code.dim() != 1 or not len(fact.code) or not bool(torch.isfinite(fact.code).all()):
            return BadKey(f"a value code has shape {tuple(fact.code.shape)}, it must be a vector, all finite")
        return None

    def _changes(self, facts: Mapping[str, Fact]) -> list[Change]:
        """The block of changes that writes facts given by their prompts."""
        if not facts:
            return []
        keys = torch.stack([fact.key for fact in facts.values()])
        neighbours = [
            next(((self._page_of[i], similarity) for i, similarity in found), None)
            for found in self._directory.nearest(keys, 1)
        ]
        rows = {index: len(sheet.ids) for index, sheet in self._sheets.items()}
        placement = Placement(keys, neighbours, rows, self.settings.slots)
        block = self.version + len(facts) if len(facts) > 1 else 0
        changes: list[Change] = []
        for version, (prompt, fact) in enumerate(facts.items(), self.version + 1):
            old = self._by_prompt.get(prompt)
            page = placement.next(None if old is None else self._page_of[old])
            forgets = () if old is None else (old,)
            changes.append(Change(version, "write", page, replace(fact, version=version), forgets, block))
        return changes

    def plan_forget(self, fact_id: str) -> Change:
        """The change that forgets a fact. Raises FactNotFound."""
        self.get(fact_id)
        return Change(self.version + 1, "forget", self._page_of[fact_id], None, (fact_id,))

    def prepare(self, changes: Sequence[Change]) -> Prepared:
        """Work out the pages that changes forget from: the store must erase before the changes are acknowledged."""
        sheets: dict[int, Sheet] = {}
        residuals: dict[int, float] = {}
        stored: dict[int, bytes] = {}
        incoming = {change.fact.id: change.fact for change in changes if change.fact is not None}
        for index, own in _by_page(changes).items():
            forgotten = [self._facts[i] for change in own for i in change.forgets if i in self._facts]
            if not forgotten:
                continue
            sheet = self._sheets[index]
            after, residuals[index] = self._after(sheet, own)
            if any(fact.version <= sheet.covered for fact in forgotten):
                after = replace(after, covered=changes[-1].version)
                stored[index] = self._bytes(after, after.covered, incoming)
            sheets[index] = after
        erase = tuple(self._facts[i].version for change in changes for i in change.forgets if i in self._facts)
        return Prepared(sheets, residuals, erase, stored)

    def apply(self, changes: Sequence[Change], prepared: Prepared | None = None) -> float:
        """Make the committed changes of one block; returns the greatest residual of what they forgot.

        Raises:
            VersionConflict: they do not follow this memory's version (replayed logs may have gaps).
        """
        if changes[0].version <= self.version:
            raise VersionConflict(self.version, changes[0].version - 1)
        residuals = dict(prepared.residuals) if prepared is not None else {}
        for index, own in _by_page(changes).items():
            if prepared is not None and index in prepared.sheets:
                sheet = prepared.sheets[index]
            else:
                sheet = self._sheets.get(index) or Sheet(Page(self.settings, self.dim, device=self.device))
                sheet, residuals[index] = self._after(sheet, own)
            for change in own:
                for fact_id in change.forgets:
                    self._drop(fact_id)
                if change.fact is not None:
                    self._index(change.fact, index)
            self._sheets[index] = sheet
            if prepared is not None and index in prepared.stored:
                self._dirty.discard(index)
            else:
                self._dirty.add(index)
        self.version = changes[-1].version
        return max(residuals.values())

    def _after(self, sheet: Sheet, changes: Sequence[Change]) -> tuple[Sheet, float]:
        """The sheet after a block's changes of its page. It works in place on one that nothing is forgotten from."""
        page, ids, residual = sheet.page, sheet.ids, 0.0
        if any(change.forgets for change in changes):
            # Solved afresh even if the forgotten fact is unknown: its log entry may be erased.
            gone = {fact_id for change in changes for fact_id in change.forgets}
            page, residual = page.without([row for row, fact_id in enumerate(ids) if fact_id in gone])
            ids = tuple(fact_id for fact_id in ids if fact_id not in gone)
        facts = [change.fact for change in changes if change.fact is not None]
        if len(facts) >= SOLVE_AT:
            page.write_block(torch.stack([fact.key for fact in facts]), [fact.code for fact in facts])
        else:
            for fact in facts:
                page.write(fact.key, fact.code)
        return Sheet(page, (*ids, *(fact.id for fact in facts)), sheet.covered), residual

    def _covered(self, index: int) -> int:
        sheet = self._sheets.get(index)
        return 0 if sheet is None else sheet.covered

    def read(self, queries: Sequence[Query], exclude: Collection[str] = ()) -> Reading:
        """Read with the query that fits best; `exclude` answers as if those facts were forgotten.

        A prompt may say several things; each of its sentences is a query, and the best score wins. Where it asks several
        things, each question that is in scope adds its fact.

        Raises:
            FactNotFound: an excluded id is unknown.
        """
        for fact_id in exclude:
            self.get(fact_id)
        decisions = self._decide(queries, exclude)
        query, decision = max(zip(queries, decisions, strict=True), key=lambda found: found[1].score)
        if decision.fact is None:
            return Reading(False, decision.score, decision.threshold, 0.0, 1.0, None, (), query.text)
        page, ids = self._page_without(decision.fact.id, exclude)
        readout = page.read(query.key)  # weights and variance are those of the query
        order = readout.weights.abs().argsort(descending=True)[:SPOKE].tolist()
        asked = self._asked(decision, queries, decisions) if decision.in_scope else []
        recalled = tuple((fact.id, self._recall(fact, exclude)) for fact in asked)
        return Reading(
            decision.in_scope,
            decision.score,
            decision.threshold,
            decision.similarity,
            readout.variance,
            dict(recalled)[decision.fact.id] if recalled else self._recall(decision.fact, exclude),
            tuple((ids[row], float(readout.weights[row])) for row in order),
            query.text,
            decision.fact.id,
            recalled,
        )

    def _decide(self, queries: Sequence[Query], exclude: Collection[str]) -> list[ScopeDecision]:
        left = len(self) - len(set(exclude))
        keys = torch.stack([query.key for query in queries])
        nearest = self._directory.nearest(keys, self.scope.candidates + len(set(exclude)))
        decisions = []
        for query, found in zip(queries, nearest, strict=True):
            candidates = [(self._facts[i], s) for i, s in found if i not in exclude][: self.scope.candidates]
            decisions.append(self.scope.decide(query.text, candidates, left))
        return decisions

    def _asked(self, best: ScopeDecision, queries: Sequence[Query], decisions: Sequence[ScopeDecision]) -> list[Fact]:
        """The facts that the prompt's questions ask for, in their order; the best query's alone unless it is among them."""
        assert best.fact is not None
        of_part: dict[int, ScopeDecision] = {}
        for query, decision in zip(queries, decisions, strict=True):
            if query.part is not None and decision.in_scope:
                known = of_part.get(query.part)
                of_part[query.part] = decision if known is None or decision.score > known.score else known
        facts = {d.fact.id: d.fact for _, d in sorted(of_part.items(), key=lambda item: item[0]) if d.fact is not None}
        return list(facts.values())[:ASKED] if best.fact.id in facts else [best.fact]

    def _recall(self, fact: Fact, exclude: Collection[str]) -> torch.Tensor:
        """The readout at a fact's own key: scope has said which fact is meant, and there a readout is the least noisy."""
        return self._page_without(fact.id, exclude)[0].read(fact.key).code

    def _page_without(self, fact_id: str, exclude: Collection[str]) -> tuple[Page, list[str]]:
        """A fact's page and the ids of its rows, solved without the excluded facts."""
        sheet = self._sheets[self._page_of[fact_id]]
        rows = [row for row, found in enumerate(sheet.ids) if found in exclude]
        page = sheet.page.without(rows)[0] if rows else sheet.page
        return page, [found for found in sheet.ids if found not in exclude]

    def recall(self, fact_id: str) -> torch.Tensor:
        """The readout (W,) float64 at a fact's own key. Raises FactNotFound."""
        return self._recall(self.get(fact_id), ())

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

    def _bytes(self, sheet: Sheet, version: int, incoming: Mapping[str, Fact] | None = None) -> bytes:
        new = incoming or {}
        facts = [new[fact_id] if fact_id in new else self._facts[fact_id] for fact_id in sheet.ids]
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


def _by_page(changes: Sequence[Change]) -> dict[int, list[Change]]:
    found: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        found[change.page].append(change)
    return found
