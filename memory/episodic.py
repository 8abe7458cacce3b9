"""The episodic memory of one tenant: its pages and its facts.

No I/O and no locks: one thread changes and reads it, and other threads use its view. Live and replayed changes go through `apply`, so
a replayed memory equals the live one bit for bit.
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

SOLVE_AT = 16  # from so many new facts of a page on, one solve is cheaper than bordering for each
BLOCK_BYTES = 900_000  # of a block's facts: one command commits it, and a command has at most 1 MiB


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
        self.view = View()  # of the newest version; any thread may use it
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
        """The memory of a snapshot and a log. Each page is solved when it is first read or written.

        Args:
            repaired: pages with a damaged snapshot, which the next snapshot writes again.

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
        """Apply the changes of a log that are newer than this memory, block by block."""
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
        """Publish all changes up to `version` in a new view."""
        self.view = self._fact_index.view(version)

    def __len__(self) -> int:
        """How many facts there are, history not counted."""
        return len(self._fact_index)

    @property
    def history(self) -> int:
        """How many replaced facts are kept."""
        return self._fact_index.history

    @property
    def pages(self) -> int:
        return len(self._pages)

    @property
    def size_bytes(self) -> int:
        """About how many bytes the memory takes in this process."""
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
        """As KeyIndex.nearest."""
        return self._fact_index.nearest(keys, count)

    def _sheet(self, fact_id: str) -> PageRows:
        return self._pages[self._fact_index.page_of(fact_id)]

    def plan_write(self, fact: Fact) -> Change:
        """The change that writes one fact. Raises the error that `plan_block` returns for it."""
        (planned,) = self.plan_block([fact])
        if isinstance(planned, Exception):
            raise planned
        return planned

    def plan_block(self, facts: Sequence[Fact], *, keep: bool = False) -> list[Change | Exception]:
        """The changes that write the first of `facts` in one commit. Each supersedes the fact with the same prompt, which is forgotten
        or, with `keep`, becomes history. (An earlier version may have stored several; those on the newest one's page are superseded.)

        Returns:
            An outcome for each fact of the block, at least one: its change, or its error (DuplicateId, BadKey, or an error
            of packing), which refuses this fact alone. The block ends before a fact that would supersede a fact of the block or
            take an id that the block frees, and at BLOCK_BYTES.
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
        """The block of changes that writes these facts, given by the identities of their prompts."""
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
        """The change that replaces the fact of the same id and prompt by `fact`. Raises FactNotFound."""
        old = self.get(fact.id)
        if old.until:
            raise FactNotFound(fact.id)
        version = self.version + 1
        fact, page = replace(fact, version=version, answer=""), self._fact_index.page_of(fact.id)
        return Change(version, "write", page, fact, (old.version,), replaced=(fact.id,), answers=answers_of(old))

    def plan_forget(self, fact_id: str) -> Change:
        """The change that forgets a fact, current or history. Raises FactNotFound."""
        (planned,) = self.plan_forgets([(fact_id, None)])
        if isinstance(planned, FactNotFound):
            raise planned
        return planned

    def plan_forgets(self, facts: Sequence[tuple[str, int | None]]) -> list[Change | FactNotFound]:
        """The changes that forget facts, current or history, in one commit.

        Args:
            facts: distinct ids, each with the version that wrote the fact; None accepts any version.

        Returns:
            For each its change, or FactNotFound if there is no such fact or another version wrote it.
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
        """Apply the committed changes of one block.

        Args:
            measure: compute the residual of each forget, and of each fact that a write removes from a solved page.

        Returns:
            The greatest residual.

        Raises:
            VersionConflict: the changes are not newer than this memory.
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
        """Apply a change to the fact index."""
        for version in change.forgets:
            if (fact_id := self._fact_index.written_by(version)) is not None:
                self._fact_index.remove(fact_id)
        for version in change.retires:
            if (fact_id := self._fact_index.written_by(version)) is not None:
                self._fact_index.add(replace(self._fact_index.remove(fact_id), until=change.version), index)
        if change.fact is not None:
            self._fact_index.add(change.fact, index)

    def _after(self, sheet: PageRows, changes: Sequence[Change], measure: bool) -> tuple[PageRows, float]:
        """The page and its ids after a block's changes of it; also the residual."""
        page, ids, residual = sheet.page, sheet.ids, 0.0
        if any(change.forgets or change.retires for change in changes):
            # Solved again even if the fact is unknown: a replayed log may have lost it.
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
        """The facts of the pages that changed since the last snapshot, rows first, as of this version. These pages are solved again
        at the next read or write, as in a memory restored from the snapshot."""
        for index in self._dirty:
            self._pages[index].page.settle()
        return self.laid(self._dirty)

    def laid(self, pages: Collection[int] | None = None) -> dict[int, list[Fact]]:
        """The facts of these pages, or of all: its rows in order, then its history."""
        chosen = sorted(self._pages if pages is None else pages)
        return {page: [self._fact_index.get(row) for row in self._pages[page].ids] + self._fact_index.history_of(page) for page in chosen}

    def mark_stored(self, pages: Collection[int], version: int) -> None:
        """Note that these pages are stored as of `version`."""
        self._dirty = {index for index in self._dirty if index not in pages or self._changed_at[index] > version}

    def checksum(self) -> str:
        """SHA-256 over all pages and facts; equal only for memories that are equal bit for bit."""
        digest = hashlib.sha256(str(self.version).encode())
        for index, sheet in sorted(self._pages.items()):
            digest.update(f"{index} {sheet.page.checksum()}".encode())
            for fact in (*map(self._fact_index.get, sheet.ids), *self._fact_index.history_of(index)):
                digest.update(pack(fact))
        return digest.hexdigest()
