"""One of several processes that serve on one port: what its supervisor starts, and how the two talk.

The worker is given its task as a line of JSON on stdin, and a second line when it may load models. It says on stdout
where it listens, or why it cannot. Once stdin ends, its supervisor is gone, and the worker drains.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from headwise_server import logs
from headwise_server.cli import handle_signals

SHOWN_CHARACTERS = 10_000  # of an error; one that names every bundle has no end


@dataclass(frozen=True)
class Task:
    """What a worker is started with."""

    settings: dict[str, Any]  # as JSON has them
    folder: str  # of the workers' sockets
    number: int
    generation: int  # how many workers had the number before

    def line(self) -> bytes:
        """As the worker reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def _to_supervisor() -> TextIO:
    """What stdout was; whatever else is printed from now on, also by a runtime, goes to stderr."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return events


def _follow(may_load: threading.Event) -> None:
    """Read what the supervisor says until it is gone."""
    if sys.stdin.readline():
        may_load.set()
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Entry point of `python -m headwise_server.worker`."""
    handle_signals()
    from headwise_server.app import START_ERRORS, Host, end_process, serve
    from headwise_server.engines import create
    from headwise_server.peers import Peers
    from headwise_server.settings import Settings

    events = _to_supervisor()

    def say(**event: str) -> None:
        print(json.dumps(event), file=events, flush=True)

    task = Task(**json.loads(sys.stdin.readline()))
    settings = Settings.model_validate(task.settings)
    logs.configure(settings.log_format, settings.log_level, access_log=settings.access_log, worker=task.number)
    may_load = threading.Event()
    threading.Thread(target=_follow, args=(may_load,), daemon=True).start()

    async def wait_to_load() -> None:
        await asyncio.to_thread(may_load.wait)

    host = Host(
        lambda address: say(listening=address),
        end_process,
        Peers(Path(task.folder), task.number, task.generation),
        wait_to_load,
        loads_first=task.generation > 0,
    )
    try:
        asyncio.run(serve(settings, create(settings.engine), host))
    except START_ERRORS as error:
        say(error=str(error)[:SHOWN_CHARACTERS])
        sys.exit(1)


if __name__ == "__main__":
    main()
