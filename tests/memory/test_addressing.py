"""Laws of a page, for both addressings."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memory import algebra
from memory.addressing import AddressingName, KernelAddressing, PseudoInverseAddressing
from memory.errors import BadKey
from memory.fact import Fact
from memory.page import DRIFT, Page, PageSettings

DIM, WIDTH = 96, 8
EXAMPLES = settings(deadline=None, max_examples=20)


@pytest.fixture(scope="module", params=get_args(AddressingName))
def pages(request: pytest.FixtureRequest) -> PageSettings:
    return PageSettings(slots=32, addressing=request.param)


def unit(seed: int, dim: int = DIM) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(dim, generator=torch.Generator().manual_seed(seed)), dim=0)


def code(seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed + 10_000))


def fact(seed: int) -> Fact:
    return Fact(f"f{seed:04}", f"prompt {seed}", "t", unit(seed), code(seed), 0.0, {})


def page_of(pages: PageSettings, *seeds: int) -> Page:
    page = Page(pages, DIM)
    for seed in seeds:
        page.write(unit(seed), code(seed))
    return page


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> bool:
    return got.shape == wanted.shape and algebra.relative(got, wanted) <= tolerance


def least_squares(page: Page) -> Tensor:
    """M by `torch.linalg.lstsq`, from the definition."""
    codes = page.codes.double()
    if isinstance(page.addressing, KernelAddressing):
        return torch.linalg.lstsq(algebra.gram(page.keys, page.addressing.beta, page.addressing.ridge), codes).solution
    assert isinstance(page.addressing, PseudoInverseAddressing)
    rows = page.addressing.slots
    stacked = torch.cat([page.addressing.address(page.keys), page.addressing.ridge**0.5 * torch.eye(rows, dtype=torch.float64)])
    return torch.linalg.lstsq(stacked, torch.cat([codes, torch.zeros(rows, page.width, dtype=torch.float64)])).solution


@given(n=st.integers(1, 30))
@EXAMPLES
def test_sequential_writes_are_the_least_squares_solution(pages: PageSettings, n: int) -> None:
    page = page_of(pages, *range(n))
    assert close(page.matrix, least_squares(page))
    assert page.residual() < 1e-9


@given(n=st.integers(0, 30), seed=st.integers(100, 200))
@EXAMPLES
def test_write_then_forget_restores(pages: PageSettings, n: int, seed: int) -> None:
    before = page_of(pages, *range(n))
    page = page_of(pages, *range(n), seed)
    one_shot = page.addressing.forget(page.inverse, page.matrix, [n], page.keys, page.codes)
    afresh = page.without([n])
    assert page.distance([n], afresh) < DRIFT
    for inverse, matrix in (one_shot, (afresh.inverse, afresh.matrix)):
        assert close(inverse, before.inverse, DRIFT)
        assert n == 0 or close(matrix, before.matrix, DRIFT)


@given(order=st.permutations(range(20)))
@EXAMPLES
def test_the_order_of_writes_does_not_matter(pages: PageSettings, order: list[int]) -> None:
    query = unit(77)
    assert close(page_of(pages, *order).read(query).code, page_of(pages, *range(20)).read(query).code)


@given(n=st.integers(2, 30), data=st.data())
@EXAMPLES
def test_a_forgotten_fact_leaves_what_would_be_had_it_never_been_written(
    pages: PageSettings, n: int, data: st.DataObject
) -> None:
    gone = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n - 1, unique=True))
    page = page_of(pages, *range(n))
    left = page.without(gone)
    never = page_of(pages, *(s for s in range(n) if s not in gone))
    assert page.distance(gone, left) < 2 * DRIFT * len(gone)
    assert close(left.matrix, never.matrix)
    for query in (*never.keys.float(), unit(999)):
        assert close(left.read(query).code, never.read(query).code)


@given(n=st.integers(2, 30), data=st.data())
@EXAMPLES
def test_forgetting_changes_a_paper_readout_by_the_weight_the_fact_spoke_with(n: int, data: st.DataObject) -> None:
    """ẑ' − ẑ = −ω (z − ẑ_own) / (1 − ω_own): a fact that does not speak at a query leaves nothing there."""
    page = page_of(PageSettings(slots=32, addressing="pseudo-inverse"), *range(n))
    gone = data.draw(st.integers(0, n - 1))
    own = page.read(page.keys[gone].float())
    left = page.without([gone])
    for query in (unit(999), page.keys[n - 1 - gone].float()):
        before = page.read(query)
        change = -before.weights[gone] / (1 - own.weights[gone]) * (page.codes[gone].double() - own.code)
        assert torch.allclose(left.read(query).code, before.code + change, rtol=0, atol=1e-8)


@given(n=st.integers(0, 12), block=st.integers(0, 12))
@EXAMPLES
def test_a_block_equals_a_sequence(pages: PageSettings, n: int, block: int) -> None:
    page, seeds = page_of(pages, *range(n)), range(n, n + block)
    page.write_block(torch.stack([unit(s) for s in seeds]) if block else torch.empty(0, DIM), [code(s) for s in seeds])
    sequence = page_of(pages, *range(n + block))
    assert len(page) == n + block
    assert close(page.matrix, sequence.matrix)


@given(n=st.integers(1, 30), seed=st.integers(1000, 2000))
@EXAMPLES
def test_weights_say_how_much_of_each_code_is_in_the_readout(pages: PageSettings, n: int, seed: int) -> None:
    page = page_of(pages, *range(n))
    readout = page.read(unit(seed))
    assert close(page.codes.T.double() @ readout.weights, readout.code)
    assert 0.0 <= readout.variance <= 1.0
    if pages.addressing == "kernel":
        assert abs(float(readout.weights.sum()) - 1.0) < 1e-9


