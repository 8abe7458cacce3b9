"""The timing of the update alone."""

from __future__ import annotations

from app.bench.update_times import time_updates
from memory.page import PageSettings


def test_every_repeat_is_timed() -> None:
    times = time_updates(PageSettings(slots=5), dim=12, width=4, repeats=3)
    for seconds in (times.write_s, times.forget_s, times.cold_write_s):
        assert len(seconds) == 3 and min(seconds) > 0
