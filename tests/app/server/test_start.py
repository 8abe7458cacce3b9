"""What keeps a server from starting is told in one line, with the name to fix."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app import __version__

pytestmark = pytest.mark.service
CASES = [
    ({"HOST": "0.0.0.0"}, "LARIMAR_HOST=0.0.0.0 is reachable from outside and there is no API key"),
    ({"STORE_URL": "redis://127.0.0.1:1"}, "the store does not answer (ConnectionError"),
    ({"HOST": "no-such-host.invalid"}, "cannot listen on no-such-host.invalid"),
    ({"DATA_DIR": "/dev/null/larimar"}, "set LARIMAR_DATA_DIR"),
]


def started(folder: Path, *words: str, **own: str) -> subprocess.CompletedProcess[str]:
    chosen = {"PORT": "0", "DATA_DIR": str(folder), "LOG_LEVEL": "critical"} | own
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LARIMAR_")}
    environment |= {f"LARIMAR_{name}": value for name, value in chosen.items()}
    command = [sys.executable, "-m", "app", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("own", "says"), CASES, ids=[says for _, says in CASES])
def test_one_line_says_why(tmp_path: Path, own: dict[str, str], says: str) -> None:
    done = started(tmp_path, **own)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("larimar: starting on")]
    assert done.returncode == 1
    assert len(lines) == 1 and lines[0].startswith("larimar: ") and says in lines[0], done.stderr


def test_words_after_the_module_are_a_command(tmp_path: Path) -> None:
    assert started(tmp_path, "version").stdout == f"{__version__}\n"


def test_options_of_serve_come_before_the_settings(tmp_path: Path) -> None:
    done = started(tmp_path, "serve", "--host", "no-such-host.invalid", HOST="127.0.0.1")
    assert done.returncode == 1 and "cannot listen on no-such-host.invalid:0" in done.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = started(tmp_path, "serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1 and "is in use; set LARIMAR_PORT" in done.stderr


def test_a_server_that_is_ended_says_that_it_drains_and_that_it_has_stopped(tmp_path: Path) -> None:
    environment = os.environ | {"LARIMAR_PORT": "0", "LARIMAR_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.app.toy_server"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = []
        for line in process.stderr:
            events.append(json.loads(line)["event"])
            if events[-1] == "ready":
                process.send_signal(signal.SIGTERM)
    assert events[-3:] == ["ready", "draining", "stopped"]
    assert process.returncode in (0, -signal.SIGTERM)
