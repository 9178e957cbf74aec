"""What `headwise-server` takes and does."""

import asyncio
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from headwise.bundle import BundleError
from headwise.cores import usable_cores
from headwise.entry import version_callback
from headwise.text import shown
from rich.console import Console
from rich.text import Text

from headwise_server import checking
from headwise_server.app import Settings, serve
from headwise_server.engines import AUTO, MODULES, Engine, EngineError, create
from headwise_server.http.listener import ListenError
from headwise_server.loading import LoadSettings, remove_copies
from headwise_server.repository import RepositoryError, nothing_in, scan_repository

logger = logging.getLogger(__name__)
START_ERRORS = (BundleError, EngineError, ListenError, RepositoryError)

app = typer.Typer(pretty_exceptions_enable=False)


def _announce(address: str) -> None:
    print(f"listening on {address}", flush=True)


def _end_process() -> None:
    """End at once, with what stands in a thread or waits in gRPC."""
    remove_copies()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _check(settings: Settings, engine: Engine, as_json: bool) -> bool:
    """Print what is known of every bundle; whether all would be served."""
    folders = scan_repository(settings.repository)
    for line in folders.skipped:
        logger.info("skipped: %s", line)
    loading = LoadSettings(engine, settings.precision, settings.streams, settings.max_batch)
    bundles = list(checking.check(folders, loading))
    if not bundles:
        raise RepositoryError(nothing_in(settings.repository))
    if as_json:
        print(json.dumps([asdict(bundle) for bundle in bundles], indent=2))
    else:
        out = Console()
        out.print(checking.table(bundles))
        for bundle in bundles:
            if bundle.problem:
                out.print(Text(shown(f"{bundle.name} version {bundle.version}: {bundle.problem}")), soft_wrap=True)
    return not any(bundle.problem for bundle in bundles)


@app.command()
def run(
    repository: Annotated[
        Path, typer.Option(envvar="HEADWISE_REPOSITORY", help="Folder of bundles, <name>/<version>/manifest.json.")
    ],
    listen: Annotated[
        str, typer.Option(envvar="HEADWISE_LISTEN", help="Address and port; port 0 takes a free one.")
    ] = "127.0.0.1:50051",
    http_listen: Annotated[
        str,
        typer.Option(envvar="HEADWISE_HTTP_LISTEN", help="Address and port of HTTP and metrics; none unless given."),
    ] = "",
    engine: Annotated[
        str,
        typer.Option(
            envvar="HEADWISE_ENGINE", help=f"One of: {', '.join((AUTO, *MODULES))}; never another in silence."
        ),
    ] = AUTO,
    precision: Annotated[
        str,
        typer.Option(
            envvar="HEADWISE_PRECISION",
            help="Of Classify: f32, or auto for bf16 where the processor has it and the golden set passes.",
        ),
    ] = "auto",
    streams: Annotated[
        int, typer.Option(envvar="HEADWISE_STREAMS", min=0, help="Batches at a time; 0 for one for each core.")
    ] = 0,
    max_batch: Annotated[int, typer.Option(envvar="HEADWISE_MAX_BATCH", min=1, help="Images in a batch.")] = 8,
    max_queue: Annotated[int, typer.Option(envvar="HEADWISE_MAX_QUEUE", min=1, help="Images that may wait.")] = 1024,
    max_calls: Annotated[
        int, typer.Option(envvar="HEADWISE_MAX_CALLS", min=1, help="Calls in hand; more are refused.")
    ] = 2048,
    max_message_mib: Annotated[
        int, typer.Option(envvar="HEADWISE_MAX_MESSAGE_MIB", min=1, help="Largest message, in MiB.")
    ] = 32,
    max_reply_mib: Annotated[
        int,
        typer.Option(envvar="HEADWISE_MAX_REPLY_MIB", min=1, help="Largest reply, in MiB; stock clients take 4."),
    ] = 4,
    memory_mib: Annotated[
        int,
        typer.Option(envvar="HEADWISE_MEMORY_MIB", min=1, help="Memory for requests and replies in hand, in MiB."),
    ] = 1024,
    decoding_mib: Annotated[
        int,
        typer.Option(envvar="HEADWISE_DECODING_MIB", min=1, help="Memory for images being decoded, in MiB."),
    ] = 1024,
    stuck_seconds: Annotated[
        float,
        typer.Option(
            envvar="HEADWISE_STUCK_SECONDS", min=0, help="Time a batch may run before health says NOT_SERVING."
        ),
    ] = 30.0,
    lame_duck_seconds: Annotated[
        float,
        typer.Option(envvar="HEADWISE_LAME_DUCK_SECONDS", min=0, help="Time to go on accepting calls when stopped."),
    ] = 0.5,
    grace_seconds: Annotated[
        float, typer.Option(envvar="HEADWISE_GRACE_SECONDS", min=0, help="Time to finish calls when stopped.")
    ] = 20.0,
    strict: Annotated[
        bool, typer.Option(envvar="HEADWISE_STRICT", help="Do not start if one bundle cannot be served.")
    ] = False,
    reload_seconds: Annotated[
        float,
        typer.Option(
            envvar="HEADWISE_RELOAD_SECONDS",
            min=0,
            help="Between two looks for new or changed bundles; 0 for none.",
        ),
    ] = 0.0,
    keep_versions: Annotated[
        int,
        typer.Option(
            envvar="HEADWISE_KEEP_VERSIONS", min=0, help="Newest versions of each model that stay loaded; 0 for all."
        ),
    ] = 0,
    max_slowdown: Annotated[
        float,
        typer.Option(
            envvar="HEADWISE_MAX_SLOWDOWN",
            min=0,
            help="Largest time of a new version, as a multiple of that of the version it replaces; 0 for any.",
        ),
    ] = 4.0,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check every bundle on this machine, print a table, and serve nothing."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON.")] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_callback("headwise-server"), is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Serve bundles over gRPC: Classify and Explain, health, reflection. SIGTERM drains."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    if precision not in ("auto", "f32"):
        raise typer.BadParameter(f"expected auto or f32, found {precision!r}", param_hint="--precision")
    settings = Settings(
        repository=repository,
        listen=listen,
        precision=precision,
        streams=streams or usable_cores(),
        max_batch=max_batch,
        max_queue=max_queue,
        max_calls=max_calls,
        max_message_mib=max_message_mib,
        max_reply_mib=max_reply_mib,
        memory_mib=memory_mib,
        decoding_mib=decoding_mib,
        stuck_seconds=stuck_seconds,
        lame_duck_seconds=lame_duck_seconds,
        grace_seconds=grace_seconds,
        strict=strict,
        keep_versions=keep_versions,
        reload_seconds=reload_seconds,
        max_slowdown=max_slowdown,
        http_listen=http_listen,
    )
    try:
        if check:
            raise typer.Exit(0 if _check(settings, create(engine), as_json) else 1)
        asyncio.run(serve(settings, create(engine), _announce, _end_process))
    except START_ERRORS as error:
        print(f"headwise-server: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
