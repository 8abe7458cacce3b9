"""Words that exclude each other: of a left and a right part, of Monday and Tuesday, only one can be meant."""

from __future__ import annotations

from collections.abc import Collection

# A row is a set of contrasts; words joined by / say the same.
_ROWS = """
left right
basement ground first second third fourth fifth sixth seventh eighth ninth tenth attic
last/previous/former/past this/current/present next/coming
one two three four five six seven eight nine ten eleven twelve
upper/top lower/bottom middle
big/large/huge small/little/tiny medium
old new
front/forward back/rear
inside/indoor/indoors outside/outdoor/outdoors
before after
above/over below/under
morning afternoon evening night noon/midday midnight
breakfast lunch dinner
monday/mondays tuesday/tuesdays wednesday/wednesdays thursday/thursdays friday/fridays saturday/saturdays sunday/sundays
january february march april may june july august september october november december
spring summer autumn winter
red blue green yellow black white grey/gray brown pink purple orange
north/northern south/southern east/eastern west/western
man/men/male/boy/boys woman/women/female/girl/girls
mother/mum/mom father/dad sister brother son daughter aunt uncle grandma/grandmother grandpa/grandfather wife husband
dog/dogs cat/cats horse/horses rabbit/rabbits hamster/hamsters
adult/adults child/children/kids
daily weekly monthly quarterly yearly/annual
domestic international/foreign
hot cold
open/opens/opening close/closes/closing
start/starts/begin/begins end/ends/finish/finishes
import/imports export/exports
maximum/max minimum/min
entrance exit
arrival/arrive/arrives departure/depart/departs
inbound/incoming outbound/outgoing
public private
internal external
"""
_PLACE = {
    word: (row, column)
    for row, line in enumerate(_ROWS.strip().splitlines())
    for column, group in enumerate(line.split())
    for word in group.split("/")
}


def contrasts(some: Collection[str], others: Collection[str]) -> bool:
    """Whether both (case folded words) hold words of one row, and none that says the same."""
    ours, theirs = _columns(some), _columns(others)
    return any(not ours[row] & theirs[row] for row in ours.keys() & theirs.keys())


def _columns(words: Collection[str]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for word in words:
        if place := _PLACE.get(word):
            found.setdefault(place[0], set()).add(place[1])
    return found
