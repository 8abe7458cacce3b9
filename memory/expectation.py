"""What kind of answer a question wants, and what kind a target is: "who" fits no date, "how many" no name."""

from __future__ import annotations

import re

_TIME = (
    r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b|\b(?:january|february|march|april|may|june|july|august|september|october|"
    r"november|december|noon|midnight|o'clock|[ap]\.?m|weeks?|days?|months?|years?|hours?|minutes?|past|quarter|yesterday|tomorrow)\b"
)
_NUMBER = r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|half|none|twice|once)\b"
_WANTS = {
    "person": re.compile(r"\b(?:who|whom)\b"),
    "time": re.compile(r"\b(?:when|what time|which (?:day|month|year|date)|until|deadline|since)\b"),
    "place": re.compile(r"\bwhere\b"),
    "number": re.compile(r"\bhow (?:many|much|old|long|far|tall|big|often|heavy|high)\b"),
}


def wants(query: str) -> frozenset[str]:
    """Kinds of answer that a question's words ask for, of `person`, `time`, `place`, `number`; mostly none or one."""
    folded = query.casefold()
    return frozenset(kind for kind, pattern in _WANTS.items() if pattern.search(folded))


def misfits(query: str, prompt: str, target: str) -> bool:
    """Whether a query wants a kind of answer that a fact's target is not, nor its own prompt asks for."""
    wanted = wants(query)
    if not wanted or wanted & wants(prompt):
        return False
    folded = target.casefold()
    time, number = bool(re.search(_TIME, folded)), bool(re.search(_NUMBER, folded))
    fits = {"person": not (time or number), "time": time or number, "place": not (time or number), "number": time or number}
    return not any(fits[kind] for kind in wanted)
