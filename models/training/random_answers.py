"""Random answers: if an answer cannot be guessed from the prompt, the only way to be right is to read the memory."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from models.training.corpus import Corpus

_SYLLABLES = (
    "ba be bi bo bu da de di do du fa fe fi ga go ka ke ki ko la le li lo lu ma me mi mo mu na ne no pa pe po ra re ri ro ru "
    "sa se si so su ta te ti to tu va ve vi vo wa we xa xi ya yo za ze zo bran stel thor quin mar vex zor kal dren fyr hild"
).split()
_MONTHS = "January February March April May June July August September October November December".split()
_WORDS = (
    "the north wing second floor behind red door key under mat room next to main entrance every Monday at noon only with "
    "a signed form from your manager before end of month ask Priya in finance or call front desk and bring badge blue "
    "folder invoice is approved by two people after audit never without backup server restart quarterly review travel "
    "budget is limited per person per day use shared drive archive old tickets first then close them"
).split()


def random_answer(rng: random.Random, corpus: Corpus) -> str:
    """One answer of 1 to about 16 tokens, now and then up to 60."""
    kinds = (_known, _mutated, _span, _name, _code, _number, _when, _repeated, _phrase, _address, _long)
    answer = rng.choices(kinds, (24, 10, 14, 10, 7, 7, 5, 7, 5, 5, 6))[0](rng, corpus).strip()
    return answer or _known(rng, corpus)


def short_answer(rng: random.Random, corpus: Corpus) -> str:
    """One answer of a few words, for prompts that ask for several."""
    kinds = (_known, _mutated, _name, _code, _number, _when)
    answer = rng.choices(kinds, (10, 3, 6, 3, 3, 3))[0](rng, corpus).strip()
    return " ".join(answer.split()[:5]) or _known(rng, corpus)


def mutate(rng: random.Random, answer: str, corpus: Corpus) -> str:
    """An answer beside a likely one: a word or digit changed, doubled, dropped or taken from elsewhere.

    The decoder would rather say the likely one, so only reading the code to its end gives the right answer.
    """
    words = answer.split()
    at = rng.randrange(len(words))
    other = rng.choice(rng.choice(corpus.answers).split())
    ways: tuple[Callable[[], list[str]], ...] = (
        lambda: [*words[:at], other, *words[at + 1 :]],
        lambda: [*words[: at + 1], words[at], *words[at + 1 :]],
        lambda: [*words[:at], other, *words[at:]],
        lambda: [*words, other],
        lambda: words[:at] + words[at + 1 :] if len(words) > 1 else [other],
        lambda: rng.sample(words, len(words)),
    )
    changed = " ".join(rng.choice(ways)())
    if any(c.isdigit() for c in changed) and rng.random() < 0.7:
        changed = "".join(rng.choice(string.digits) if c.isdigit() and rng.random() < 0.5 else c for c in changed)
    return changed


def slip(rng: random.Random, text: str, start: int) -> str:
    """A text with two neighbouring letters exchanged, from `start` on and not its last two."""
    at = rng.randrange(start, len(text) - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _mutated(rng: random.Random, corpus: Corpus) -> str:
    return mutate(rng, _known(rng, corpus), corpus)


def _known(rng: random.Random, corpus: Corpus) -> str:
    return rng.choice(corpus.answers)


def _span(rng: random.Random, corpus: Corpus) -> str:
    words = rng.choice(corpus.sentences).split()
    length = rng.randint(1, 9)
    start = rng.randrange(max(1, len(words) - length))
    return " ".join(words[start : start + length]).strip(",;:.()\" '")


def _long(rng: random.Random, corpus: Corpus) -> str:
    words = " ".join(rng.sample(corpus.sentences, 2)).split()
    start = rng.randrange(max(1, len(words) - 40))
    return " ".join(words[start : start + rng.randint(8, 42)]).strip(",;:.()\" '")


def invented_word(rng: random.Random) -> str:
    """A pronounceable word that no one has seen."""
    return "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))).capitalize()


def _name(rng: random.Random, _: Corpus) -> str:
    word = invented_word
    shapes: tuple[Callable[[], str], ...] = (
        lambda: word(rng),
        lambda: f"{word(rng)} {word(rng)}",
        lambda: f"{word(rng)} {rng.choice(string.ascii_uppercase)}. {word(rng)}",
        lambda: f"Dr. {word(rng)} {word(rng)}",
        lambda: f"{word(rng)}-{word(rng)} {rng.choice(['GmbH', 'Ltd', 'Inc.', 'AG', '& Sons', 'Labs'])}",
        lambda: f"the {word(rng)} {rng.choice(['Tower', 'project', 'team', 'bridge', 'protocol', 'room'])}",
    )
    return rng.choice(shapes)()


def _code(rng: random.Random, _: Corpus) -> str:
    def pick(alphabet: str, k: int) -> str:
        return "".join(rng.choices(alphabet, k=k))

    upper, digits = string.ascii_uppercase, string.digits
    shapes: tuple[Callable[[], str], ...] = (
        lambda: f"{pick(upper, rng.randint(1, 4))}-{pick(digits, rng.randint(2, 5))}",
        lambda: f"{pick(upper + digits, rng.randint(4, 9))}",
        lambda: f"{pick(upper, 2)}{pick(digits, 3)}-{pick(upper, 1)}/{pick(digits, 2)}",
        lambda: f"{invented_word(rng).lower()}_{pick(digits, 2)}",
        lambda: f"v{rng.randint(0, 20)}.{rng.randint(0, 30)}.{rng.randint(0, 9)}",
        lambda: f"#{pick(string.hexdigits.lower()[:16], 6)}",
        lambda: pick(string.ascii_letters + digits + "!?$%&#@+*", rng.randint(5, 10)),
    )
    return rng.choice(shapes)()


def _number(rng: random.Random, _: Corpus) -> str:
    n = rng.choice([rng.randint(0, 99), rng.randint(100, 9999), rng.randint(10_000, 9_999_999)])
    if rng.random() < 0.15:
        return f"{rng.choice('+-#~<>=*@$€&§/')}{rng.choice(['', ' '])}{rng.choice([str(n), invented_word(rng).lower()])}"
    unit = rng.choice(["", "", "", " km", " kg", " percent", "%", " employees", " days", " people", " litres"])
    money = rng.choice(["$", "€", "£", "CHF ", ""])
    return rng.choice([f"{n}{unit}", f"{money}{n:,}", f"{money}{n / 100:.2f}", f"+{n}{unit}", f"-{n}", f"{n:,}{unit}"])


def _when(rng: random.Random, _: Corpus) -> str:
    day, month, year = rng.randint(1, 28), rng.choice(_MONTHS), rng.randint(1700, 2040)
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    weekday = rng.choice(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"])
    return rng.choice(
        [f"{day} {month} {year}", f"{month} {day}, {year}", f"{year}", f"{month} {year}", f"{hour:02}:{minute:02}"]
        + [f"{year}-{rng.randint(1, 12):02}-{day:02}", f"{weekday} at {hour % 12 + 1} {rng.choice(['am', 'pm'])}"]
        + [f"every {weekday}", f"{weekday}, {day} {month}", f"in {rng.randint(2, 90)} days"]
    )


def _repeated(rng: random.Random, _: Corpus) -> str:
    """Answers with a repeated piece, which a copier tends to lose or to loop on."""
    piece = rng.choice([invented_word(rng).lower()[:4], rng.choice(_SYLLABLES), rng.choice(string.digits), rng.choice(_WORDS)])
    times = rng.randint(2, 4)
    return rng.choice(
        [(piece * times).capitalize(), "-".join([piece] * times), " ".join([piece] * times)]
        + [f"{invented_word(rng)}{piece * times}{rng.choice(_SYLLABLES)}", f"{piece}{piece} {invented_word(rng)} {piece}"]
    )


def _phrase(rng: random.Random, _: Corpus) -> str:
    start = rng.randrange(len(_WORDS) - 14)
    return " ".join(_WORDS[start : start + rng.randint(2, 14)])


def _address(rng: random.Random, _: Corpus) -> str:
    word = invented_word(rng)
    phone = "".join(rng.choices(string.digits, k=rng.randint(6, 9)))
    return rng.choice(
        [f"{word.lower()}@{invented_word(rng).lower()}.{rng.choice(['com', 'org', 'io', 'de'])}", f"+{rng.randint(1, 99)} {phone}"]
        + [f"https://{word.lower()}.example/{invented_word(rng).lower()}", f"{rng.randint(1, 300)} {word} Street"]
        + [f"{phone[:3]}-{phone[3:]}", f"room {rng.randint(1, 900)}", f"+{phone[:2]} ({phone[2:4]}) {phone[4:]}"]
        + [f"{word} {rng.randint(1, 99)}, {rng.randint(10000, 99999)} {invented_word(rng)}"]
    )
