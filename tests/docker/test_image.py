"""The image and the compose file, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{BIN}:{os.environ['PATH']}")
    assert found, f"{name} comes with the extra `dev`"
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && pip install torch\n")
    assert subprocess.run([tool("hadolint"), "Dockerfile"], cwd=tmp_path, capture_output=True, check=False).returncode


@pytest.mark.parametrize("profile", ["", *sorted({p for s in COMPOSE["services"].values() for p in s.get("profiles", ())})])
def test_compose_file_is_valid(profile: str) -> None:
    command = [tool("docker-compose"), *(["--profile", profile] if profile else []), "config", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()[:-1]]
    assert sources
    assert not [source for source in sources if not (ROOT / source).exists()]
    assert not [source for source in sources if not any(fnmatch.fnmatch(source, pattern) for pattern in allowed)]


def test_the_image_is_small_and_unprivileged() -> None:
    assert not re.search(r"\b(gcc|g\+\+|build-essential|apt-get)\b", DOCKERFILE)
    installs = re.findall(r"pip install .*", DOCKERFILE)
    assert installs and all("--only-binary :all:" in line or "--no-deps ." in line for line in installs)
    for line in ("USER 10001", "STOPSIGNAL SIGTERM", "VOLUME /data"):
        assert line in DOCKERFILE
    assert re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)[-2:] == ["cuda", "cpu"]


def test_mounts_and_secrets_lead_somewhere() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists()
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["deploy"]["resources"]["limits"]


def test_what_the_image_installs_is_locked_by_hash() -> None:
    """The pins are those of requirements.lock, each with its hashes, and nothing that the server needs is missing but torch."""

    def name(line: str) -> str:
        return re.split(r"[=<>\[ ;!~]", line)[0].lower().replace("_", "-").replace(".", "-")

    blocks = re.split(r"\n(?! )", (ROOT / "docker" / "requirements.txt").read_text().strip())[1:]
    assert all(re.match(r"\S+==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    hashed = {name(block): block.split()[0].split("==")[1] for block in blocks}
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {name(line): line.split("==")[1] for line in lines if "==" in line}
    assert {found: version for found, version in hashed.items() if locked.get(found, version) != version} == {}
    assert hashed.keys() - locked.keys() <= {"setuptools", "async-timeout"}  # which `pip freeze` leaves out, or an older Python needs
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {name(line) for line in [*project["dependencies"], *project["optional-dependencies"]["otel"]]}
    assert needed - hashed.keys() == {"torch"}