@given(n=st.integers(1, 24))
@EXAMPLES
def test_a_fact_alone_speaks_at_its_own_key(pages: PageSettings, n: int) -> None:
    readout = page_of(pages, *range(n)).read(unit(0))
    assert readout.weights.argmax() == 0
    assert torch.allclose(readout.weights, torch.eye(n, dtype=torch.float64)[0], atol=0.02)
    assert readout.variance < 0.02
    assert close(readout.code, code(0).double(), 0.02)


def test_an_empty_paper_page_knows_nothing_and_a_far_query_reads_nothing() -> None:
    page = page_of(PageSettings(slots=32, addressing="pseudo-inverse"), 0)
    assert torch.equal(Page(page.settings, DIM, WIDTH).matrix, torch.zeros(32, WIDTH, dtype=torch.float64))
    w = page.addressing.address(unit(0).double())  # type: ignore[attr-defined]
    reference = torch.linalg.pinv(page.addressing.address(torch.eye(DIM, dtype=torch.float64)))  # type: ignore[attr-defined]
    far = torch.nn.functional.normalize(torch.linalg.svd(w[None]).Vh[1] @ reference, dim=0).float()  # w of it ⟂ w of the fact
    readout = page.read(far)
    assert float(readout.code.norm()) < 1e-5
    assert readout.variance > 1 - 1e-5


def test_with_more_facts_than_rows_the_paper_memory_reads_the_best_fit() -> None:
    rows, facts = 8, 40
    addressing = PseudoInverseAddressing(rows)
    keys, codes = torch.stack([unit(s) for s in range(facts)]).double(), torch.stack([code(s) for s in range(facts)])
    inverse, matrix = torch.eye(rows, dtype=torch.float64) / addressing.ridge, torch.zeros(rows, WIDTH, dtype=torch.float64)
    for row in range(facts):
        addressing.write(inverse, matrix, keys[:row], keys[row], codes[row].double())
    w = addressing.address(keys)
    best = w @ torch.linalg.lstsq(w, codes.double()).solution
    assert close(w @ matrix, best, 1e-3)
    assert algebra.relative(best, codes.double()) > 0.5, "and the best fit is lossy"


@pytest.mark.parametrize("addressing", get_args(AddressingName))
def test_forgetting_one_of_512_leaves_the_other_511(addressing: AddressingName) -> None:
    """Keys of a real encoder's width in groups of eight alike (cosine 0.6)."""
    n, dim, generator = 512, 896, torch.Generator().manual_seed(5)
    own, group = torch.randn(n, dim, generator=generator), torch.randn(n // 8, dim, generator=generator).repeat(8, 1)
    keys = torch.nn.functional.normalize(0.4**0.5 * own + 0.6**0.5 * group)
    codes = list(torch.randn(n, WIDTH, generator=generator))
    page, never = (Page(PageSettings(addressing=addressing), dim) for _ in range(2))
    page.write_block(keys, codes)
    never.write_block(keys[1:], codes[1:])
    left = page.without([0])
    assert page.distance([0], left) < DRIFT
    for key in keys[1:]:
        now = left.read(key).code
        assert torch.allclose(now, never.read(key).code, rtol=0, atol=1e-9)
        if addressing == "kernel":  # the paper's memory is full at K facts: they share its rows
            assert torch.allclose(now, page.read(key).code, rtol=0, atol=1e-9)


def test_equal_keys_stay_solvable(pages: PageSettings) -> None:
    page = page_of(pages, 1, 1, 1)
    assert torch.isfinite(page.matrix).all()
    assert close(page.read(unit(1)).code, code(1).double(), 1e-3)


def test_a_wider_code_widens_the_page_and_changes_no_readout(pages: PageSettings) -> None:
    page = page_of(pages, *range(6))
    before = page.read(unit(3)).code
    page.write(unit(50), torch.cat([torch.zeros(WIDTH), code(50)]))
    after = page.without([6])
    assert page.width == 2 * WIDTH and after.width == WIDTH
    assert close(after.read(unit(3)).code, before)
    assert close(page.matrix, least_squares(page))


def test_a_key_or_code_that_does_not_fit_changes_nothing(pages: PageSettings) -> None:
    page = page_of(pages, *range(4))
    matrix = page.matrix.clone()
    nan = torch.full((DIM,), torch.nan)
    for key, value in ((unit(0, 5), code(9)), (nan, code(9)), (unit(9), nan), (unit(9), torch.empty(0))):
        with pytest.raises(BadKey):
            page.write(key, value)
        with pytest.raises(BadKey):
            page.write_block(torch.stack([key]), [value])
    assert len(page) == 4 and torch.equal(page.matrix, matrix)


@given(n=st.integers(0, 20), later=st.integers(100, 120))
@EXAMPLES
def test_a_settled_page_lives_on_from_its_rows_bit_for_bit(pages: PageSettings, n: int, later: int) -> None:
    page = page_of(pages, *range(n))
    page.settle()
    laid = Page.of(pages, DIM, [unit(s) for s in range(n)], [code(s) for s in range(n)], "cpu")
    if later % 2 and n:
        laid.read(unit(later))  # when it is solved does not matter
    for both in (page, laid):
        both.write(unit(later), code(later, 2 * WIDTH))
    for name in ("keys", "codes", "inverse", "matrix"):
        assert torch.equal(getattr(page, name), getattr(laid, name))
    assert torch.equal(page.read(unit(later)).code, laid.read(unit(later)).code)


def test_unknown_addressing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'hash', it must be one of kernel, pseudo-inverse"):
        PageSettings(addressing="hash")  # type: ignore[arg-type]
