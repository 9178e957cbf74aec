"""What `headwise-server` takes and does."""

import asyncio
import inspect
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from headwise.cores import usable_cores
from headwise.entry import version_callback
from headwise.text import shown
from rich.console import Console
from rich.text import Text

from headwise_server import checking, logs, settings
from headwise_server.app import START_ERRORS, Host, end_process, serve
from headwise_server.engines import Engine, create
from headwise_server.loading import LoadSettings
from headwise_server.repository import RepositoryError, nothing_in, scan_repository
from headwise_server.settings import Settings, SettingsError, Sourced
from headwise_server.supervisor import WorkerError, supervise
from headwise_server.tokens import TokensError, make_token

logger = logging.getLogger(__name__)

METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}

app = typer.Typer(pretty_exceptions_enable=False)


def _announce(address: str) -> None:
    print(f"listening on {address}", flush=True)


def _check(chosen: Settings, engine: Engine, as_json: bool) -> bool:
    """Print what is known of every bundle; whether all would be served."""
    folders = scan_repository(chosen.repository)
    for line in folders.skipped:
        logger.info("skipped: %s", line)
    loading = LoadSettings(engine, chosen.precision, chosen.streams, chosen.max_batch)
    bundles = list(checking.check(folders, loading))
    if not bundles:
        raise RepositoryError(nothing_in(chosen.repository))
    if as_json:
        print(json.dumps([asdict(bundle) for bundle in bundles], indent=2))
    else:
        out = Console()
        out.print(checking.table(bundles))
        for bundle in bundles:
            if bundle.problem:
                out.print(Text(shown(f"{bundle.name} version {bundle.version}: {bundle.problem}")), soft_wrap=True)
    return not any(bundle.problem for bundle in bundles)


def _options() -> Iterator[inspect.Parameter]:
    """An option for each setting; none has a default here, so that what was given is known."""
    for name, field in Settings.model_fields.items():
        kind = settings.kind(field)
        default = False if field.is_required() else str(field.default)
        info = typer.Option(
            envvar=settings.variable(name),
            help=field.description,
            metavar=METAVARS.get(kind),
            show_default=False if field.default is None else default,
        )
        annotation = Annotated[(bool if kind is bool else str) | None, info]  # type: ignore[valid-type]  # made at run time
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _sourced(context: typer.Context, config: Path | None) -> Sourced:
    """The settings that the command was given."""
    layers: dict[str, dict[str, Any]] = {"COMMANDLINE": {}, "ENVIRONMENT": {}}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name in Settings.model_fields and source and source.name in layers:
            layers[source.name][name] = value
    try:
        file = settings.read_file(config) if config else {}
        return settings.resolve(layers["COMMANDLINE"], layers["ENVIRONMENT"], file, config)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from None


def _make_token(name: str) -> None:
    """Print a token on stderr, which is nowhere else, and its lines on stdout, which go into a file."""
    try:
        token, lines = make_token(name)
    except TokensError as error:
        raise typer.BadParameter(str(error), param_hint="--make-token") from None
    print(f"The token, which is shown this once: {token}", file=sys.stderr)
    print(lines, end="")


def run(
    context: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(envvar="HEADWISE_CONFIG", metavar="FILE", help="TOML file of settings, by name: max_batch = 8."),
    ] = None,
    make_token_for: Annotated[
        str | None,
        typer.Option("--make-token", metavar="NAME", help="Print a new token, and its lines for --tokens."),
    ] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print the settings, and where each comes from; serve nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check every bundle and print what is known; serve nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON.")] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_callback("headwise-server"), is_eager=True, help="Show the version and leave."
        ),
    ] = False,
    **_: object,
) -> None:
    """Serve bundles over gRPC: Classify and Explain, health, reflection. SIGTERM drains."""
    logs.configure()
    if make_token_for is not None:
        _make_token(make_token_for)
        return
    sourced = _sourced(context, config)
    if show_settings:
        print("\n".join(sourced.lines()))
        return
    chosen = sourced.settings
    logs.configure(chosen.log_format, chosen.log_level, access_log=chosen.access_log)
    chosen = chosen.model_copy(update={"streams": chosen.streams or usable_cores()})
    try:
        if check:
            raise typer.Exit(0 if _check(chosen, create(chosen.engine), as_json) else 1)
        if chosen.workers > 1:
            asyncio.run(supervise(chosen, _announce))
        else:
            asyncio.run(serve(chosen, create(chosen.engine), Host(_announce, end_process)))
    except (*START_ERRORS, WorkerError) as error:
        print(f"headwise-server: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


_own = [parameter for parameter in inspect.signature(run).parameters.values() if parameter.name != "_"]
run.__signature__ = inspect.Signature([_own[0], *_options(), *_own[1:]])  # type: ignore[attr-defined]  # typer reads it
app.command()(run)
