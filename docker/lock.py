"""Writes docker/requirements.txt: what the image installs, pinned as in requirements.lock, each file by its SHA-256. Needs uv.

torch is left out: it comes from PyPI or from the index of TORCH_INDEX, whose files differ. What torch itself needs is in.
"""

from __future__ import annotations

import subprocess
import tempfile
import tomllib
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docker" / "requirements.txt"
LEFT_OUT = ("torch", "triton")
HEAD = "# Written by `make lock`: what the image installs besides torch. pip refuses any file whose hash is not here.\n"
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")


def wanted() -> list[str]:
    """The requirements of the server, of its extra `otel`, and of torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    return [name for name in named if not name.startswith("torch")] + [name for name in requires("torch") or () if ";" not in name]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pins = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("torch==")]
        for file, lines in (("wanted.txt", wanted()), ("pins.txt", pins), ("left-out.txt", LEFT_OUT)):
            (folder / file).write_text("\n".join(lines) + "\n")
        command = ["uv", "pip", "compile", "wanted.txt", "-c", "pins.txt", "--excludes", "left-out.txt", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--quiet", *PLATFORM, "-o", "hashed.txt"]
        subprocess.run(command, cwd=folder, check=True)
        OUT.write_text(HEAD + (folder / "hashed.txt").read_text())


if __name__ == "__main__":
    main()
