"""Spent idempotency keys: when an answer's fact is replaced or forgotten, the key and its time stay on record for 24 hours.

Without that record a late repetition would count as a new request, and teach a forgotten fact again or supersede a newer one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from memory.change import Change

KEPT_S = 24 * 3600.0  # how long an answer, or the record of a spent key, is kept after the answer
MOST_SPENT = 100_000  # spent keys of a tenant that are kept, the latest ones: about 15 MB


def spent(changes: Sequence[Change]) -> list[str | bytes]:
    """Arguments of the commit script: oldest time to keep (Unix), expiry in ms, maximum count; then digest and time of each
    idempotency key that this commit ends."""
    before = time.time() - KEPT_S
    ended = [answer for change in changes for answer in change.answers]
    kept = [part for name, at in ended if at > before for part in (name, repr(at))]
    return [repr(before), str(int(KEPT_S * 1000)), str(MOST_SPENT), *kept]
