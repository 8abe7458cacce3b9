"""What a conversation asks the memory: its last user message, and that message with what it refers to put in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from models.scope.sentences import questions

TURNS = 4  # that a reader sees before a question
LOOK_BACK = 3  # user messages in which the subject of "it" is looked for
_LINK = re.compile(r"^(?:and|so|but|also|then|ok(?:ay)?|thanks|thank you)\b[\s,.!]*", re.IGNORECASE)


def asks(messages: Sequence[str]) -> list[str]:
    """Texts that may ask for a fact, in the order in which the memory is to be asked, of the user's messages so far.

    The last message as it is; and if it refers back ("And who runs it?" after "Where is Acme Rockets?"), the questions that
    stand alone with the subjects of the messages before it ("who runs Acme Rockets?"). Earlier questions are not asked
    again: they have had their answers.
    """
    *earlier, last = messages
    found = [last]
    clause = _LINK.sub("", last.strip())
    for previous in reversed(earlier[-LOOK_BACK:]):
        joined = f"{previous.strip().rstrip('?.! ')} and {clause[:1].lower()}{clause[1:]}"
        parts = questions(joined)
        if len(parts) > 1 and parts[-1].casefold() != clause.casefold():
            found.append(parts[-1])
    return found


def as_before(turns: Sequence[Mapping[str, str]]) -> str:
    """The turns before a question, as a reader is trained to read them: the last `TURNS`, an assistant's behind a dash."""
    return " ".join(("" if turn["role"] == "user" else "– ") + turn["content"].strip() for turn in turns[-TURNS:])
