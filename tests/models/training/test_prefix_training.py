"""Laws of training: a run is its schedule, however often it is interrupted."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.engine.decoder import Decoder
from models.prefix import Prefix
from models.training.corpus import Corpus
from models.training.mixture import Mixture
from models.training.prefix_training import POOL, Checkpoint, Row, Schedule, batches, loss_of, train, validation
from tests.models import toys

SCHEDULE = Schedule(steps=11, batch=3, learning_rate=3e-3, warmup=2, seed=4)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    return Mixture(Corpus.read(toys.write_corpus(tmp_path_factory.mktemp("corpus"))), toys.decoder())


def run(mixture: Mixture, path: Path, *stops: int, schedule: Schedule = SCHEDULE) -> tuple[Prefix, list[dict[str, Any]]]:
    """Train, interrupted after each of these steps and started again with a new prefix."""
    records: list[dict[str, Any]] = []
    for stop in (*stops, None):
        prefix = toys.prefix(mixture.decoder)
        train(prefix, mixture, schedule, checkpoint=Checkpoint(path), report=records.append, validate_every=4, stop_after=stop)
    return prefix, records


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(mixture: Mixture, tmp_path: Path) -> None:
    whole, records = run(mixture, tmp_path / "whole")
    parts, resumed = run(mixture, tmp_path / "parts", 2, POOL - 1, 9)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert timeless(records) == timeless(resumed)
    assert [r["step"] for r in records] == list(range(SCHEDULE.steps))
    assert [r["step"] for r in records if "validation" in r] == [3, 7, 10]
    optimizers = load_file(tmp_path / "whole"), load_file(tmp_path / "parts")
    assert optimizers[0].keys() == optimizers[1].keys()
    assert all(torch.equal(tensor, optimizers[1][name]) for name, tensor in optimizers[0].items())


def test_a_finished_run_is_not_trained_on(mixture: Mixture, tmp_path: Path) -> None:
    done, _ = run(mixture, tmp_path / "run")
    again, records = run(mixture, tmp_path / "run")
    assert records == []
    assert torch.equal(done.opening, again.opening)


def test_a_checkpoint_of_another_schedule_is_refused(mixture: Mixture, tmp_path: Path) -> None:
    short = replace(SCHEDULE, steps=2)
    run(mixture, tmp_path / "run", schedule=short)
    before = (tmp_path / "run").read_bytes()
    for other in (replace(short, seed=5), replace(short, batch=4), replace(short, steps=9)):
        with pytest.raises(ValueError, match="belongs to another schedule"):
            run(mixture, tmp_path / "run", schedule=other)
    assert (tmp_path / "run").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_training_changes_the_prefix_alone_and_lowers_the_loss(mixture: Mixture, tmp_path: Path) -> None:
    frozen = {name: tensor.clone() for name, tensor in mixture.decoder.model.state_dict().items()}
    held = [row for rows in islice(batches(mixture, replace(SCHEDULE, seed=99), toys.MAX_SLOTS), 4) for row in rows]
    trained, _ = run(mixture, tmp_path / "run", schedule=replace(SCHEDULE, steps=40, learning_rate=1e-2))
    with torch.no_grad():
        before = loss_of(mixture.decoder, toys.prefix(mixture.decoder), held)
        after = loss_of(mixture.decoder, trained, held)
    assert after < before
    for name, tensor in mixture.decoder.model.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name


@pytest.mark.parametrize("start", [0, 1, POOL - 1, POOL, POOL + 2])
def test_batches_from_a_step_on_are_those_of_the_whole_run(mixture: Mixture, start: int) -> None:
    schedule = replace(SCHEDULE, steps=2 * POOL)
    whole = list(batches(mixture, schedule, toys.MAX_SLOTS))
    assert len(whole) == schedule.steps and {len(rows) for rows in whole} == {schedule.batch}
    assert list(batches(mixture, schedule, toys.MAX_SLOTS, start)) == whole[start:]


def test_padding_and_unwanted_tokens_have_no_part_in_the_loss() -> None:
    decoder = toys.decoder()
    prefix = toys.prefix(decoder)

    def row(answer: str, prompt: str, said: str, weight: float = 1.0) -> Row:
        return Row([decoder.tokens(answer)], decoder.tokens(prompt), decoder.tokens(said), [weight] * len(said))

    short, long = row("Oslo", "a", "Oslo"), row("a town of the north", "where is it, do you know", "Bonn", 3.0)
    both, first, second = (loss_of(decoder, prefix, rows) for rows in ([short, long], [short], [long]))
    assert torch.allclose(both, (1 * first + 3 * second) / 4, atol=1e-5)
    unwanted = replace(short, wanted=short.wanted + [7], weights=[*short.weights, 0.0])
    assert torch.allclose(loss_of(decoder, prefix, [unwanted]), first, atol=1e-6)


def test_validation_asks_held_out_relations_alone(mixture: Mixture) -> None:
    decoder: Decoder = mixture.decoder
    records = validation(mixture.corpus, decoder, n=12)
    assert len(records) == 12 and records == validation(mixture.corpus, decoder, n=12)
    answers = {o for _, pairs in mixture.corpus.held_out.values() for _, o in pairs}
    assert {decoder.text(answer).strip() for _, answer in records} <= answers


def test_the_rate_warms_up_and_falls_to_a_twentieth() -> None:
    schedule = Schedule(steps=100, warmup=10, learning_rate=2.0)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert max(rates) == pytest.approx(2.0) and rates[100] == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}])
def test_a_schedule_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above zero, got"):
        replace(SCHEDULE, **bad)
