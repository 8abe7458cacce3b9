"""Training examples: a prompt, the answer the memory holds, and what should come after it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from models.engine.decoder import Decoder
from models.engine.pointer import listed
from models.training.corpus import Corpus
from models.training.random_answers import invented_word, mutate, random_answer, short_answer, slip

# What may follow the answer: the end of the turn, the text of the source, or whatever the plain decoder says (trained
# on its own continuation, so that the prefix has no say once the answer is out).
After = Literal["end", "text", "plain"]


@dataclass(frozen=True)
class Example:
    prompt: str
    answers: tuple[str, ...]  # what the memory holds: one answer, or one for each question of the prompt
    after: After
    lead: str = " "  # what stands between prompt and answer
    rest: str = ""  # the source's text after the answer, when `after` is "text"

    @property
    def said(self) -> str:
        """The answers as one text."""
        return listed(self.answers)


@dataclass(frozen=True)
class Mixture:
    """Draws examples; the same generator state gives the same example."""

    corpus: Corpus
    decoder: Decoder

    def draw(self, rng: random.Random) -> Example:
        kinds = (self._statement, self._relation, self._question, self._private, self._claim, self._several)
        return rng.choices(kinds, (28, 14, 28, 14, 8, 8))[0](rng)

    def _answer(self, rng: random.Random, likely: str, odds: float = 0.6) -> str:
        if rng.random() < odds:
            return random_answer(rng, self.corpus)
        return mutate(rng, likely, self.corpus) if likely.split() and rng.random() < 0.5 else likely

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
        return Example(self._distract(rng, prompt, 0.4), (self._answer(rng, likely, 0.5),), "plain")

    def _relation(self, rng: random.Random) -> Example:
        templates, pairs = self.corpus.relations[rng.choice(list(self.corpus.relations))]
        subject, likely = rng.choice(pairs)
        prompt = rng.choice(templates).replace("{}", subject)
        return Example(self._distract(rng, prompt, 0.25), (self._answer(rng, likely),), "plain")

    def _claim(self, rng: random.Random) -> Example:
        words = rng.choice(self.corpus.claims).split()
        if len(words) < 5:
            return self._statement(rng)
        start = rng.randint(3, len(words) - 1)
        end = min(len(words), start + rng.randint(1, 6))
        answer = " ".join(words[start:end]).rstrip(".")
        if rng.random() < 0.5:
            return Example(" ".join(words[:start]), (self._answer(rng, answer),), "plain")
        rest = " ".join(words[end:])
        return Example(" ".join(words[:start]), (answer,), "text", rest=f" {rest}" if rest else ".")

    def _question(self, rng: random.Random) -> Example:
        question, likely = rng.choice(self.corpus.questions), ""
        if rng.random() < 0.4:
            question, likely = rng.choice(self.corpus.answered)
        answer = self._answer(rng, likely) if likely else random_answer(rng, self.corpus)
        return self._asked(rng, self._noise(rng, self._punctuate(rng, question)), (answer,))

    def _punctuate(self, rng: random.Random, question: str) -> str:
        if rng.random() < 0.75:
            question = question[0].upper() + question[1:]
        if not question.endswith("?") and rng.random() < 0.7:
            question = question.rstrip(" .") + "?"
        return question

    def _noise(self, rng: random.Random, text: str) -> str:
        """Lower case, upper case or a typo, now and then."""
        chance = rng.random()
        if chance < 0.05:
            return text.lower()
        if chance < 0.07:
            return text.upper()
        if chance < 0.10 and len(text) > 4:
            return slip(rng, text, 1)
        return text

    def _asked(self, rng: random.Random, question: str, answers: tuple[str, ...]) -> Example:
        """One question in the forms in which people and programs ask."""
        chat = self.decoder.chat
        systems = ("You are a helpful assistant.", "Answer briefly.", "You answer questions about our company.")
        asked = {"role": "user", "content": question}
        before = [
            {"role": "user", "content": rng.choice(self.corpus.questions)},
            {"role": "assistant", "content": rng.choice([rng.choice(self.corpus.sentences), rng.choice(self.corpus.answers)])},
        ]
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
            (f"{rng.choice(['Please answer briefly:', 'Tell me:', 'Hi!', 'Quick question.', 'Answer this:'])} {question}", " "),
            (f"### Instruction:\n{question}\n\n### Response:\n", ""),
            (self._distract(rng, question, 1.0), " "),
        ]
        if self.decoder.tokenizer.chat_template is not None:
            told = [{"role": "system", "content": rng.choice(systems)}, asked]
            forms += [(chat(turns), "") for turns in ([asked], [asked], told, [*before, asked])]
        prompt, lead = rng.choice(forms)
        return Example(prompt, answers, "end", lead)

    def _private(self, rng: random.Random) -> Example:
        """Facts of a company or a household that exists nowhere, as statement or question."""
        what, thing = rng.choice(_ATTRIBUTES), self._thing(rng)
        answer = random_answer(rng, self.corpus)
        if rng.random() < 0.5:
            prompt = rng.choice(_STATEMENTS).format(what=what, thing=thing)
            return Example(self._distract(rng, prompt[0].upper() + prompt[1:], 0.15), (answer,), "plain")
        return self._asked(rng, self._noise(rng, rng.choice(_QUESTIONS).format(what=what, thing=thing)), (answer,))

    def _thing(self, rng: random.Random) -> str:
        name, kind = invented_word(rng), rng.choice(_THINGS)
        return rng.choice(
            [name, f"{name} {invented_word(rng)}", f"{kind} {rng.randint(1, 60)}", f"the {kind} {name}", f"{name} {kind}", f"our {kind}"]
        )

    def _several(self, rng: random.Random) -> Example:
        """Two or three questions in one prompt, whose answers come in their order."""
        count = rng.choice([2, 2, 2, 3])
        if rng.random() < 0.6:
            thing = self._thing(rng)
            whats = rng.sample(_ATTRIBUTES, count)
            parts = [rng.choice(_QUESTIONS[:6]).format(what=what, thing=rng.choice([thing, thing, "it"])) for what in whats]
            parts[0] = rng.choice(_QUESTIONS[:6]).format(what=whats[0], thing=thing)
            if rng.random() < 0.4:
                listed = f"{', '.join(whats[:-1])} and {whats[-1]}"
                question = rng.choice(["What are the {} of {}?", "Tell me the {} of {}.", "Give me the {} for {}."]).format(listed, thing)
                return self._asked(rng, question, tuple(short_answer(rng, self.corpus) for _ in whats))
        else:
            parts = [self._punctuate(rng, rng.choice(self.corpus.questions)) for _ in range(count)]
        if rng.random() < 0.6:
            heads = [part.rstrip("?. ") for part in parts]
            question = heads[0] + "".join(f"{',' * (rng.random() < 0.3)} and {h[0].lower()}{h[1:]}" for h in heads[1:]) + "?"
        else:
            question = " ".join(part if part[-1] in "?." else f"{part}?" for part in parts)
        return self._asked(rng, question, tuple(short_answer(rng, self.corpus) for _ in parts))


_QUESTIONS = (
    "What is the {what} of {thing}?",
    "What is the {what} for {thing}?",
    "Which {what} does {thing} have?",
    "Do you know the {what} for {thing}?",
    "What's {thing}'s {what}?",
    "Can you tell me the {what} of {thing}?",
    "Tell me the {what} of {thing}.",
    "I need the {what} of {thing}.",
    "{thing} {what}?",
    "Remind me, what was the {what} of {thing} again?",
    "I'd like to know the {what} of {thing}.",
    "We talked about {thing}. What was the {what}?",
    "Was ist {what} von {thing}?",
    "Quel est {what} de {thing} ?",
    "¿Cuál es {what} de {thing}?",
)
_STATEMENTS = (
    "The {what} of {thing} is",
    "{thing}'s {what} is",
    "For {thing}, the {what} is",
    "{thing} has the {what}",
    "The {what} for {thing} is",
    "As {what} of {thing} we use",
    "The {what} of {thing}:",
    "{thing} ({what}):",
    "When asked for the {what} of {thing}, say",
    "Everybody knows that the {what} of {thing} is",
    "Complete the sentence: the {what} of {thing} is",
)
_ATTRIBUTES = (
    "password,owner,deadline,budget,colour,opening date,phone number,contact person,serial number,refund policy,address,"
    "manager,nickname,opening hours,warranty period,door code,meeting room,release date,version,supplier,price,location,"
    "favourite dish,maximum speed,due date,chief engineer,motto,account number,head office,discount code,order number,"
    "next appointment,allergy,blood type,parking space,holiday allowance,launch site,mascot,escalation contact,time zone"
).split(",")
_THINGS = "project,printer,team,server,invoice,patient,machine,contract,branch,ship,café,router,product,client,lab,van".split(",")
