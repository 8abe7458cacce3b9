"""What is left of an answer given under an Idempotency-Key when its fact is replaced or forgotten: that the key was used, and when.

A request that comes again late would else be a new one, and teach what was forgotten or put it over what is newer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from memory.change import Change

KEPT_S = 24 * 3600.0  # an answer, or that it was given, from when it was given
MOST_SPENT = 100_000  # keys of a tenant, the latest: about 15 MB


def spent(changes: Sequence[Change]) -> list[str | bytes]:
    """For a commit: the time before which nothing is kept, for how many milliseconds what is kept is, and how much of it; then digest
    and time of each key whose answer ends with it."""
    before = time.time() - KEPT_S
    ended = [answer for change in changes for answer in change.answers]
    kept = [part for name, at in ended if at > before for part in (name, repr(at))]
    return [repr(before), str(int(KEPT_S * 1000)), str(MOST_SPENT), *kept]
