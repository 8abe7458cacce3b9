"""The timing of the update alone."""

from __future__ import annotations

from memory.page import PageSettings
from memory.timing import time_updates


def test_every_repeat_is_timed_from_the_same_state() -> None:
    times = time_updates(PageSettings(slots=5), dim=12, width=4, repeats=3)
    assert len(times.write_s) == len(times.forget_s) == 3
    assert min(*times.write_s, *times.forget_s) > 0
