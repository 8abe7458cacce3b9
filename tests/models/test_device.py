"""A request's CUDA stream: ordered behind what it needs and before what needs it. On the CPU the scope does nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from memory.page import Page, PageSettings
from models import device
from models.device import request_stream

TENANTS, FACTS, DIM, WIDTH = 64, 24, 96, 32
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]


def test_on_the_cpu_the_scope_does_nothing() -> None:
    with request_stream(torch.device("cpu")) as scope:
        scope.record(torch.ones(3))
        assert scope.stream is None


def drawn(where: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(TENANTS, FACTS, DIM, generator=generator), dim=-1)
    return keys.to(where), torch.randn(TENANTS, FACTS, WIDTH, generator=generator).to(where)


def written(scope: Any) -> list[torch.Tensor]:
    """Memory matrices of tenants whose updates run under `scope`, interleaved; keys are made just before, on the caller's stream."""
    keys, codes = drawn("cuda")
    pages = [Page(PageSettings(slots=FACTS), DIM, WIDTH, "cuda") for _ in range(TENANTS)]
    for number in range(FACTS):
        for tenant, page in enumerate(pages):
            key, code = keys[tenant, number] * 1.0, codes[tenant, number] * 1.0
            with scope(torch.device("cuda")) as stream:
                stream.record(key, code)
                page.write(key, code)
    torch.cuda.synchronize()
    return [page.matrix.cpu() for page in pages]


class TestOnAGpu:
    pytestmark = gpu

    def test_tenants_in_their_own_streams_equal_those_one_after_the_other(self) -> None:
        @contextmanager
        def one_after_the_other(_: torch.device) -> Any:
            yield device.RequestStream()

        for own, plain in zip(written(request_stream), written(one_after_the_other), strict=True):
            assert torch.allclose(own, plain, atol=1e-10, rtol=0)

    def test_a_scope_without_its_events_is_found_out(self) -> None:
        """What the test above would see: a consumer on another stream reads before a late producer has written."""
        source = torch.zeros(1 << 22, device="cuda")
        torch.cuda.synchronize()
        torch.cuda._sleep(200_000_000)
        source.fill_(1.0)
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]  # torch's
            unordered = source.clone()
        torch.cuda.synchronize()
        source.zero_()
        torch.cuda._sleep(200_000_000)
        source.fill_(1.0)
        with request_stream(torch.device("cuda")) as scope:
            scope.record(source)
            ordered = source.clone()
        torch.cuda.synchronize()
        assert float(unordered.sum()) < len(unordered), "the delay was too short to show anything"
        assert float(ordered.sum()) == len(ordered)

    def test_what_follows_the_scope_waits_for_it(self) -> None:
        target = torch.zeros(1 << 22, device="cuda")
        with request_stream(torch.device("cuda")):
            torch.cuda._sleep(200_000_000)
            target.fill_(1.0)
        assert float(target.sum()) == len(target)
