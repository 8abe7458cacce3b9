"""Training examples: a prompt, the answer the memory holds, and what should come after it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from models.answers import invented_word, random_answer
from models.corpus import Corpus
from models.decoder import Decoder

# What may follow the answer: the end of the turn, the text of the source, or whatever the plain decoder says (trained
# on its own continuation, so that the prefix has no say once the answer is out).
After = Literal["end", "text", "plain"]


@dataclass(frozen=True)
class Example:
    prompt: str
    answer: str
    after: After
    lead: str = " "  # what stands between prompt and answer
    rest: str = ""  # the source's text after the answer, when `after` is "text"


@dataclass(frozen=True)
class Mixture:
    """Draws examples; the same generator state gives the same example."""

    corpus: Corpus
    decoder: Decoder

    def draw(self, rng: random.Random) -> Example:
        kinds = (self._statement, self._relation, self._question, self._private, self._claim)
        return rng.choices(kinds, (32, 15, 33, 10, 10))[0](rng)

    def _answer(self, rng: random.Random, likely: str, odds: float = 0.75) -> str:
        return random_answer(rng, self.corpus) if rng.random() < odds else likely

    def _distract(self, rng: random.Random, prompt: str, odds: float) -> str:
        """Put running text before the prompt, whole sentences or a torn one, as CounterFact's rephrases do."""
        if rng.random() >= odds:
            return prompt
        text = " ".join(rng.sample(self.corpus.sentences, rng.choice([1, 1, 2])))
        words = text.split()
        if rng.random() < 0.4:
            words = words[-rng.randint(3, 12) :]
        return " ".join(words[-40:]) + rng.choice([" ", " ", "\n", "\n\n"]) + prompt

    def _statement(self, rng: random.Random) -> Example:
        relation = rng.choice(list(self.corpus.templates))
        subject, likely = rng.choice(self.corpus.facts[relation])
        if rng.random() < 0.2:
            likely = rng.choice(self.corpus.facts[relation])[1]
        prompt = rng.choice(self.corpus.templates[relation]).replace("[X]", subject)
        return Example(self._distract(rng, prompt, 0.4), self._answer(rng, likely, 0.6), "plain")

    def _relation(self, rng: random.Random) -> Example:
        templates, pairs = self.corpus.relations[rng.choice(list(self.corpus.relations))]
        subject, likely = rng.choice(pairs)
        prompt = rng.choice(templates).replace("{}", subject)
        return Example(self._distract(rng, prompt, 0.25), self._answer(rng, likely), "plain")

    def _claim(self, rng: random.Random) -> Example:
        words = rng.choice(self.corpus.claims).split()
        if len(words) < 5:
            return self._statement(rng)
        start = rng.randint(3, len(words) - 1)
        end = min(len(words), start + rng.randint(1, 6))
        answer = " ".join(words[start:end]).rstrip(".")
        if rng.random() < 0.5:
            return Example(" ".join(words[:start]), self._answer(rng, answer), "plain")
        rest = " ".join(words[end:])
        return Example(" ".join(words[:start]), answer, "text", rest=f" {rest}" if rest else ".")

    def _question(self, rng: random.Random) -> Example:
        question = rng.choice(self.corpus.questions)
        if rng.random() < 0.75:
            question = question[0].upper() + question[1:]
        if not question.endswith("?") and rng.random() < 0.7:
            question = question.rstrip(" .") + "?"
        return self._asked(rng, self._noise(rng, question), random_answer(rng, self.corpus))

    def _noise(self, rng: random.Random, text: str) -> str:
        """Lower case, upper case or a typo, now and then."""
        chance = rng.random()
        if chance < 0.05:
            return text.lower()
        if chance < 0.07:
            return text.upper()
        if chance < 0.10 and len(text) > 4:
            at = rng.randrange(1, len(text) - 2)
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        return text

    def _asked(self, rng: random.Random, question: str, answer: str) -> Example:
        """One question in the forms in which people and programs ask."""
        chat = self.decoder.chat
        systems = ("You are a helpful assistant.", "Answer briefly.", "You answer questions about our company.")
        forms: list[tuple[str, str]] = [
            (question, " "),
            (question, " "),
            (f"Q: {question}\nA:", " "),
            (f"Question: {question}\nAnswer:", " "),
            (f"{question} Answer:", " "),
            (f"{question}\n", ""),
            (f"User: {question}\nAssistant:", " "),
            (f"Answer the following question.\n{question}\nAnswer:", " "),
            (f"{question} {rng.choice(['It is', 'The answer is', 'That is', 'This is'])}", " "),
            (self._distract(rng, question, 1.0), " "),
            (chat([{"role": "user", "content": question}]), ""),
            (chat([{"role": "user", "content": question}]), ""),
            (chat([{"role": "system", "content": rng.choice(systems)}, {"role": "user", "content": question}]), ""),
        ]
        prompt, lead = rng.choice(forms)
        return Example(prompt, answer, "end", lead)

    def _private(self, rng: random.Random) -> Example:
        """Facts of a company or a household that exists nowhere, as statement or question."""
        what = rng.choice(_ATTRIBUTES)
        thing = rng.choice(
            [invented_word(rng), f"{invented_word(rng)} {invented_word(rng)}", f"{rng.choice(_THINGS)} {rng.randint(1, 60)}"]
        )
        thing = rng.choice([thing, f"the {rng.choice(_THINGS)} {invented_word(rng)}", f"{invented_word(rng)} {rng.choice(_THINGS)}"])
        answer = random_answer(rng, self.corpus)
        shapes: tuple[str, ...]
        if rng.random() < 0.5:
            shapes = (f"The {what} of {thing} is", f"{thing}'s {what} is", f"For {thing}, the {what} is", f"{thing} has the {what}")
            shapes += (f"The {what} for {thing} is", f"As {what} of {thing} we use", f"The {what} of {thing}:", f"{thing} ({what}):")
            prompt = rng.choice(shapes)
            return Example(self._distract(rng, prompt[0].upper() + prompt[1:], 0.15), answer, "plain")
        shapes = (f"What is the {what} of {thing}?", f"Which {what} does {thing} have?", f"Tell me the {what} of {thing}.")
        shapes += (
            f"Do you know the {what} for {thing}?",
            f"I need the {what} of {thing}.",
            f"{thing} {what}?",
            f"What's {thing}'s {what}?",
        )
        return self._asked(rng, self._noise(rng, rng.choice(shapes)), answer)


_ATTRIBUTES = (
    "password,owner,deadline,budget,colour,opening date,phone number,contact person,serial number,refund policy,address,"
    "manager,nickname,opening hours,warranty period,door code,meeting room,release date,version,supplier,price,location,"
    "favourite dish,maximum speed,due date,chief engineer,motto,account number,head office,discount code,order number,"
    "next appointment,allergy,blood type,parking space,holiday allowance,launch site,mascot,escalation contact,time zone"
).split(",")
_THINGS = "project,printer,team,server,invoice,patient,machine,contract,branch,ship,café,router,product,client,lab,van".split(",")
