"""Several processes that serve on one port: one event loop gives what one core gives.

The supervisor holds the port, starts the workers, puts another in the place of one that has ended, and hands on the
signal to stop; it answers no call itself. The kernel spreads connections over the workers, and each stays with its
own: a client with a single connection has a single worker. Models are loaded by each for itself: the runtimes keep
weights in a form of their own, which processes cannot share.
"""

import asyncio
import json
import logging
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from headwise_server.addresses import MAX_PATH_BYTES, ListenError, TcpAddress, parse, reserved
from headwise_server.app import stop_event
from headwise_server.peers import socket_name
from headwise_server.settings import MAX_WORKERS, Settings
from headwise_server.worker import Task

logger = logging.getLogger(__name__)
RESTART_SECONDS, LONGEST_RESTART_SECONDS = 1.0, 60.0  # before another worker is started; doubles each time
CALM_SECONDS = 60.0  # of a worker's life, after which its end is the first again
MAX_EVENT_BYTES = 2**20
END_SECONDS = 10.0  # for workers to end, beside the time to finish calls
WORKER = (sys.executable, "-m", "headwise_server.worker")


class WorkerError(Exception):
    """The workers cannot start; the message is that of one of them."""


class _Workers:
    """The workers of a server, one for each number. Belongs to one event loop."""

    def __init__(self, settings: Settings, folder: Path, on_listening: Callable[[str], None]) -> None:
        self._settings, self._folder, self._on_listening = settings, folder, on_listening
        self._running: dict[int, Process] = {}
        self._addresses: list[list[str]] = [[] for _ in range(settings.workers)]  # where each listens, while they start
        self._stopping, self._may_load = asyncio.Event(), asyncio.Event()

    async def keep(self, number: int) -> None:
        """Have a worker of that number, and another when it ends, until the server is stopped.

        Raises:
            WorkerError: the first one cannot serve.
        """
        generation, pause_seconds, clock = 0, RESTART_SECONDS, asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            task = Task(self._settings.share.model_dump(mode="json"), str(self._folder), number, generation)
            try:
                end = f"ended with status {await self._life(task)}"
            except OSError as error:  # the machine has no process or file descriptor left
                if not generation:
                    raise WorkerError(f"a worker cannot be started: {error}.") from error
                end = f"cannot be started: {error}"
            if self._stopping.is_set():
                return
            if clock() - started > CALM_SECONDS:
                pause_seconds = RESTART_SECONDS
            logger.error("worker %d %s; another starts in %.0f s", number, end, pause_seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_seconds)
            generation, pause_seconds = generation + 1, min(2 * pause_seconds, LONGEST_RESTART_SECONDS)

    async def _life(self, task: Task) -> int:
        """A worker from its start to its end; its status."""
        process = await asyncio.create_subprocess_exec(*WORKER, stdin=PIPE, stdout=PIPE, limit=MAX_EVENT_BYTES)
        self._running[task.number] = process
        if self._stopping.is_set():  # meanwhile
            process.terminate()
        loading = asyncio.ensure_future(self._instruct(process, task))
        error, self._addresses[task.number] = "", []
        while line := await process.stdout.readline():  # type: ignore[union-attr]  # it is a pipe
            event = json.loads(line)
            error = event.get("error", "")
            if "listening" in event:
                self._listens(task.number, event["listening"])
        status = await process.wait()
        loading.cancel()
        del self._running[task.number]
        (self._folder / socket_name(task.number, task.generation)).unlink(missing_ok=True)
        if error and not task.generation:
            raise WorkerError(error)
        if error:
            logger.error("worker %d cannot serve: %s", task.number, error)
        return status

    async def _instruct(self, process: Process, task: Task) -> None:
        """Give a worker its task, and let it load models when all are there to share the connections."""
        with suppress(ConnectionError):  # it has ended already
            for line in (task.line(), b"load\n"):
                process.stdin.write(line)  # type: ignore[union-attr]  # it is a pipe
                await process.stdin.drain()  # type: ignore[union-attr]  # it is a pipe
                await self._may_load.wait()

    def _listens(self, number: int, address: str) -> None:
        """Take note of where a worker listens; once all do everywhere, they may load models."""
        self._addresses[number].append(address)
        ports = 1 + bool(self._settings.http_listen)
        if not self._may_load.is_set() and all(len(addresses) == ports for addresses in self._addresses):
            self._may_load.set()
            for bound in self._addresses[0]:
                self._on_listening(bound)

    async def end(self) -> None:
        """Stop all, and return when they have ended."""
        self._stopping.set()
        processes = list(self._running.values())
        for process in processes:
            with suppress(ProcessLookupError):
                process.terminate()
        seconds = self._settings.lame_duck_seconds + self._settings.grace_seconds + END_SECONDS
        ends = [asyncio.ensure_future(process.wait()) for process in processes]
        if ends and (await asyncio.wait(ends, timeout=seconds))[1]:
            logger.error("workers that have not ended after %.0f s are killed", seconds)
            for process in processes:
                with suppress(ProcessLookupError):
                    process.kill()


@contextmanager
def _folder_of_sockets() -> Iterator[str]:
    """A folder that the user alone can enter, gone at the end.

    Raises:
        ListenError: there is none to be had, or its path is too long for a socket.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="headwise-server-")
    except OSError as error:
        raise ListenError(f"expected a folder for temporary files, found none that can be written: {error}.") from error
    with folder as name:
        size_bytes = len(os.fsencode(Path(name, socket_name(MAX_WORKERS, 10**6))))
        if size_bytes > MAX_PATH_BYTES:
            raise ListenError(
                f"expected paths of at most {MAX_PATH_BYTES} bytes for the workers' sockets, found {size_bytes} in "
                f"{name}. Set TMPDIR to a folder with a shorter path."
            )
        yield name


async def supervise(settings: Settings, on_listening: Callable[[str], None]) -> None:
    """Serve with several workers until SIGTERM or SIGINT.

    Args:
        on_listening: called with each address once all workers listen there; health says when models are served.

    Raises:
        ListenError: an address cannot be had.
        WorkerError: the workers cannot serve.
    """
    stopping = asyncio.ensure_future(stop_event().wait())
    with ExitStack() as stack:
        ports = {}
        for name in ("listen", "http_listen"):
            if text := getattr(settings, name):
                address = parse(text)
                assert isinstance(address, TcpAddress)  # noqa: S101  # the settings are checked
                ports[name] = str(stack.enter_context(reserved(address)))
        folder = Path(stack.enter_context(_folder_of_sockets()))
        workers = _Workers(settings.model_copy(update=ports), folder, on_listening)
        kept = [asyncio.ensure_future(workers.keep(number)) for number in range(settings.workers)]
        try:
            await asyncio.wait((stopping, *kept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await workers.end()
            ends = await asyncio.gather(*kept, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
