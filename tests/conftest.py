from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)
TIERS = ("service", "model", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of no other tier is a unit test: it needs no weights, store or network."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(pytest.mark.unit)
