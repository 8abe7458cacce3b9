"""The episodic memory of one tenant: its pages, its facts, and what is in scope.

No I/O and no locks: one thread works on it, and others look through its view. Live changes and replayed ones go through `apply`,
so a replayed memory has the bits of the live one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from memory.change import Change, answers_of, by_page
from memory.errors import BadKey, CorruptPage, DuplicateId, FactNotFound, MemoryError_, VersionConflict
from memory.fact import Fact, is_current
from memory.fact_index import FactIndex
from memory.free_slots import FreeSlots
from memory.packed_fact import pack, size_bytes
from memory.page import Page, PageSettings, StoredPage
from memory.placement import Placement
from memory.query import Detector
from memory.readable import PageRows, Readable
from memory.view import View

SOLVE_AT = 16  # so many new facts of a page are cheaper solved at once than bordered one by one
BLOCK_BYTES = 900_000  # of a block's facts: it is committed by one command, and no command passes 1 MiB


class EpisodicMemory(Readable):
    """All facts of one tenant.

    Args:
        dim: D, width of the address keys.
        settings: of every page.
        scope: the detector.
        device: where the pages' algebra runs.
    """

    def __init__(self, dim: int, settings: PageSettings, scope: Detector, device: torch.device | str = "cpu") -> None:
        self.dim, self.settings, self.scope, self.device = dim, settings, scope, device
        self.view = View()  # of the newest version; any thread may take it and look through it
        self._pages: dict[int, PageRows] = {}
        self._free_slots = FreeSlots(settings.slots)
        self._fact_index = FactIndex(dim, scope.clean)
        self._dirty: set[int] = set()
        self._changed_at: dict[int, int] = {}  # page -> version of its last change

    @classmethod
    def restore(
        cls,
        dim: int,
        settings: PageSettings,
        scope: Detector,
        *,
        pages: Mapping[int, StoredPage],
        changes: Sequence[Change],
        version: int,
        repaired: Collection[int] = (),
        device: torch.device | str = "cpu",
    ) -> EpisodicMemory:
        """The memory of a snapshot and a log. Its pages are solved when they are first asked.

        Args:
            repaired: pages whose snapshot is damaged and must be written again.

        Raises:
            CorruptPage: a page does not fit these settings.
        """
        memory = cls(dim, settings, scope, device)
        for index, stored in sorted(pages.items()):
            memory._lay(index, stored.facts)
        covered = {index: stored.covered for index, stored in pages.items()}
        memory.replay([change for change in changes if change.version > covered.get(change.page, 0)])
        memory.version = version
        memory._dirty.update(repaired)
        return memory

    def replay(self, changes: Sequence[Change]) -> None:
        """Make changes of a log, in their blocks, but for those that are made already."""
        for _, block in groupby([c for c in changes if c.version > self.version], lambda change: change.block or change.version):
            self.apply(list(block), measure=False)

    def _lay(self, index: int, facts: Sequence[Fact]) -> None:
        rows = [fact for fact in facts if not fact.until]
        if len(rows) > self.settings.slots or any(fact.key.shape != (self.dim,) for fact in rows):
            wanted = f"{self.settings.slots} of {self.dim}"
            raise CorruptPage(f"page {index} holds {len(rows)} facts with keys of {len(facts[0].key)} dimensions, wanted at most {wanted}")
        page = Page.of(self.settings, self.dim, [self._address(f) for f in rows], [f.code for f in rows], self.device)
        self._pages[index] = PageRows(page, tuple(fact.id for fact in rows))
        self._free_slots.note(index, len(rows))
        self._fact_index.add_all(facts, index)

    @property
    def version(self) -> int:
        """Log position of the last change."""
        return self.view.version

    @version.setter
    def version(self, version: int) -> None:
        """What has been changed is seen from here on, all at once."""
        self.view = self._fact_index.view(version)

    def __len__(self) -> int:
        """How many facts there are, history not counted."""
        return len(self._fact_index)

    @property
    def history(self) -> int:
        """How many facts are kept that newer ones have replaced."""
        return self._fact_index.history

    @property
    def pages(self) -> int:
        return len(self._pages)

    @property
    def size_bytes(self) -> int:
        """About how many bytes it takes here."""
        return self._fact_index.size_bytes + sum(sheet.page.size_bytes for sheet in list(self._pages.values()))

    def get(self, fact_id: str) -> Fact:
        """Raises FactNotFound."""
        return self._fact_index.get(fact_id)

    def nearest_statements(self, keys: Tensor, count: int) -> list[list[tuple[str, float]]]:
        return self._fact_index.nearest_statements(keys, count)

    def _told_apart(self, query: str, found: Sequence[tuple[str, float]], exclude: Collection[str]) -> list[tuple[Fact, float]]:
        return self._fact_index.candidates(query, found, exclude)

    def holder(self, prompt: str) -> str | None:
        """The id of the fact with this prompt."""
        return self._fact_index.holder(prompt)

    def facts(self, after: str = "", limit: int = 100, where: Callable[[Fact], bool] = is_current) -> list[Fact]:
        """As View.facts."""
        return self.view.facts(after, limit, where)

    def nearest(self, keys: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """As Directory.nearest."""
        return self._fact_index.nearest(keys, count)

    def _sheet(self, fact_id: str) -> PageRows:
        return self._pages[self._fact_index.page_of(fact_id)]

    def plan_write(self, fact: Fact) -> Change:
        """The change that writes one fact. Raises what `plan_block` refuses it with."""
        (planned,) = self.plan_block([fact])
        if isinstance(planned, Exception):
            raise planned
        return planned

    def plan_block(self, facts: Sequence[Fact], *, keep: bool = False) -> list[Change | Exception]:
        """The changes that write the first of `facts` in one commit. Each supersedes the fact with the same prompt (of an
        earlier version's several, those on the newest one's page): that is forgotten or, with `keep`, made history.

        Returns:
            An outcome for each fact that the block takes, at least one: its change, or why it is refused (DuplicateId,
            BadKey, or what packing it raises: its own, since others' facts are in the block). The block ends before a
            fact that would supersede one of its own or take an id that it frees, and at BLOCK_BYTES.
        """
        refusals: list[Exception | None] = []
        taken: dict[str, Fact] = {}  # by prompt
        freed: set[str] = set()
        size = 0
        for fact in facts:
            if fact.id in freed:
                break
            refusal = self._refusal(fact, taken)
            if refusal is None:
                try:
                    prompt, size = self._fact_index.identity(fact.prompt), size + size_bytes(fact)
                except Exception as error:
                    refusals.append(error)
                    continue
                if taken and (prompt in taken or size > BLOCK_BYTES):
                    break
                taken[prompt] = fact
                if not keep:
                    freed.update(self._fact_index.holders(fact.prompt))
            refusals.append(refusal)
        changes = iter(self._changes(taken, keep))
        return [next(changes) if refusal is None else refusal for refusal in refusals]

    def _refusal(self, fact: Fact, taken: Mapping[str, Fact]) -> MemoryError_ | None:
        if fact.id in self._fact_index or any(fact.id == other.id for other in taken.values()):
            return DuplicateId(fact.id)
        if fact.key.shape != (self.dim,) or not bool(torch.isfinite(fact.key).all()):
            return BadKey(f"an address key has shape {tuple(fact.key.shape)}, this memory needs ({self.dim},), all finite")
        if fact.code.dim() != 1 or not len(fact.code) or not bool(torch.isfinite(fact.code).all()):
            return BadKey(f"a value code has shape {tuple(fact.code.shape)}, it must be a vector, all finite")
        if (key := fact.statement) is not None:
            stated = next((len(other.statement) for other in taken.values() if other.statement is not None), None)
            wanted = self._fact_index.statement_dim or stated or len(key)
            if key.shape != (wanted,) or not wanted or not bool(torch.isfinite(key).all()):
                return BadKey(f"a statement key has shape {tuple(key.shape)}, this memory needs ({wanted},), all finite")
        return None

    def _changes(self, facts: Mapping[str, Fact], keep: bool) -> list[Change]:
        """The block of changes that writes facts given by their prompts."""
        if not facts:
            return []
        keys = torch.stack([fact.key for fact in facts.values()])
        neighbours = [
            next(((self._fact_index.page_of(i), similarity) for i, similarity in found), None)
            for found in self._fact_index.nearest(keys, 1)
        ]
        placement = Placement(keys, neighbours, self._free_slots)
        block = self.version + len(facts) if len(facts) > 1 else 0
        changes: list[Change] = []
        for version, fact in enumerate(facts.values(), self.version + 1):
            old = [self._fact_index.get(holder) for holder in self._fact_index.holders(fact.prompt)]
            page = placement.next(self._fact_index.page_of(old[0].id) if old else None)
            change = Change(version, "write", page, replace(fact, version=version), block=block)
            if old:
                gone = tuple(fact.version for fact in old)
                change = replace(change, replaced=tuple(fact.id for fact in old), answers=() if keep else answers_of(*old))
                change = replace(change, retires=gone) if keep else replace(change, forgets=gone)
            changes.append(change)
        return changes

    def plan_update(self, fact: Fact) -> Change:
        """The change that puts `fact` in the place of the one with its id and prompt. Raises FactNotFound."""
        old = self.get(fact.id)
        if old.until:
            raise FactNotFound(fact.id)
        version = self.version + 1
        fact, page = replace(fact, version=version, answer=""), self._fact_index.page_of(fact.id)
        return Change(version, "write", page, fact, (old.version,), replaced=(fact.id,), answers=answers_of(old))

    def plan_forget(self, fact_id: str) -> Change:
        """The change that forgets a fact, be it current or history. Raises FactNotFound."""
        (planned,) = self.plan_forgets([(fact_id, None)])
        if isinstance(planned, FactNotFound):
            raise planned
        return planned

    def plan_forgets(self, facts: Sequence[tuple[str, int | None]]) -> list[Change | FactNotFound]:
        """The changes that forget facts in one commit, be they current or history.

        Args:
            facts: distinct ids; each with the version that wrote the fact which is meant, None for whichever there is.

        Returns:
            An outcome for each: its change, or FactNotFound where there is none or it was changed since that version.
        """
        found = [self._fact_index.get(fact_id) if fact_id in self._fact_index else None for fact_id, _ in facts]
        meant = [fact if fact and version in (None, fact.version) else None for fact, (_, version) in zip(found, facts, strict=True)]
        count, version = sum(fact is not None for fact in meant), self.version
        planned: list[Change | FactNotFound] = []
        for fact, (fact_id, _) in zip(meant, facts, strict=True):
            if fact is None:
                planned.append(FactNotFound(fact_id))
                continue
            version += 1
            change = Change(version, "forget", self._fact_index.page_of(fact_id), forgets=(fact.version,), replaced=(fact_id,))
            planned.append(replace(change, answers=answers_of(fact), block=self.version + count if count > 1 else 0))
        return planned

    def apply(self, changes: Sequence[Change], *, measure: bool = True) -> float:
        """Make the committed changes of one block.

        Args:
            measure: the residual of each forget, and of what a write removes from a page that is solved.

        Returns:
            The greatest residual.

        Raises:
            VersionConflict: they do not follow this memory's version.
        """
        if changes[0].version <= self.version:
            raise VersionConflict(self.version, changes[0].version - 1)
        residuals = []
        for index, own in by_page(changes).items():
            sheet = self._pages.get(index) or PageRows(Page(self.settings, self.dim, device=self.device))
            self._pages[index], residual = self._after(sheet, own, measure)
            self._free_slots.note(index, len(self._pages[index].ids))
            residuals.append(residual)
            for change in own:
                self._account(change, index)
            self._dirty.add(index)
            self._changed_at[index] = changes[-1].version
        self.version = changes[-1].version
        return max(residuals)

    def _account(self, change: Change, index: int) -> None:
        """Bring what is known of the facts up to a change."""
        for version in change.forgets:
            if (fact_id := self._fact_index.written_by(version)) is not None:
                self._fact_index.remove(fact_id)
        for version in change.retires:
            if (fact_id := self._fact_index.written_by(version)) is not None:
                self._fact_index.add(replace(self._fact_index.remove(fact_id), until=change.version), index)
        if change.fact is not None:
            self._fact_index.add(change.fact, index)

    def _after(self, sheet: PageRows, changes: Sequence[Change], measure: bool) -> tuple[PageRows, float]:
        """The sheet after a block's changes of its page."""
        page, ids, residual = sheet.page, sheet.ids, 0.0
        if any(change.forgets or change.retires for change in changes):
            # Solved afresh even if the fact is unknown: it may be gone from the log that is replayed.
            gone = {self._fact_index.written_by(version) for change in changes for version in (*change.forgets, *change.retires)}
            rows = [row for row, fact_id in enumerate(ids) if fact_id in gone]
            page = sheet.page.without(rows)
            if measure and (sheet.page.solved or any(change.kind == "forget" for change in changes)):
                residual = sheet.page.distance(rows, page)
            ids = tuple(fact_id for fact_id in ids if fact_id not in gone)
        facts = [change.fact for change in changes if change.fact is not None]
        if len(facts) >= SOLVE_AT:
            page.write_block(torch.stack([self._address(fact) for fact in facts]), [fact.code for fact in facts])
        else:
            for fact in facts:
                page.write(self._address(fact), fact.code)
        return PageRows(page, (*ids, *(fact.id for fact in facts))), residual

    def snapshot(self) -> dict[int, list[Fact]]:
        """The facts of the pages changed since the last snapshot, rows first, as of this version. These pages are solved
        afresh when they are next asked, as those of a memory that is restored from the snapshot will be."""
        for index in self._dirty:
            self._pages[index].page.settle()
        return self.laid(self._dirty)

    def laid(self, pages: Collection[int] | None = None) -> dict[int, list[Fact]]:
        """The facts of some pages or of all, rows first."""
        chosen = sorted(self._pages if pages is None else pages)
        return {page: [self._fact_index.get(row) for row in self._pages[page].ids] + self._fact_index.history_of(page) for page in chosen}

    def mark_stored(self, pages: Collection[int], version: int) -> None:
        """These pages were stored as of `version`."""
        self._dirty = {index for index in self._dirty if index not in pages or self._changed_at[index] > version}

    def checksum(self) -> str:
        """SHA-256 over all pages and facts: equal memories, bit for bit, have equal checksums."""
        digest = hashlib.sha256(str(self.version).encode())
        for index, sheet in sorted(self._pages.items()):
            digest.update(f"{index} {sheet.page.checksum()}".encode())
            for fact in (*map(self._fact_index.get, sheet.ids), *self._fact_index.history_of(index)):
                digest.update(pack(fact))
        return digest.hexdigest()
