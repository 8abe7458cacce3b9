"""The import law and the hygiene of the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "memory", "models")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")[:-1]

# The import law: the parts of the code, and which other parts each may import. A module is of the part with the longest name that
# it is within.
READING = {"memory.readable", "memory.fact_index", "memory.episodic", "memory.excerpt", "memory.scope.two_hops"}
MEMORY = {"memory", "memory.scope", "memory.store", *READING}
MODELS = {"models", "models.engine", "models.scope"}
INSTRUMENTS = {
    f"app.server.{name}"
    for name in ("settings", "metrics", "tracing", "logs", "background", "shield", "measured_store", "model_loading")
}
BELOW_TENANTS = {"app", *MEMORY, *MODELS, *INSTRUMENTS, "app.inference"}  # app alone is the version
BELOW_SERVICE = {*BELOW_TENANTS, "app.tenants", "app.access"}
BELOW_HTTP = {*BELOW_SERVICE, "app.service"}
TRAINING = {"models.training", "models.evaluation"}
EVERYTHING = {*BELOW_HTTP, *TRAINING, "app.http", "app.server", "app.client", "app.cli", "app.bench", "app.chaos", "app.experiments"}
LAW: dict[str, set[str]] = {
    "memory": set(),
    "memory.scope": {"memory"},
    **{name: {"memory", "memory.scope", *READING} for name in READING},  # who reads facts asks scope, and not the other way round
    "memory.store": {"memory"},
    "models": {"models.engine", "models.scope"},
    "models.engine": {"models"},
    "models.scope": {"models"},
    "models.scope.learned": {"models", "models.scope", "memory", "memory.scope"},  # the detector that a memory is given
    "models.training": {*MODELS, "models.evaluation"},
    "models.evaluation": {*MODELS, "models.training"},
    **{name: {"app", *MEMORY, *MODELS, "models.scope.learned", *INSTRUMENTS} for name in INSTRUMENTS},
    "app": set(),
    "app.inference": {*MODELS, *INSTRUMENTS},
    "app.access": {*MEMORY, *INSTRUMENTS},
    "app.tenants": BELOW_TENANTS,
    "app.service": BELOW_SERVICE,
    "app.http": BELOW_HTTP,
    "app.server": {*BELOW_HTTP, "app.http"},
    "app.client": {"app", "app.http"},
    **{name: EVERYTHING for name in ("app.__main__", "app.cli", "app.bench", "app.chaos", "app.experiments")},
}
HTTP_ONLY = ("fastapi", "starlette", "uvicorn", "sse_starlette", "pydantic", "pydantic_core")
STARTS = tuple(f"app.server.{name}" for name in ("main", "settings", "draining", "uvicorn_protocol"))
MAY_HTTP = ("app.http", "app.cli", "app.client", "app.bench", *STARTS)
APP_ONLY = (*HTTP_ONLY, "pydantic_settings", "prometheus_client", "structlog", "typer", "httpx")
UNSAFE = ("pickle", "marshal", "shelve", "dill", "joblib")
NOT_SERVED = ("models.training", "models.evaluation", "app.bench", "app.chaos", "app.experiments")
LINES = 700


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in SOURCES}


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


def module_of(name: str) -> str:
    """The module of ours that a name is or is in; the name itself of others' modules."""
    module = name.rpartition(".")[0]
    return module if name not in MODULES and module in MODULES else name


IMPORTS = {name: [module_of(found) for found in imported(ast.parse(path.read_text()))] for name, path in MODULES.items()}


def within(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


def part_of(name: str) -> str:
    """The longest name in the law that a module is within."""
    return max((part for part in LAW if within(name, part)), key=len)


def lawful(module: str, name: str) -> bool:
    """Whether a module may import another."""
    here, there = part_of(module), part_of(name)
    return here == there or there in LAW[here]


def test_the_law_is_read_from_every_form_of_import() -> None:
    source = "import memory.store\nfrom memory import algebra\nfrom memory.page import Page\ndef f():\n    import app.main"
    assert imported(ast.parse(source)) == ["memory.store", "memory.algebra", "memory.page.Page", "app.main"]
    assert module_of("memory.page.Page") == "memory.page"
    assert lawful("app.http.problems", "app.service") and not lawful("app.service", "app.http.problems")
    assert lawful("memory.store.commit", "memory.fact") and not lawful("memory.fact", "memory.store.commit")
    assert not lawful("memory.fact", "models.model") and not lawful("app.server.main", "models.training.corpus")


def test_import_law() -> None:
    ours = {(name, other) for name, others in IMPORTS.items() for other in others if other.split(".")[0] in (*PACKAGES, "tests")}
    assert not {(name, other) for name, other in ours if not lawful(name, other)}
    foreign = {(name, other.split(".")[0]) for name, others in IMPORTS.items() for other in others}
    assert not {(name, other) for name, other in foreign if other in UNSAFE}
    assert not {(name, other) for name, other in foreign if other in APP_ONLY and not within(name, "app")}
    below_http = {name for name in MODULES if within(name, "app") and not any(within(name, one) for one in MAY_HTTP)}
    assert not {(name, other) for name, other in foreign if other in HTTP_ONLY and name in below_http}


def test_a_server_imports_neither_training_nor_evaluation() -> None:
    reached, waiting = set[str](), ["app.server.main"]
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in reached:
            reached.add(name)
            waiting += [*IMPORTS[name], name.rpartition(".")[0]]
    assert "app.tenants.tenants" in reached and "models.engine.decoder" in reached
    assert not [name for name in reached if any(within(name, other) for other in NOT_SERVED)]


@pytest.mark.parametrize("package", ["memory", "models"])
def test_only_app_reads_settings(package: str) -> None:
    readers = [path for path in (ROOT / package).rglob("*.py") if "LARIMAR_" in re.sub(r'f?"[^"\n]*"|#.*', "", path.read_text())]
    assert not readers


def test_files_are_found_by_their_names() -> None:
    """No two of one name, but what every folder has and what stands in cli/ and routes/ under the name of its subject."""
    free = [path for path in SOURCES if path.stem not in ("__init__", "__main__", "errors") and path.parent.name not in ("cli", "routes")]
    twice = {path.name for path in free if sum(other.name == path.name for other in free) > 1}
    assert not twice
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "helpers", "common", "misc", "manager")]
    assert not [path for path in SOURCES if len(path.read_text().splitlines()) > LINES]
    classes = {node.name for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)}
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
