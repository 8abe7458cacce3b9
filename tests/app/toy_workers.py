"""Several worker processes on a toy model, supervised as the real ones are."""

from __future__ import annotations

import sys

from app.cli.serve import bind, settings_or_exit
from app.cli.workers import supervise, work
from tests.app.serving import toy_model

if __name__ == "__main__":
    if sys.argv[1:]:
        work(int(sys.argv[1]), [int(fd) for fd in sys.argv[2].split(",")], toy_model)
    else:
        settings = settings_or_exit()
        assert settings.admin_port is not None
        shared = bind(settings.host, settings.port)
        rows = [[shared, bind(settings.admin_host, settings.admin_port + number)] for number in range(settings.workers)]
        raise SystemExit(supervise(settings, rows, "tests.app.toy_workers"))
