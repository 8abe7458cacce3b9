"""A server process on a toy model, served as the real one is: settings from the environment, SIGTERM drains."""

from __future__ import annotations

from app.cli.serve import bind, run, settings_or_exit
from app.server.logs import configure
from tests.app.serving import toy_model

if __name__ == "__main__":
    settings = settings_or_exit()
    configure(settings.log_level)
    run(settings, [bind(settings.host, settings.port)], toy_model)
