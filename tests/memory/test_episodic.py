"""Laws of pages and of a tenant's memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from memory.addressing import AddressingName
from memory.change import Change
from memory.episodic import EpisodicMemory
from memory.errors import BadKey, CorruptChange, CorruptRecord, DuplicateId, FactNotFound
from memory.excerpt import Excerpt, Selection
from memory.fact import Fact
from memory.fact_index import FactIndex
from memory.key_index import KeyIndex
from memory.packed_fact import describe, pack, unpack
from memory.page import Page, PageSettings, StoredPage
from memory.query import Query
from memory.scope.rules import Scope
from memory.spelling import address, normalise
from memory.store.sealed_record import DataKey

DIM, WIDTH = 24, 8
SMALL = PageSettings(slots=8)


def unit(seed: int, dim: int = DIM) -> Tensor:
    return normalize(torch.randn(dim, generator=torch.Generator().manual_seed(seed)), dim=0)


def code(seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed + 10_000))


def fact(seed: int, prompt: str | None = None) -> Fact:
    return Fact(f"f{seed:04}", prompt or f"prompt {seed}", "t", unit(seed), code(seed, WIDTH * (1 + seed % 3)), 0.0, {})


def close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=0, atol=1e-5))


def test_a_record_round_trips_and_opens_nowhere_else() -> None:
    told = replace(fact(4), version=3, expires_at=9.5, until=7, answer="a", metadata={"n": 1, "b": True, "x": None})
    key = DataKey.new()
    sealed = key.seal("tenant", 3, pack(told))
    again = unpack(key.open("tenant", 3, sealed))
    assert describe(again) == describe(told)
    assert torch.equal(again.key, told.key) and torch.equal(again.code, told.code)
    assert told.prompt.encode() not in sealed and told.code.numpy().tobytes()[:16] not in sealed
    for tenant, version, opener in (("tenanT", 3, key), ("tenant", 4, key), ("tenant", 3, DataKey.new())):
        with pytest.raises(CorruptRecord):
            opener.open(tenant, version, sealed)
    for at in range(len(sealed)):
        torn = bytearray(sealed)
        torn[at] ^= 0x10
        with pytest.raises(CorruptRecord):
            key.open("tenant", 3, bytes(torn))


def test_a_change_round_trips_and_holds_no_word_of_its_fact() -> None:
    change = Change(3, "write", 1, replace(fact(4), version=3), (1,), (2,), 5, ("f0001", "f0002"))
    fields = change.to_fields(b"sealed", "model")
    again = Change.from_fields(fields)
    assert (again.version, again.page, again.forgets, again.retires, again.block) == (3, 1, (1,), (2,), 5)
    assert not any(word in b"".join(fields.values()) for word in (b"prompt", b"f0001", b"f0004"))
    for name in fields:
        with pytest.raises(CorruptChange):
            Change.from_fields(fields | {name: fields[name] + b"x"})


@pytest.mark.parametrize("keep", [False, True])
def test_a_correction_replaces_all_that_an_earlier_version_told_apart(keep: bool) -> None:
    told = [replace(fact(1, prompt), id=f"f{v}", version=v, code=code(v)) for v, prompt in enumerate(("Q: who?", "Who?", "who?"), 1)]
    pages = {0: StoredPage(3, tuple(told[:2])), 1: StoredPage(3, (told[2],))}
    clean = Scope(clean=lambda prompt: prompt.removeprefix("Q: "))

    def restored() -> EpisodicMemory:
        return EpisodicMemory.restore(DIM, SMALL, clean, pages=pages, changes=[], version=3)

    memory = restored()
    assert memory.holder("who?") == "f3"
    memory.apply([memory.plan_forget("f3")])
    assert memory.holder("who?") == "f2"  # it is still there
    (change,) = memory.plan_block([fact(1, "who?")], keep=keep)
    assert isinstance(change, Change) and change.replaced == ("f2", "f1") and change.page == 0
    assert (change.retires, change.forgets) == (((2, 1), ()) if keep else ((), (2, 1)))
    memory.apply([change])
    assert [held.id for held in memory.facts()] == ["f0001"] and memory.history == (2 if keep else 0)
    recalled = memory.recall("f0001")
    assert close(recalled, fact(1).code.to(recalled))
    memory.apply([memory.plan_forget("f0001")])
    assert memory.holder("who?") is None
    memory = restored()  # what lies on another page stays and takes over
    memory.apply([memory.plan_write(fact(1, "who?"))])
    assert [held.id for held in memory.facts()] == ["f0001", "f1", "f2"] and memory.holder("who?") == "f0001"
    memory.apply([memory.plan_forget("f0001")])
    assert memory.holder("who?") == "f2"


def test_what_is_made_already_is_not_replayed() -> None:
    memory, again = EpisodicMemory(DIM, SMALL, Scope()), EpisodicMemory(DIM, SMALL, Scope())
    changes = [memory.plan_write(fact(1))]
    memory.apply(changes)
    for facts in ([fact(2), fact(3)], [fact(4)]):
        block = [change for change in memory.plan_block(facts) if isinstance(change, Change)]
        memory.apply(block)
        changes += block
    again.replay(changes[:3])
    again.replay(changes)
    again.replay(changes)
    assert again.checksum() == memory.checksum()


class Disk:
    """What the store would keep of a memory: pages as of a snapshot and the changes since, without what is forgotten."""

    def __init__(self) -> None:
        self.pages: dict[int, StoredPage] = {}
        self.log: list[Change] = []

    def commit(self, changes: list[Change]) -> None:
        self.log += [replace(change, replaced=(), answers=()) for change in changes]

    def snapshot(self, memory: EpisodicMemory) -> None:
        pages = memory.snapshot()
        for index, facts in pages.items():
            self.pages[index] = StoredPage(memory.version, tuple(facts))
        memory.mark_stored(pages, memory.version)
        self.log = []

    def restore(self, settings: PageSettings, version: int) -> EpisodicMemory:
        gone = {version for change in self.log for version in change.forgets}
        pages = {
            index: replace(page, facts=tuple(fact for fact in page.facts if fact.version not in gone))
            for index, page in self.pages.items()
        }
        changes = [replace(change, fact=None) if change.version in gone else change for change in self.log]
        return EpisodicMemory.restore(DIM, settings, Scope(), pages=pages, changes=changes, version=version)


@pytest.mark.parametrize("addressing", get_args(AddressingName))
@given(steps=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 30)), min_size=1, max_size=40), slots=st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_replay_without_what_was_forgotten_equals_the_live_memory(
    addressing: AddressingName, steps: list[tuple[int, int]], slots: int
) -> None:
    """Bit for bit: single writes, blocks of all sizes, history, forgets alone and in blocks, reads and snapshots in any order."""
    pages = PageSettings(slots=slots, addressing=addressing)
    live, disk = EpisodicMemory(DIM, pages, Scope()), Disk()
    taken = 0

    def named(seed: int) -> Fact:
        nonlocal taken
        taken += 1
        return replace(fact(seed), id=f"n{taken:04}")

    for kind, number in steps:
        if kind == 2:
            disk.snapshot(live)
            continue
        if kind == 6:
            live.read([Query("prompt", unit(number))])
            continue
        if kind in (3, 7):
            ids = [f.id for f in live.facts(limit=1000, where=lambda _: True)]
            if not ids:
                continue
            first = number % len(ids)
            several = [(fact_id, None) for fact_id in ids[first : first + 5]]
            planned = [live.plan_forget(ids[first])] if kind == 3 else live.plan_forgets(several)
            changes = [change for change in planned if isinstance(change, Change)]
        else:
            facts = [named(seed) for seed in range(number, number + (number if kind == 4 else 0) + 1)]
            changes = [change for change in live.plan_block(facts, keep=kind == 5) if isinstance(change, Change)]
        disk.commit(changes)
        live.apply(changes)
    again = disk.restore(pages, live.version)
    assert again.checksum() == live.checksum()
    assert [f.id for f in again.facts(limit=1000)] == [f.id for f in live.facts(limit=1000)]
    assert all(sheet.page.residual() < 1e-9 for sheet in live._pages.values())
    assert again.plan_write(named(40)).page == live.plan_write(named(40)).page


def test_a_block_of_forgets_takes_those_that_are_meant() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for number in range(20):
        memory.apply([memory.plan_write(fact(number))])
    planned = memory.plan_forgets([("f0003", None), ("f0004", 99), ("nobody", None), ("f0009", 10)])
    assert [type(outcome) for outcome in planned] == [Change, FactNotFound, FactNotFound, Change]
    changes = [outcome for outcome in planned if isinstance(outcome, Change)]
    assert [(change.version, change.block, change.forgets) for change in changes] == [(21, 22, (4,)), (22, 22, (10,))]
    assert memory.apply(changes) < 1e-9
    assert {f"f{number:04}" for number in range(20)} - {f.id for f in memory.facts()} == {"f0003", "f0009"}


def test_history_is_kept_out_of_the_pages_and_can_be_asked() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for number, text in enumerate(("red", "green", "blue")):
        told = replace(fact(1, "the colour is"), id=f"c{number}", target=text, code=code(number))
        memory.apply([change for change in memory.plan_block([told], keep=True) if isinstance(change, Change)])
    assert [f.target for f in memory.facts()] == ["blue"] and len(memory) == 1
    query = [Query("the colour is", unit(1))]
    for version, number in ((1, 0), (2, 1), (3, 2)):
        reading = Excerpt(memory, Selection(as_of=version)).read(query)
        assert reading.facts[0][0] == f"c{number}"
        assert reading.code is not None and close(reading.code, code(number).double())
    memory.apply([memory.plan_forget("c1")])
    assert Excerpt(memory, Selection(as_of=2)).read(query).code is None
    assert Excerpt(memory, Selection(as_of=10**12)).version == memory.version
    assert memory.read(query).facts[0][0] == "c2"


@pytest.mark.parametrize("gone", [3, 5])
def test_forgetting_keeps_nothing_in_the_live_structures(gone: int) -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(6):
        memory.apply([memory.plan_write(fact(seed))])
    memory.apply([memory.plan_forget(f"f{gone:04}")])
    held = pickle.dumps(vars(memory))

    def traces(seed: int) -> list[bytes]:
        told = fact(seed)
        tensors = (told.key, told.code, address(told.key, normalise(told.prompt)).double(), told.code.double(), told.key.double())
        return [told.prompt.encode(), told.id.encode(), *(tensor.numpy().tobytes()[:32] for tensor in tensors)]

    assert not any(trace in held for trace in traces(gone))
    assert all(trace in held for trace in traces(2)[:5])


def test_the_residual_of_a_forget_is_measured_whether_or_not_the_page_was_solved() -> None:
    memory, disk = EpisodicMemory(DIM, SMALL, Scope()), Disk()
    for seed in range(6):
        memory.apply([memory.plan_write(fact(seed))])
    disk.snapshot(memory)  # which has the pages solved anew
    residuals = [memory.apply([memory.plan_forget("f0001")])]
    loaded = EpisodicMemory.restore(DIM, SMALL, Scope(), pages=disk.pages, changes=[], version=6)
    residuals.append(loaded.apply([loaded.plan_forget("f0001")]))
    assert all(0 < residual < 1e-12 for residual in residuals)
    followed = EpisodicMemory.restore(DIM, SMALL, Scope(), pages=disk.pages, changes=[], version=6)
    followed.replay([followed.plan_forget("f0001")])
    assert not followed._pages[0].page.solved  # a replay compares nothing
    assert memory.checksum() == loaded.checksum() == followed.checksum()


def test_a_block_is_solved_at_once_and_reads_like_a_sequence() -> None:
    block, sequence = (EpisodicMemory(DIM, PageSettings(slots=64), Scope()) for _ in range(2))
    facts = [fact(seed) for seed in range(30)]
    planned = block.plan_block(facts)
    assert [c.version for c in planned if isinstance(c, Change)] == list(range(1, 31))
    block.apply([c for c in planned if isinstance(c, Change)])
    for one in facts:
        sequence.apply([sequence.plan_write(one)])
    assert block._pages[0].page.unchecked == 0 and block.version == sequence.version == 30
    assert block._pages[0].ids == sequence._pages[0].ids
    assert torch.allclose(block._pages[0].page.matrix, sequence._pages[0].page.matrix, rtol=0, atol=1e-9)


def test_a_block_refuses_a_bad_fact_and_takes_the_others() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    memory.apply([memory.plan_write(fact(1))])
    narrow = replace(fact(5), key=unit(5, DIM - 1))
    nan = replace(fact(6), code=code(6) * float("nan"))
    first, taken, again, other, key, value = memory.plan_block([fact(2), fact(1), fact(2, "b"), fact(3), narrow, nan])
    assert isinstance(first, Change) and isinstance(other, Change) and (first.version, other.version) == (2, 3)
    assert isinstance(taken, DuplicateId) and isinstance(again, DuplicateId)
    assert isinstance(key, BadKey) and isinstance(value, BadKey)


def test_a_block_ends_before_it_would_supersede_itself_and_before_a_command_grows_too_long() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    facts = [fact(1, "a"), fact(2, "b"), fact(3, "A"), fact(4, "c")]
    assert [c.version for c in memory.plan_block(facts) if isinstance(c, Change)] == [1, 2]
    long = [replace(fact(seed), code=torch.zeros(4096)) for seed in range(200)]
    changes = [change for change in memory.plan_block(long) if isinstance(change, Change)]
    sizes = [len(pack(change.fact)) for change in changes if change.fact]
    assert 20 < len(changes) < 200 and 800_000 < sum(sizes) < 950_000


def test_the_same_prompt_supersedes_and_unknown_ids_are_refused() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    memory.apply([memory.plan_write(fact(1, "The  capital is"))])
    with pytest.raises(DuplicateId):
        memory.plan_write(fact(1))
    change = memory.plan_write(fact(2, "the capital is:"))
    assert (change.forgets, change.replaced) == ((1,), ("f0001",))
    memory.apply([change])
    assert [f.id for f in memory.facts()] == ["f0002"]
    with pytest.raises(FactNotFound):
        memory.plan_forget("f0001")


def test_more_facts_than_slots_go_to_more_pages_and_all_are_read_back() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(50):
        memory.apply([memory.plan_write(fact(seed))])
    assert memory.pages >= 7
    for seed in range(50):
        reading = memory.read([Query(f"prompt {seed}", unit(seed))])
        assert reading.in_scope and reading.facts[0][0] == f"f{seed:04}"


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=60), slots=st.integers(1, 5))
@example(steps=[(True, 0), (True, 0), (False, 0), (True, 0)], slots=1)
@settings(deadline=None, max_examples=50)
def test_a_page_is_made_only_where_all_are_full(steps: list[tuple[bool, int]], slots: int) -> None:
    """So the pages are no more than the most facts there ever were fill, whatever is written and forgotten."""
    memory, most = EpisodicMemory(DIM, PageSettings(slots=slots), Scope()), 0
    for number, (writes, size) in enumerate(steps):
        held = [f.id for f in memory.facts(limit=1000)]
        if writes:
            facts = [replace(fact(seed, f"{number} {seed}"), id=f"{number:03}-{seed}") for seed in range(size % 7 + 1)]
            memory.apply([change for change in memory.plan_block(facts) if isinstance(change, Change)])
        elif held:
            memory.apply([memory.plan_forget(held[size % len(held)])])
        most = max(most, len(memory))
        assert all(len(sheet.ids) <= slots for sheet in memory._pages.values())
        assert memory.pages <= -(-most // slots)


def test_excluding_a_fact_reads_as_if_it_was_forgotten() -> None:
    memory, never = EpisodicMemory(DIM, SMALL, Scope()), EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(6):
        memory.apply([memory.plan_write(fact(seed))])
    never_facts = [s for s in range(6) if s != 2]
    for seed in never_facts:
        never.apply([never.plan_write(fact(seed))])
    query = [Query("prompt 2", unit(2))]
    assert memory.read(query, exclude=["f0002"]).facts[0][0] == never.read(query).facts[0][0]


def test_each_question_of_a_prompt_recalls_its_fact_and_out_of_scope_nothing_is_recalled() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(3):
        memory.apply([memory.plan_write(fact(seed))])
    both = memory.read([Query("prompt 2", unit(2), 0), Query("prompt 0", unit(0), 1), Query("both", unit(50), None)])
    assert [fact_id for fact_id, _ in both.recalled] == ["f0002", "f0000"]
    assert [(part.query, part.fact) for part in both.parts] == [("prompt 2", "f0002"), ("prompt 0", "f0000")]
    one = memory.read([Query("prompt 2", unit(2), 0), Query("nothing", unit(60), 1)])
    assert [fact_id for fact_id, _ in one.recalled] == ["f0002"]
    assert torch.equal(one.readouts[0], memory.recall("f0002"))
    out = memory.read([Query("nothing", unit(60))])
    assert not out.in_scope and out.recalled == () and out.readouts == () and out.parts == ()


def test_of_more_questions_than_a_prompt_may_ask_the_first_are_answered_though_the_best_is_the_last() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(4):
        memory.apply([memory.plan_write(fact(seed))])
    near = [Query(f"prompt {seed}", normalize(unit(seed) + 0.1 * unit(70 + seed), dim=0), seed) for seed in range(3)]
    reading = memory.read([*near, Query("prompt 3", unit(3), 3)])
    assert reading.fact == "f0003" and [part.fact for part in reading.parts] == ["f0000", "f0001", "f0002"]
    assert reading.code is not None and torch.equal(reading.code, memory.recall("f0003"))


def test_a_fact_whose_weight_is_nothing_is_not_said_to_have_spoken() -> None:
    memory = EpisodicMemory(DIM, PageSettings(slots=4), Scope())
    for seed in range(3):
        key = torch.zeros(DIM)
        key[seed] = 1.0
        memory.apply([memory.plan_write(replace(fact(seed), key=key))])
    query = torch.zeros(DIM)
    query[1] = 1.0
    assert [fact_id for fact_id, _ in memory.read([Query("prompt 1", query)]).facts] == ["f0001"]


def test_the_weights_are_those_of_the_readout_though_the_query_lies_nearer_to_another_fact() -> None:
    memory = EpisodicMemory(DIM, PageSettings(slots=4), Scope())
    for seed in range(3):
        memory.apply([memory.plan_write(fact(seed))])
    between = normalize(unit(0) + 0.97 * unit(1), dim=0)
    reading = memory.read([Query("prompt 1", between)])  # the words of one, and a little nearer to another
    assert reading.fact == "f0001" and reading.code is not None and torch.equal(reading.code, memory.recall("f0001"))
    assert reading.facts[0][0] == "f0001" and reading.facts[0][1] > 0.999 and reading.spoke[0] == "f0001"
    assert sum(weight for _, weight in reading.facts) == pytest.approx(1.0, abs=1e-5)
    assert reading.variance > memory.read([Query("prompt 1", unit(1))]).variance


def test_a_large_directory_finds_what_a_product_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.key_index.COARSE_AT", 100)
    directory = KeyIndex(DIM)
    keys = torch.stack([unit(seed) for seed in range(300)])
    for start in range(0, 300, 50):
        directory.add([f"f{seed}" for seed in range(start, start + 50)], keys[start : start + 50])
    for seed in (0, 299, 150):
        directory.remove(f"f{seed}")
    left = [seed for seed in range(300) if seed not in (0, 299, 150)]
    queries = torch.stack([unit(seed) for seed in range(1000, 1020)])
    found = directory.nearest(queries, 4)
    top = (queries @ keys[left].T).topk(4)
    assert [[i for i, _ in row] for row in found] == [[f"f{left[i]}" for i in row] for row in top.indices.tolist()]
    assert torch.allclose(torch.tensor([[s for _, s in row] for row in found]), top.values, atol=1e-6)


def rows_bytes(directory: KeyIndex) -> int:
    return sum(rows.nbytes for rows in (directory._keys, directory._coarse, directory._scale))


def test_a_directory_gives_back_the_rows_it_needs_no_more() -> None:
    directory, count = KeyIndex(DIM), 2000
    row, most = 5 * DIM + 4, 0
    for seed in range(count):
        directory.add([f"f{seed}"], unit(seed)[None])
        assert rows_bytes(directory) == row * len(directory) + directory.spare_bytes <= row * len(directory) * 9 / 8
    for seed in range(count - 10):
        directory.remove(f"f{seed}")
        assert rows_bytes(directory) == row * len(directory) + directory.spare_bytes
        most = max(most, directory.spare_bytes - row * len(directory) // 3)
    assert most <= 4 * row
    left = range(count - 10, count)
    found = directory.nearest(torch.stack([unit(seed) for seed in left]), 1)
    assert [name for ((name, _),) in found] == [f"f{seed}" for seed in left]
    for seed in left:
        directory.remove(f"f{seed}")
    assert rows_bytes(directory) <= 3 * row and not directory._keys.any() and not directory._row


def test_a_memory_that_forgot_all_is_small_again_and_says_so() -> None:
    memory = EpisodicMemory(DIM, PageSettings(slots=64), Scope())
    for seed in range(200):
        memory.apply([memory.plan_write(fact(seed))])
    held = memory.size_bytes
    for seed in range(200):
        memory.apply([memory.plan_forget(fact(seed).id)], measure=False)
    assert rows_bytes(memory._fact_index._key_index) == memory.size_bytes < held / 100


class Compared(str):
    """An id that counts how often it is compared with another."""

    times = 0

    def __lt__(self, other: str) -> bool:
        Compared.times += 1
        return str(self) < other


def test_the_history_of_a_page_costs_what_that_page_has() -> None:
    register = FactIndex(DIM)
    for page, count in ((0, 3), (1, 200)):
        for number in reversed(range(count)):
            seed = 1000 * page + number
            register.add(replace(fact(seed), id=Compared(f"f{seed:04}"), version=seed + 1, until=5000), page)
    Compared.times = 0
    assert [f.id for f in register.history_of(0)] == ["f0000", "f0001", "f0002"] and Compared.times < 10
    assert len(register.history_of(1)) == 200 and register.history == 203 and register.history_of(2) == []
    for number in range(3):
        register.remove(f"f{number:04}")
    assert register.history_of(0) == [] and register.history == 200 and list(register._history) == [1]


def test_rows_to_leave_out_are_looked_at_once_whatever_the_page_holds() -> None:
    looked = 0

    class Rows(list[int]):
        def __iter__(self) -> Iterator[int]:
            nonlocal looked
            looked += 1
            return super().__iter__()

    keys, codes = [unit(seed) for seed in range(50)], [code(seed) for seed in range(50)]
    page = Page.of(PageSettings(), DIM, keys, codes, "cpu")
    left = page.without(Rows([3, 7]))
    assert torch.equal(left.keys, page.keys[[row for row in range(50) if row not in (3, 7)]]) and looked == 1
