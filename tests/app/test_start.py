"""What keeps a server from starting is told in one line, with the name to fix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.service
CASES = [
    ({"HOST": "0.0.0.0"}, "LARIMAR_HOST=0.0.0.0 is reachable from outside and there is no API key"),
    ({"STORE_URL": "redis://127.0.0.1:1"}, "the store does not answer (ConnectionError"),
    ({"HOST": "no-such-host.invalid"}, "cannot listen on no-such-host.invalid"),
    ({"DATA_DIR": "/dev/null/larimar"}, "set LARIMAR_DATA_DIR"),
]


@pytest.mark.parametrize(("own", "says"), CASES, ids=[says for _, says in CASES])
def test_one_line_says_why(tmp_path: Path, own: dict[str, str], says: str) -> None:
    chosen = {"PORT": "0", "DATA_DIR": str(tmp_path), "LOG_LEVEL": "critical"} | own
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LARIMAR_")}
    environment |= {f"LARIMAR_{name}": value for name, value in chosen.items()}
    done = subprocess.run([sys.executable, "-m", "app"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("larimar: starting on")]
    assert done.returncode == 1
    assert len(lines) == 1 and lines[0].startswith("larimar: ") and says in lines[0], done.stderr
