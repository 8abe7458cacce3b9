"""What is said after an edit, 48 tokens of it, beside what the plain model says."""

from __future__ import annotations

from rich.table import Table

from app.experiments.setup import Setup, steps
from models.evaluation.examiner import Examiner
from models.evaluation.perplexity import perplexity, repetition
from models.evaluation.systems import Ask

TOKENS = 48


def fluency(setup: Setup) -> Table:
    """Repetition and perplexity of 48 greedy tokens after the edited prompt, and of the plain model's after the same.

    The edited continuation is judged from behind the answer, given prompt and answer; the plain one from behind as many
    tokens. Raises ModelError.
    """
    records, taught = setup.records("counterfact")
    recall, examiner, decoder = setup.recall(taught), Examiner(setup.model), setup.model.decoder
    said: dict[str, list[tuple[str, str]]] = {"larimar": [], "plain": []}
    for record in steps("fluency", records):
        (edited,) = examiner.say(recall.ask(record, [record.prompt]), TOKENS)
        (plain,) = examiner.say([Ask(record.prompt)], TOKENS)
        length = len(decoder.answer_tokens(record.target))
        for name, text in (("larimar", edited), ("plain", plain)):
            tokens = decoder.answer_tokens(text, "")
            said[name].append((record.prompt + decoder.text(tokens[:length]), decoder.text(tokens[length:])))
    figures = {
        name: {
            "repetition": sum(repetition(text) for _, text in pairs) / len(pairs),
            "perplexity": perplexity(decoder, [p for p, _ in pairs], [t for _, t in pairs]),
        }
        for name, pairs in said.items()
    }
    setup.write({"fluency": figures})
    table = Table("", *figures, "ratio", title=f"fluency: {setup.n} edits, {TOKENS} tokens", title_justify="left")
    for measure in ("repetition", "perplexity"):
        ours, plain_ = figures["larimar"][measure], figures["plain"][measure]
        table.add_row(measure, f"{ours:.3f}", f"{plain_:.3f}", f"{ours / plain_:.2f}" if plain_ else "-")
    return table
