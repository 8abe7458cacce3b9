from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.memory.servers import KINDS, Server, running

torch.set_num_threads(1)
TIERS = ("service", "model", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of no other tier is a unit test: it needs no weights, store or network."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(pytest.mark.unit)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server of each kind, shared by the tests of a module."""
    with running(request.param, tmp_path_factory.mktemp("s")) as server:
        yield server
