"""Pointer: a decoder that has begun to say a readout is held to it, token by token.

The prefix tells the decoder what to say; a decoder that copies by looking for the last place where it said the same token
goes astray where an answer repeats itself ("Missississippi", "978-3-555-01020-7") or where there are several. The readout's
tokens are known, so the next of them gets a bonus on its logit: the copying half of a pointer network (Vinyals et al.
2015; See et al. 2017), without parameters. What is said before and after is the decoder's alone, but for one thing: the token
behind an answer does not go on with its last word ("Astana" is not to become "Astanabad"). Without a readout there is no pointer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

FIRST = 4.0  # nats, for the answer's first token as the first token of the text
NEXT = 8.0  # nats, for the next token of an answer that is being said
SURE, AFTER = 16.0, 8  # nats, after so many tokens of it: nothing else is said then. (Long answers: 12 of 24 in full with 8, 23 with 16)


def listed(answers: Sequence[str]) -> str:
    """Answers as one text: "a", "a and b", "a, b and c"."""
    *most, last = answers
    return f"{', '.join(most)} and {last}" if most else last


class Pointer:
    """Follows one text until the answer has been said once.

    Args:
        ways: the answer's token ids in every tokenisation that it may be said in (with and without a leading space).
        joined: (V,) bool, tokens that would go on with the answer's last word; None where none would.
    """

    def __init__(self, ways: Iterable[Sequence[int]], joined: Tensor | None = None) -> None:
        self._joined, self._closing = joined, False
        self._said = {tuple(ids): 0 for ids in ways if ids}  # tokens to how many of them have just been said
        self._begun = False
        self.done = False  # whether the answer has been said

    @property
    def bonus(self) -> dict[int, float]:
        """Token id to what is added to its logit at this point, in nats."""
        nats = {way[said]: self._nats(said) for way, said in sorted(self._said.items(), key=lambda way: way[1])}
        return {token: n for token, n in nats.items() if n}

    def _nats(self, said: int) -> float:
        if said:
            return NEXT if said < AFTER else SURE
        return 0.0 if self._begun else FIRST

    def apply(self, logits: Tensor) -> Tensor:
        """(V,) logits with the bonus, or without what must not follow; the tensor itself where there is neither."""
        if self._closing and self._joined is not None:
            return logits.masked_fill(self._joined, -torch.inf)
        bonus = self.bonus
        if not bonus:
            return logits
        ids = torch.tensor(list(bonus), device=logits.device)
        return logits.index_add(0, ids, torch.tensor(list(bonus.values()), device=logits.device, dtype=logits.dtype))

    def advance(self, token: int) -> None:
        """Take note of a token that was said; once the answer is complete the pointer has no say any more."""
        self._begun, self._closing = True, False
        for way, said in self._said.items():
            self._said[way] = said + 1 if token == way[said] else int(token == way[0])
        if any(said == len(way) for way, said in self._said.items()):
            self._said, self.done, self._closing = {}, True, True
