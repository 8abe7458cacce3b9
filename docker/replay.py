"""Replays what the Dockerfile does to build the image, without Docker: `python docker/replay.py`.

The COPY and RUN steps of the stages up to the weights run in the Dockerfile's order in an empty folder, with the
image's paths moved under it; then the installed server answers `larimar version` and the healthcheck is asked of it.
It shows that the steps work, not that a container runs: that takes a Docker engine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from app.bench.free_port import free_port

ROOT = Path(__file__).parents[1]
STAGES = ("dependencies", "server", "weights")


def instructions(text: str) -> Iterator[tuple[str, str, str]]:
    """(stage, instruction, arguments) of each line of a Dockerfile, continued lines joined."""
    stage = ""
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            if word == "FROM":
                stage = rest.split()[-1]
            yield stage, word, rest.strip()


def shell(arguments: str) -> str:
    """A RUN's command without its --mount flags."""
    return re.sub(r"--mount=\S+\s+", "", arguments)


def replay(folder: Path) -> dict[str, str]:
    """Run the stages with the image's paths under `folder`. Returns the environment they end with."""
    moved = {"/opt/larimar": folder / "opt", "/models": folder / "models", "/build": folder / "build"}

    def here(text: str) -> str:
        return re.sub(r"(?<![\w.])(/opt/larimar|/models|/build)\b", lambda match: str(moved[match.group(1)]), text)

    (folder / "build").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LARIMAR_", "VIRTUAL_ENV", "PYTHON"))}
    environment["PATH"] = f"{folder / 'opt' / 'bin'}:{environment['PATH']}"
    for stage, word, rest in instructions((ROOT / "Dockerfile").read_text()):
        if stage not in STAGES:
            continue
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = folder / "build" / (target if target != "./" else Path(source).name)
                shutil.copytree(ROOT / source, place) if (ROOT / source).is_dir() else shutil.copy(ROOT / source, place)
        elif word == "ENV":
            environment |= dict(here(pair).split("=", 1) for pair in rest.split())
        elif word == "RUN":
            print(f"{stage}: {shell(rest)}", flush=True)
            subprocess.run(["sh", "-ec", here(shell(rest))], cwd=folder / "build", env=environment, check=True)
    return environment


def healthy(environment: dict[str, str], folder: Path) -> None:
    """Start the installed server as the image does, ask the image's healthcheck, and stop it as the image is stopped."""
    environment = environment | {"LARIMAR_PORT": str(free_port()), "LARIMAR_DATA_DIR": str(folder / "data"), "HF_HUB_OFFLINE": "1"}
    check = next(rest for _, word, rest in instructions((ROOT / "Dockerfile").read_text()) if word == "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    server = subprocess.Popen(["larimar", "serve"], env=environment, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode:
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit("the healthcheck did not pass")
            time.sleep(0.5)
    finally:
        server.terminate()
    if (code := server.wait(60)) not in (0, -signal.SIGTERM):  # after draining uvicorn raises the signal again
        raise SystemExit(f"the server ended with {code} on SIGTERM")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="larimar-image-") as name:
        environment = replay(Path(name))
        subprocess.run(["larimar", "version"], env=environment, cwd=name, check=True)
        healthy(environment, Path(name))
    print("replayed: every step ran, the healthcheck passed, SIGTERM ended the server", file=sys.stderr)
