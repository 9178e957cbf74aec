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
from typing import Any

from headwise_server import logs
from headwise_server.cli import handle_signals


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


def say(**event: str) -> None:
    """Tell the supervisor."""
    print(json.dumps(event), flush=True)


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
        say(error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
