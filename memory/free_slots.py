"""The free slots of a tenant's pages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, count


class FreeSlots:
    """The number of free slots of each page, and the pages with free slots in the order of their numbers."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._free: dict[int, int] = {}
        self._open: list[int] = []  # pages with free slots, sorted
        self._new = 0  # the number of the next new page

    def note(self, page: int, facts: int) -> None:
        """Note that the page now holds `facts` facts."""
        free, at = self._slots - facts, bisect_left(self._open, page)
        listed = self._open[at : at + 1] == [page]
        if free > 0 and not listed:
            self._open.insert(at, page)
        elif free <= 0 and listed:
            self._open.pop(at)
        self._free[page], self._new = free, max(self._new, page + 1)

    def free(self, page: int) -> int:
        """The free slots of a page; all of them for a new page."""
        return self._free.get(page, self._slots)

    def pages(self) -> Iterator[int]:
        """Pages with free slots, lowest first, then new pages without end. Do not call `note` during the iteration."""
        return chain(self._open, count(self._new))
