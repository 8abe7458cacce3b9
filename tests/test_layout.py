"""The import law and the hygiene of the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "memory", "models")
MAY_IMPORT = {"app": ("app", "memory", "models"), "models": ("models", "memory.algebra"), "memory": ("memory",)}
ONLY_APP = ("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic_settings", "structlog", "typer", "httpx")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")[:-1]


def imported(tree: ast.AST) -> list[str]:
    """Full names of what a module imports: `from memory import algebra` is memory.algebra."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def within(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


def test_the_law_is_read_from_every_form_of_import() -> None:
    source = "import memory.store\nfrom memory import algebra\nfrom memory.page import Page\ndef f():\n    import app.main"
    assert imported(ast.parse(source)) == ["memory.store", "memory.algebra", "memory.page.Page", "app.main"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_law(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = imported(ast.parse(path.read_text()))
    ours = [name for name in names if name.split(".")[0] in (*PACKAGES, "tests")]
    broken = [name for name in ours if not any(within(name, allowed) for allowed in MAY_IMPORT[package])]
    assert not broken, f"{package} may import {MAY_IMPORT[package]}"
    if package != "app":
        assert not [name for name in names if name.split(".")[0] in ONLY_APP]
    assert not [name for name in names if name.split(".")[0] in ("pickle", "marshal", "shelve", "dill", "joblib")]


@pytest.mark.parametrize("package", ["memory", "models"])
def test_only_app_reads_settings(package: str) -> None:
    readers = [path for path in (ROOT / package).rglob("*.py") if "LARIMAR_" in re.sub(r'f?"[^"\n]*"|#.*', "", path.read_text())]
    assert not readers


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_named_by_nouns(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in ("utils", "util", "helpers", "common", "misc", "manager")
    classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if name.endswith(("Manager", "Helper", "Utils"))]


@pytest.mark.skipif(not TRACKED, reason="not a git checkout")
def test_nothing_private_is_tracked() -> None:
    private = re.compile(
        rb"(?:/home/|/root/|/Users/|/work/)\w|BEGIN [A-Z ]*PRIVATE KEY|--(?:extra-)?index-url[ =]h|//[^/\s:@]+:[^/\s:@$<{]{12,}@"
    )
    found = []
    for name in TRACKED:
        path = ROOT / name
        if path.suffix not in (".safetensors", ".png", ".gz") and path.is_file() and path != Path(__file__):
            found += [f"{name}: {line.decode(errors='replace')}" for line in path.read_bytes().splitlines() if private.search(line)]
    assert not found
    assert not [name for name in TRACKED if name.endswith((".pem", ".key", ".env", ".rdb", ".aof", ".pkl", ".pt", ".bin"))]
    assert not [name for name in TRACKED if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 40 * 2**20]
