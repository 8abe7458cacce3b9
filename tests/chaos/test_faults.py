"""Short runs of `larimar chaos`: every violation is counted, and there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.chaos.faults import FAULTS
from app.chaos.ledger import Ledger
from app.chaos.processes import Missing
from app.chaos.stage import Stage
from app.server.settings import Settings


@pytest.mark.model
@pytest.mark.parametrize(
    ("fault", "store", "rounds"),
    [
        ("kill-server", "embedded", 2),
        ("kill-store", "redis", 2),
        ("full-store", "redis", 1),
        ("cut-connection", "redis", 2),
        ("full-disk", "embedded", 1),
        ("clock-back", "embedded", 1),
    ],
)
def test_nothing_acknowledged_is_lost_and_nothing_forgotten_returns(tmp_path: Path, fault: str, store: str, rounds: int) -> None:
    if store == "redis" and shutil.which("redis-server") is None:
        pytest.skip("no redis-server on PATH (apt-get install redis-server)")
    try:
        outcome = FAULTS[fault](Stage(tmp_path, Settings().weights_dir, store, rounds, 7, lambda _: None))
    except Missing as missing:
        pytest.skip(str(missing))
    assert outcome.passed, outcome


def test_the_ledger_tells_every_violation() -> None:
    ledger = Ledger()
    for name in ("kept", "lost", "gone", "half"):
        ledger.write_asked(name, f"p {name}", "t")
        ledger.write_acknowledged(name)
    ledger.forget_asked("gone")
    ledger.forget_acknowledged("gone")
    ledger.write_asked("doubtful", "p", "t")
    found = ledger.check({"kept": ("p kept", "t"), "gone": ("p gone", "t"), "half": ("p half", "x"), "new": ("p", "t")})
    assert (found.lost, found.returned, found.half, found.unasked) == (["lost"], ["gone"], ["half"], ["new"])
    assert found.count == 4
    assert not ledger.check({"kept": ("p kept", "t"), "half": ("p half", "t"), "lost": ("p lost", "t")}).count
