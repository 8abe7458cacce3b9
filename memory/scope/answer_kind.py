"""What kind of answer a question wants, and what kind a target is: "who" fits no date, "how many" no name."""

from __future__ import annotations

import re

_TIME = (
    r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b|\b(?:january|february|march|april|may|june|july|august|september|october|"
    r"november|december|noon|midnight|o'clock|[ap]\.?m|weeks?|days?|months?|years?|hours?|minutes?|past|quarter|yesterday|tomorrow)\b"
)
_NUMBER = r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|half|none|twice|once)\b"
_WANTS = {
    "person": re.compile(
        r"\b(?:who|whom|ceo|president|chair(?:man|woman)?|boss|manager|director|founder|founded by|owner|owned by|author|captain|"
        r"teacher|doctor|dentist|vet|coach|chef|secretary|leader|mayor|minister|inventor|composer|wife|husband|spouse)\b"
    ),
    "time": re.compile(
        r"\b(?:when|what time|which (?:day|month|year|date)|until|deadline|date|birthday|opens? at|closes? at|starts? at|begins? at|"
        r"due|founded in|established in|expires)\b"
    ),
    "place": re.compile(
        r"\b(?:where|headquarters|based in|located in|born in|died in|lives in|stored in|kept (?:in|at)|address|venue|meets? (?:in|at))\b"
    ),
    "number": re.compile(
        r"\b(?:how (?:many|much|old|long|far|tall|big|often|heavy|high)|costs?|price|fee|budget|number of|population|height|weight|"
        r"salary|rent)\b"
    ),
}


_ASKS = frozenset(
    "who whom whose what when where which why how is are was were does do did can could will would has have tell give name find "
    "show remind say state please".split()
)


def is_question(text: str) -> bool:
    """Whether a text asks or requests, in place of being a statement to complete."""
    first = re.search(r"[^\W\d_]+", text)
    return text.rstrip().endswith("?") or (first is not None and first.group().casefold().split("'")[0] in _ASKS)


def wants(text: str) -> frozenset[str]:
    """Kinds of answer that the words of a question or statement ask for: `person`, `time`, `place`, `number`; mostly none or one."""
    folded = text.casefold()
    return frozenset(kind for kind, pattern in _WANTS.items() if pattern.search(folded))


def misfits(query: str, prompt: str, target: str) -> bool:
    """Whether a query wants a kind of answer that a fact is not: its prompt asks for another kind, or its target is of another."""
    wanted, asked = wants(query), wants(prompt)
    if not wanted or wanted & asked:
        return False
    if asked:
        return True
    folded = target.casefold()
    time, number = bool(re.search(_TIME, folded)), bool(re.search(_NUMBER, folded))
    fits = {"person": not (time or number), "time": time or number, "place": not (time or number), "number": time or number}
    return not any(fits[kind] for kind in wanted)
