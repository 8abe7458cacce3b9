"""What fails after a commit has come through is told as that: the write is made, and nobody is told that it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from memory.errors import StoreUnavailable
from memory.store.vault import Vault
from tests.app.hosting import hosted

pytestmark = pytest.mark.service


@contextmanager
def broken(folder: Path) -> Iterator[None]:
    """Key files that cannot be written, as on a damaged disk."""
    files = list((folder / "keys").glob("*.keys"))
    for file in files:
        file.rename(file.with_suffix(".away"))
        file.mkdir()
    yield
    for file in files:
        file.rmdir()
        file.with_suffix(".away").rename(file)


def versions(client: TestClient) -> set[int]:
    """Whose data keys there are, of the first hundred."""
    return set(client.app.state.service.tenants.store._vault.get("default", range(100)))  # type: ignore[attr-defined]


def test_a_forget_whose_data_key_cannot_be_erased_is_not_said_to_be_undone(tmp_path: Path) -> None:
    with hosted(tmp_path) as client:
        for fact_id in ("a", "b"):
            client.post("/facts", json={"prompt": f"the capital of {fact_id} is", "target": "Kal", "id": fact_id})
        with broken(tmp_path):
            answer = client.delete("/facts/a")
            assert (answer.status_code, answer.json()["code"]) == (503, "commit_unknown"), answer.text
            assert "version 3 of default is written" in answer.json()["detail"]
        assert client.get("/facts/a").status_code == 404
        assert versions(client) == {2}, "the data key goes with the next look at the log"
        assert client.post("/facts", json={"prompt": "the capital of c is", "target": "Kal"}).json()["version"] == 4


def test_a_write_that_supersedes_and_cannot_erase_is_not_said_to_be_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosted(tmp_path) as client:
        body = {"prompt": "the capital of zor is", "target": "Kal"}
        client.post("/facts", json=body | {"id": "old"})

        def erase(*_: object) -> None:
            raise StoreUnavailable("the data keys cannot be written: Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(Vault, "erase", erase)
            answer = client.post("/facts", json=body | {"id": "new"}, headers={"Idempotency-Key": "k"})
            assert (answer.status_code, answer.json()["code"]) == (503, "commit_unknown"), answer.text
        again = client.post("/facts", json=body | {"id": "new"}, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["version"], again.json()["supersedes"]) == (201, 2, ["old"])
        assert [fact["id"] for fact in client.get("/facts").json()["facts"]] == ["new"]
        assert versions(client) == {2}


def test_an_erasure_whose_key_file_stays_says_so(tmp_path: Path) -> None:
    with hosted(tmp_path) as client:
        client.post("/facts", json={"prompt": "the capital of zor is", "target": "Kal"})
        with broken(tmp_path):
            answer = client.delete("/tenants/default")
            assert (answer.status_code, answer.json()["code"]) == (503, "commit_unknown"), answer.text
        assert client.get("/facts").json()["facts"] == []
        assert client.delete("/tenants/default").status_code == 200
        assert not list((tmp_path / "keys").glob("*.keys"))


def test_a_change_that_is_committed_and_cannot_be_made_is_not_said_to_be_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosted(tmp_path) as client:
        client.post("/facts", json={"prompt": "the capital of zor is", "target": "Kal"})
        memory = client.app.state.service.tenants.loaded[0].memory  # type: ignore[attr-defined]

        def apply(*_: object) -> None:
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(memory, "apply", apply)
        answer = client.post("/facts", json={"prompt": "the river of zor is", "target": "Red", "id": "red"})
        assert (answer.status_code, answer.json()["code"]) == (503, "commit_unknown"), answer.text
        assert client.get("/facts/red").json()["version"] == 2, "loaded anew"
