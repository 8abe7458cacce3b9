"""The benchmarks measure what they say; how fast anything is, is no test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.bench.decode import decode
from app.bench.latency import fact
from app.bench.lookups import CLOCKS, KINDS
from app.bench.machine import describe
from app.bench.plots import plot
from app.bench.statistic import percentile, summary, timed
from app.bench.update import steps, update
from app.cli import cli
from tests.app.serving import toy_model


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile(list(range(1, 101)), p) for p in (50, 90, 99)] == [50, 90, 99]
    assert percentile([7], 99) == 7
    assert summary([0.002, 0.001, 0.003]) == {"n": 3, "mean_ms": 2.0, "p50_ms": 2.0, "p90_ms": 3.0, "p99_ms": 3.0}
    assert summary([]) == {"n": 0}


def test_warm_up_does_not_count() -> None:
    calls: list[int] = []
    assert len(timed(lambda: calls.append(1), 3, warm_up=2)) == 3 and len(calls) == 5


def test_facts_are_all_different() -> None:
    assert len({fact(number)["prompt"] for number in range(20_000)}) == 20_000


def test_decode_tells_both_sides_of_the_same_texts() -> None:
    model = toy_model()
    ends = model.decoder.end_ids
    ticks: list[int] = []
    figures = decode(model, tokens=4, repeats=2, tick=lambda: ticks.append(1))
    assert figures["whole_text"]["transformers"]["n"] == figures["whole_text"]["larimar"]["n"] == 2
    ratio = figures["whole_text"]["transformers"]["mean_ms"] / figures["whole_text"]["larimar"]["mean_ms"]
    assert figures["times_faster_than_transformers"] == pytest.approx(ratio, rel=0.9)
    assert set(figures["tokens_per_second"]) == {1, 2, 4, 8, 16} and len(ticks) == 4
    assert model.decoder.end_ids == ends


def test_update_writes_its_figures_and_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "update.json"
    result = CliRunner().invoke(cli, ["bench", "update", "--repeats", "5", "--slots", "64", "--json", str(file)])
    assert result.exit_code == 0, result.output
    told = json.loads(file.read_text())
    assert told["bench"] == "update" and told["machine"]["cores"] == describe()["cores"]
    assert told["results"]["N = 64"]["write"]["n"] == 5 and "N = 128" not in told["results"]
    ticks: list[int] = []
    update(repeats=3, slots=64, tick=lambda: ticks.append(1))
    assert len(ticks) == steps(64)


def test_pictures_are_drawn_from_figures_and_the_same_each_time(tmp_path: Path) -> None:
    model = toy_model()
    told = {"machine": describe(), "results": decode(model, tokens=3, repeats=1)}
    (tmp_path / "decode.json").write_text(json.dumps(told))
    (first,) = plot(tmp_path, tmp_path / "a")
    (second,) = plot(tmp_path, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes() and b"</svg>" in first.read_bytes()


@pytest.mark.model
def test_sizes_are_told_by_a_server(tmp_path: Path) -> None:
    file = tmp_path / "size.json"
    result = CliRunner().invoke(cli, ["bench", "size", "--tenants", "4", "--facts", "20", "--json", str(file)])
    assert result.exit_code == 0, result.output
    told = json.loads(file.read_text())["results"]
    assert (told["tenants"], told["facts_each"]) == (2, 20)
    key_and_code = 4 * 896  # a page holds at least each fact's key
    assert told["pages_bytes_per_fact"] > key_and_code and told["store_bytes_per_fact"] > key_and_code
    assert told["facts_per_second"] > 0


@pytest.mark.model
def test_look_ups_are_compared_with_none(tmp_path: Path) -> None:
    file = tmp_path / "lookups.json"
    result = CliRunner().invoke(cli, ["bench", "lookups", "--facts", "600", "--tokens", "8", "--rounds", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    told = json.loads(file.read_text())["results"]
    kinds = {name: found for name, found in told.items() if isinstance(found, dict)}
    assert len(kinds) == KINDS and told["facts"] == 600
    for found in kinds.values():
        assert found["look_up"]["n"] > 0
        for clock in CLOCKS:
            assert found[clock]["token_alone"]["n"] == found[clock]["token_beside"]["n"] > 0
            assert found[clock]["token_beside"]["max_ms"] >= found[clock]["token_beside"]["p99_ms"] > 0
            assert told[f"longest_wait_{clock}_ms"] >= found[clock]["longest_wait_ms"]
