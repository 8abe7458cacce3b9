"""The documents say what is: settings, targets of the Makefile, links and the version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from reference import PARTS, render

from app import __version__
from app.server.settings import CLIENT_NAMES, PREFIX, REPLACED, Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
READERS = [*DOCUMENTS, ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(ROOT / "docker").rglob("*.y*ml"), ROOT / "Makefile"]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", READERS, ids=relative)
def test_settings_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"\bLARIMAR_[A-Z][A-Z_]*[A-Z]\b", path.read_text()))
    told = set(REPLACED) if path.suffix == ".md" else set()  # documents say what takes their place
    assert not named - SETTINGS - set(CLIENT_NAMES) - told


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("name", PARTS)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / PARTS[name][0]).read_text() == render(name), "run `make reference`"


def test_the_version_is_the_changelogs_first() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first.group(1) == project["version"] == __version__


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_and_make_targets_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    assert not [link for link in links if not (path.parent / link).exists()]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert not set(re.findall(r"(?:^ +|`)make ([a-z]+)", text, re.MULTILINE)) - targets


def paths_in(document: str) -> set[str]:
    return set(re.findall(r"`((?:app|memory|models|tests|docker|docs)/[\w/.]*)`", (ROOT / document).read_text()))


@pytest.mark.parametrize("document", ["docs/code.md", "docs/glossary.md", "CONTRIBUTING.md"])
def test_files_that_a_map_names_are_there(document: str) -> None:
    named = paths_in(document)
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_the_code_map_names_every_package() -> None:
    named = paths_in("docs/code.md")
    packages = [relative(path.parent) for top in ("app", "memory", "models") for path in (ROOT / top).rglob("__init__.py")]
    assert not [name for name in packages if "/" in name and not any(f"{found}/".startswith(f"{name}/") for found in named)]


def test_every_requirement_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {re.split(r"[=<>\[ ;]", line)[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert not {re.split(r"[=<>\[ ;]", name)[0].lower().replace("_", "-") for name in wanted} - locked


def test_the_documentation_builds_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "security" / "index.html").exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_curl_names_its_host(path: Path) -> None:
    """`curl :8080/…` is refused: "URL using bad/illegal format or missing URL"."""
    assert not re.findall(r"curl [^\n|]*\s:\d+/", path.read_text())
