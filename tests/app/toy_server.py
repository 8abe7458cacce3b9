"""A server process on a toy model, served as the real one is: settings from the environment, SIGTERM drains."""

from __future__ import annotations

import uvicorn

from app.cli.serve import bind, settings_or_exit, uvicorn_config
from app.main import create_app
from tests.app.serving import toy_model

if __name__ == "__main__":
    settings = settings_or_exit()
    app = create_app(settings, load=toy_model)
    uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[bind(settings.host, settings.port)])
