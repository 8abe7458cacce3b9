"""The scripts of docs/examples, each run as a reader would run it: against a real server, or by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.bench.server import serving
from app.server.settings import Settings

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
pytestmark = pytest.mark.model


def run(environment: dict[str, str], *command: str) -> str:
    shared = {name: value for name, value in os.environ.items() if not name.startswith("LARIMAR_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=shared | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a script needs of the environment: a server's address, an administrator's key and the server's data folder."""
    folder = tmp_path_factory.mktemp("examples")

    @asynccontextmanager
    async def running() -> AsyncIterator[str]:
        async with serving(Settings(), LARIMAR_DATA_DIR=str(folder)) as (url, _):
            yield url

    with asyncio.Runner() as runner:
        context = running()
        url = runner.run(context.__aenter__())
        try:
            store = {"LARIMAR_DATA_DIR": str(folder)}
            made = run(store, "-m", "app.cli", "keys", "create", "--tenant", "default", "--scope", "read,write,admin")
            yield store | {"LARIMAR_URL": url, "LARIMAR_API_KEY": next(word for word in made.split() if word.startswith("lk_"))}
        finally:
            runner.run(context.__aexit__(None, None, None))


def test_a_fact_is_corrected(server: dict[str, str]) -> None:
    told = run(server, str(EXAMPLES / "correct_fact.py"))
    assert "replaced: True" in told and "answered as before: True" in told
    assert told.count("→ Astana") == told.count("(from memory: True)") == 3


def test_a_policy_ends(server: dict[str, str]) -> None:
    told = run(server, str(EXAMPLES / "temporary_policy.py"))
    assert "now: ninety days" in told.lower()
    assert "later: fact_not_found" in told and "answer is back: True" in told


def test_a_person_is_forgotten(server: dict[str, str]) -> None:
    told = run(server, str(EXAMPLES / "unlearn_person.py"))
    assert "known: 3" in told and told.count("overwritten on disk") == 3
    assert "by itself: 0.0" in told and "in the audit log: True" in told and "in the files: none" in told


def test_tenants_are_apart(server: dict[str, str]) -> None:
    told = run(server, str(EXAMPLES / "tenants.py"))
    assert "north: from memory: True, facts: 1" in told and "south: from memory: False, facts: 0" in told
    assert "south forgets north's fact: fact_not_found" in told and "north erased: 1 fact" in told


def test_a_decoder_is_evaluated() -> None:
    models = {"LARIMAR_MODELS_DIR": str(Settings().weights_dir.absolute())}
    assert "edit exact: 100%" in run(models, str(EXAMPLES / "own_decoder.py"))


def test_every_example_is_tested() -> None:
    tests = Path(__file__).read_text()
    assert not [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tests]
